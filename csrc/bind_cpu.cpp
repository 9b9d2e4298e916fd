// Binds candidates and sampled softmax on the CPU to the operators of ops/schemas.
#include <limits>
#include <numeric>
#include <tuple>

#include "bind.h"
#include "kernels.h"

namespace {

using t4r::bind::empty;
using t4r::bind::pointer;
using t4r::bind::scalar;
using t4r::bind::ScalarType;
using t4r::bind::Tensor;

constexpr int64_t kGrain = 2048;  // ids per thread at least

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
  } else if (unique) {
    tries = t4r::draw_unique_classes(kernels, start, size, num_classes, classes);
  } else {
    t4r::draw_classes(kernels, start, size, num_classes, classes);
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

template <typename T, typename Kernel>
void run_tile(Tensor& scores, const std::optional<Tensor>& target_scores, const Tensor& targets,
              const std::optional<Tensor>& sorted_ids, const std::optional<Tensor>& order,
              const std::optional<Tensor>& target_log_q, const std::optional<Tensor>& candidate_log_q,
              double temperature, bool corrected, const std::optional<Tensor>& row_grad, bool with_grad,
              const std::optional<Tensor>& loss, const std::optional<Tensor>& target_grad, int64_t num_candidates,
              Kernel kernel) {
  STD_TORCH_CHECK(scores.stride(1) == 1, "a tile's rows must be contiguous");
  const t4r::SampledTile<T> tile{static_cast<T*>(scores.mutable_data_ptr()),
                                 scores.stride(0),
                                 num_candidates,
                                 pointer<T>(target_scores),
                                 pointer<int64_t>(targets),
                                 pointer<int64_t>(sorted_ids),
                                 pointer<int64_t>(order),
                                 pointer<T>(target_log_q),
                                 pointer<T>(candidate_log_q),
                                 pointer<T>(row_grad),
                                 static_cast<T>(1.0 / temperature),
                                 corrected,
                                 with_grad,
                                 const_cast<T*>(pointer<T>(loss)),
                                 const_cast<T*>(pointer<T>(target_grad))};
  const int64_t grain = 1 + 16384 / (num_candidates + 1);
  torch::stable::parallel_for(0, scores.size(0), grain, [&](int64_t begin, int64_t end) { kernel(tile, begin, end); });
}

void sampled_softmax_tile(Tensor scores, Tensor target_scores, Tensor targets, std::optional<Tensor> sorted_ids,
                          std::optional<Tensor> order, std::optional<Tensor> target_log_q,
                          std::optional<Tensor> candidate_log_q, double temperature, bool corrected,
                          std::optional<Tensor> row_grad, bool with_grad, Tensor loss, Tensor target_grad) {
  const auto& kernels = t4r::cpu_kernels();
  if (scores.scalar_type() == ScalarType::Double) {
    run_tile<double>(scores, target_scores, targets, sorted_ids, order, target_log_q, candidate_log_q, temperature,
                     corrected, row_grad, with_grad, loss, target_grad, scores.size(1), kernels.sampled_tile_f64);
  } else {
    run_tile<float>(scores, target_scores, targets, sorted_ids, order, target_log_q, candidate_log_q, temperature,
                    corrected, row_grad, with_grad, loss, target_grad, scores.size(1), kernels.sampled_tile_f32);
  }
}

void sampled_logits_tile(Tensor logits, Tensor targets, std::optional<Tensor> sorted_ids, std::optional<Tensor> order,
                         std::optional<Tensor> target_log_q, std::optional<Tensor> candidate_log_q,
                         double temperature) {
  const auto& kernels = t4r::cpu_kernels();
  const std::optional<Tensor> none;
  if (logits.scalar_type() == ScalarType::Double) {
    run_tile<double>(logits, none, targets, sorted_ids, order, target_log_q, candidate_log_q, temperature, false, none,
                     false, none, none, logits.size(1) - 1, kernels.logits_tile_f64);
  } else {
    run_tile<float>(logits, none, targets, sorted_ids, order, target_log_q, candidate_log_q, temperature, false, none,
                    false, none, none, logits.size(1) - 1, kernels.logits_tile_f32);
  }
}

}  // namespace

// Which instruction set runs; read by the doctor through ctypes.
extern "C" __attribute__((visibility("default"))) const char* transformers4rec_ext_isa() {
  return t4r::cpu_kernels().name;
}

STABLE_TORCH_LIBRARY_IMPL(transformers4rec_ext, CPU, m) {
  m.impl("log_uniform_sample", TORCH_BOX(&log_uniform_sample));
  m.impl("log_uniform_log_q", TORCH_BOX(&log_uniform_log_q));
  m.impl("sampled_softmax_tile", TORCH_BOX(&sampled_softmax_tile));
  m.impl("sampled_logits_tile", TORCH_BOX(&sampled_logits_tile));
}
