// Binds log-uniform candidates and sampled losses on the CPU to the operators of ops/schemas.
#include <limits>
#include <numeric>
#include <tuple>

#include "bind.h"
#include "kernels.h"

namespace {

using t4r::bind::empty;
using t4r::bind::kGrain;
using t4r::bind::pointer;
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

// What the operators over tiles have in common, and where they differ.
struct Tile {
  Tensor& scores;
  int64_t num_candidates;
  const Tensor& targets;
  const std::optional<Tensor>& sorted_ids;
  const std::optional<Tensor>& order;
  const std::optional<Tensor>& target_log_q;
  const std::optional<Tensor>& candidate_log_q;
  double temperature;
  bool corrected = false;
  std::optional<Tensor> beta = {};
  std::optional<Tensor> target_scores = {};
  std::optional<Tensor> row_grad = {};
  bool with_grad = false;
  std::optional<Tensor> loss = {};
  std::optional<Tensor> target_grad = {};
};

template <typename T, typename Kernel>
void run_tile_of(const Tile& arguments, Kernel kernel) {
  Tensor& scores = arguments.scores;
  STD_TORCH_CHECK(scores.stride(1) == 1, "a tile's rows must be contiguous");
  const t4r::SampledTile<T> tile{static_cast<T*>(scores.mutable_data_ptr()),
                                 scores.stride(0),
                                 arguments.num_candidates,
                                 pointer<T>(arguments.target_scores),
                                 pointer<int64_t>(arguments.targets),
                                 pointer<int64_t>(arguments.sorted_ids),
                                 pointer<int64_t>(arguments.order),
                                 pointer<T>(arguments.target_log_q),
                                 pointer<T>(arguments.candidate_log_q),
                                 pointer<T>(arguments.row_grad),
                                 static_cast<T>(1.0 / arguments.temperature),
                                 arguments.corrected,
                                 pointer<T>(arguments.beta),
                                 arguments.with_grad,
                                 const_cast<T*>(pointer<T>(arguments.loss)),
                                 const_cast<T*>(pointer<T>(arguments.target_grad))};
  const int64_t grain = 1 + 16384 / (arguments.num_candidates + 1);
  torch::stable::parallel_for(0, scores.size(0), grain, [&](int64_t begin, int64_t end) { kernel(tile, begin, end); });
}

template <typename Float, typename Double>
void run_tile(const Tile& arguments, Float kernel_f32, Double kernel_f64) {
  if (arguments.scores.scalar_type() == ScalarType::Double) {
    run_tile_of<double>(arguments, kernel_f64);
  } else {
    run_tile_of<float>(arguments, kernel_f32);
  }
}

void sampled_softmax_tile(Tensor scores, Tensor target_scores, Tensor targets, std::optional<Tensor> sorted_ids,
                          std::optional<Tensor> order, std::optional<Tensor> target_log_q,
                          std::optional<Tensor> candidate_log_q, double temperature, bool corrected,
                          std::optional<Tensor> row_grad, bool with_grad, Tensor loss, Tensor target_grad) {
  Tile tile{scores, scores.size(1), targets, sorted_ids, order, target_log_q, candidate_log_q, temperature};
  tile.corrected = corrected;
  tile.target_scores = target_scores;
  tile.row_grad = row_grad;
  tile.with_grad = with_grad;
  tile.loss = loss;
  tile.target_grad = target_grad;
  run_tile(tile, t4r::cpu_kernels().sampled_tile_f32, t4r::cpu_kernels().sampled_tile_f64);
}

void sampled_bce_tile(Tensor scores, Tensor target_scores, Tensor targets, std::optional<Tensor> sorted_ids,
                      std::optional<Tensor> order, std::optional<Tensor> target_log_q,
                      std::optional<Tensor> candidate_log_q, double temperature, Tensor beta,
                      std::optional<Tensor> row_grad, bool with_grad, Tensor loss, Tensor target_grad) {
  Tile tile{scores, scores.size(1), targets, sorted_ids, order, target_log_q, candidate_log_q, temperature};
  tile.beta = beta;
  tile.target_scores = target_scores;
  tile.row_grad = row_grad;
  tile.with_grad = with_grad;
  tile.loss = loss;
  tile.target_grad = target_grad;
  run_tile(tile, t4r::cpu_kernels().bce_tile_f32, t4r::cpu_kernels().bce_tile_f64);
}

void sampled_logits_tile(Tensor logits, Tensor targets, std::optional<Tensor> sorted_ids, std::optional<Tensor> order,
                         std::optional<Tensor> target_log_q, std::optional<Tensor> candidate_log_q,
                         double temperature) {
  const Tile tile{logits, logits.size(1) - 1, targets, sorted_ids, order, target_log_q, candidate_log_q, temperature};
  run_tile(tile, t4r::cpu_kernels().logits_tile_f32, t4r::cpu_kernels().logits_tile_f64);
}

}  // namespace

// Which instruction set runs; read by the doctor through ctypes.
extern "C" __attribute__((visibility("default"))) const char* transformers4rec_ext_isa() {
  return t4r::cpu_kernels().name;
}

STABLE_TORCH_LIBRARY_IMPL(transformers4rec_ext, CPU, m) {
  m.impl("log_uniform_sample", TORCH_BOX(&log_uniform_sample));
  m.impl("log_uniform_draw", TORCH_BOX(&log_uniform_draw));
  m.impl("log_uniform_log_q", TORCH_BOX(&log_uniform_log_q));
  m.impl("sampled_softmax_tile", TORCH_BOX(&sampled_softmax_tile));
  m.impl("sampled_bce_tile", TORCH_BOX(&sampled_bce_tile));
  m.impl("sampled_logits_tile", TORCH_BOX(&sampled_logits_tile));
}
