// Binds log-uniform candidates and sampled losses on the CPU to the operators of ops/schemas.
#include <limits>
#include <numeric>
#include <tuple>

#include "bind_sampled.h"
#include "kernels.h"

namespace {

using t4r::bind::empty;
using t4r::bind::kGrain;
using t4r::bind::over_rows;
using t4r::bind::scalar;
using t4r::bind::ScalarType;
using t4r::bind::Tensor;

void fill_log_q(const Tensor& ids, int64_t tries, int64_t num_items, int64_t min_id, bool unique, Tensor& log_q) {
  const auto* in = static_cast<const int64_t*>(ids.const_data_ptr());
  auto* out = static_cast<float*>(log_q.mutable_data_ptr());
  torch::stable::parallel_for(0, ids.numel(), kGrain, [&](int64_t begin, int64_t end) {
    t4r::log_uniform_log_q(t4r::cpu_kernels(), in + begin, end - begin, num_items - min_id, min_id,
                           static_cast<double>(tries), unique, out + begin);
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> log_uniform_sample(const Tensor& seed, int64_t num_samples,
                                                              int64_t num_items, int64_t min_id, bool unique) {
  const auto& kernels = t4r::cpu_kernels();
  const int64_t num_classes = num_items - min_id;
  const bool whole = unique && num_samples >= num_classes;
  const int64_t size = whole ? num_classes : num_samples;
  Tensor ids = empty({size}, ScalarType::Long);
  Tensor log_q = empty({size}, ScalarType::Float);
  auto* classes = static_cast<int64_t*>(ids.mutable_data_ptr());
  const auto start = static_cast<uint64_t>(*static_cast<const int64_t*>(seed.const_data_ptr()));
  int64_t tries = size;
  if (whole) {
    std::iota(classes, classes + size, int64_t{0});
    tries = std::numeric_limits<int64_t>::max();
  } else {
    tries = t4r::draw_log_uniform(kernels, start, size, num_classes, unique, classes);
  }
  for (int64_t i = 0; i < size; ++i) classes[i] += min_id;
  fill_log_q(ids, tries, num_items, min_id, unique, log_q);
  return {ids, log_q, scalar(tries), scalar(size)};
}

// The range is checked here, where a look costs a thousandth of a millisecond; Python turns the error into its own.
bool all_within(const Tensor& ids, int64_t low, int64_t high) {
  const auto* values = static_cast<const int64_t*>(ids.const_data_ptr());
  const auto range = static_cast<uint64_t>(high - low);
  uint64_t outside = 0;
  for (int64_t i = 0, size = ids.numel(); i < size; ++i) {
    outside |= static_cast<uint64_t>(static_cast<uint64_t>(values[i]) - static_cast<uint64_t>(low) >= range);
  }
  return outside == 0;
}

Tensor log_uniform_log_q(const Tensor& ids, const Tensor& num_tries, int64_t num_items, int64_t min_id, bool unique) {
  const Tensor contiguous = ids.is_contiguous() ? ids : torch::stable::contiguous(ids);
  STD_TORCH_CHECK(all_within(contiguous, min_id, num_items), "log_uniform_log_q: an id is out of range");
  Tensor log_q = empty(ids.sizes(), ScalarType::Float);
  fill_log_q(contiguous, *static_cast<const int64_t*>(num_tries.const_data_ptr()), num_items, min_id, unique, log_q);
  return log_q;
}

// Both in one call: half of the time of two small calls is the way there and back.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> log_uniform_draw(const Tensor& seed, const Tensor& targets,
                                                                    int64_t num_samples, int64_t num_items,
                                                                    int64_t min_id, bool unique) {
  auto [ids, log_q, num_tries, count] = log_uniform_sample(seed, num_samples, num_items, min_id, unique);
  Tensor target_log_q = log_uniform_log_q(targets, num_tries, num_items, min_id, unique);
  return {ids, log_q, num_tries, count, target_log_q};
}

template <typename T>
const t4r::SampledKernels<T>& kernels() {
  if constexpr (sizeof(T) == sizeof(float)) {
    return t4r::cpu_kernels().sampled_f32;
  } else {
    return t4r::cpu_kernels().sampled_f64;
  }
}

struct OnCpu {
  template <typename T>
  static void softmax(const t4r::SampledTile<T>& tile, const Tensor& scores) {
    over_rows(scores.size(0), tile.num_candidates, tile, kernels<T>().softmax);
  }
  template <typename T>
  static void bce(const t4r::SampledTile<T>& tile, const Tensor& scores) {
    over_rows(scores.size(0), tile.num_candidates, tile, kernels<T>().bce);
  }
  template <typename T>
  static void logits(const t4r::SampledTile<T>& tile, const Tensor& scores) {
    over_rows(scores.size(0), tile.num_candidates, tile, kernels<T>().logits);
  }
};

}  // namespace

// Which instruction set runs; read by the doctor through ctypes.
extern "C" __attribute__((visibility("default"))) const char* transformers4rec_ext_isa() {
  return t4r::cpu_kernels().name;
}

STABLE_TORCH_LIBRARY_IMPL(transformers4rec_ext, CPU, m) {
  m.impl("log_uniform_sample", TORCH_BOX(&log_uniform_sample));
  m.impl("log_uniform_draw", TORCH_BOX(&log_uniform_draw));
  m.impl("log_uniform_log_q", TORCH_BOX(&log_uniform_log_q));
  m.impl("sampled_softmax_tile", TORCH_BOX(&t4r::bind::sampled_softmax_tile<OnCpu>));
  m.impl("sampled_bce_tile", TORCH_BOX(&t4r::bind::sampled_bce_tile<OnCpu>));
  m.impl("sampled_logits_tile", TORCH_BOX(&t4r::bind::sampled_logits_tile<OnCpu>));
}
