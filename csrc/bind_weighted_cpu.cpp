// Binds uniform and weighted candidates on the CPU to the operators of ops/schemas.
#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include "bind.h"
#include "kernels.h"

namespace {

using t4r::bind::empty;
using t4r::bind::kGrain;
using t4r::bind::scalar;
using t4r::bind::ScalarType;
using t4r::bind::Tensor;

uint64_t value_of(const Tensor& seed) {
  return static_cast<uint64_t>(*static_cast<const int64_t*>(seed.const_data_ptr()));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> uniform_sample(const Tensor& seed, int64_t num_samples, int64_t num_items,
                                                          int64_t min_id, bool unique) {
  const int64_t num_classes = num_items - min_id;
  const int64_t size = unique ? std::min(num_samples, num_classes) : num_samples;
  Tensor ids = empty({size}, ScalarType::Long);
  Tensor log_q = empty({size}, ScalarType::Float);
  auto* classes = static_cast<int64_t*>(ids.mutable_data_ptr());
  t4r::draw_uniform(value_of(seed), size, num_classes, unique, classes);
  for (int64_t i = 0; i < size; ++i) classes[i] += min_id;
  const auto q = std::log(static_cast<double>(size) / static_cast<double>(num_classes));
  std::fill_n(static_cast<float*>(log_q.mutable_data_ptr()), size, static_cast<float>(q));
  const bool whole = unique && size == num_classes;
  return {ids, log_q, scalar(whole ? std::numeric_limits<int64_t>::max() : size), scalar(size)};
}

std::tuple<Tensor, Tensor> alias_sample(const Tensor& seed, const Tensor& threshold, const Tensor& alias,
                                        int64_t num_samples, int64_t min_id, bool unique) {
  Tensor ids = empty({num_samples}, ScalarType::Long);
  auto* classes = static_cast<int64_t*>(ids.mutable_data_ptr());
  const int64_t tries = t4r::draw_weighted(value_of(seed), num_samples, threshold.numel(),
                                           static_cast<const float*>(threshold.const_data_ptr()),
                                           static_cast<const int32_t*>(alias.const_data_ptr()), unique, classes);
  for (int64_t i = 0; i < num_samples; ++i) classes[i] += min_id;
  return {ids, scalar(tries)};
}

Tensor log_expected_count(const Tensor& p, const Tensor& num_tries, bool unique) {
  const Tensor contiguous = p.is_contiguous() ? p : torch::stable::contiguous(p);
  Tensor log_q = empty(p.sizes(), ScalarType::Float);
  const auto tries = static_cast<double>(*static_cast<const int64_t*>(num_tries.const_data_ptr()));
  const auto* in = static_cast<const float*>(contiguous.const_data_ptr());
  auto* out = static_cast<float*>(log_q.mutable_data_ptr());
  torch::stable::parallel_for(0, p.numel(), kGrain, [&](int64_t begin, int64_t end) {
    t4r::log_expected_count(t4r::cpu_kernels(), in + begin, end - begin, tries, unique, out + begin);
  });
  return log_q;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(transformers4rec_ext, CPU, m) {
  m.impl("uniform_sample", TORCH_BOX(&uniform_sample));
  m.impl("log_expected_count", TORCH_BOX(&log_expected_count));
  m.impl("alias_sample", TORCH_BOX(&alias_sample));
}
