// Binds the tiles of sampled losses and logits on CUDA devices to the operators of ops/schemas.
#include "bind_cuda.h"
#include "bind_sampled.h"
#include "cuda/sampled.h"

namespace {

using t4r::bind::Tensor;

struct OnCuda {
  template <typename T>
  static void softmax(const t4r::SampledTile<T>& tile, const Tensor& scores) {
    const int device = t4r::bind::device_of(scores);
    const int status = t4r_sampled_softmax_tile_cuda(
        tile.scores, tile.stride, scores.size(0), tile.num_candidates, tile.target_scores, tile.targets,
        tile.sorted_ids, tile.order, tile.target_log_q, tile.candidate_log_q, tile.row_grad,
        static_cast<double>(tile.inverse_temperature), tile.corrected, tile.with_grad, tile.loss, tile.target_grad,
        t4r::bind::dtype_code(scores), device, t4r::bind::current_stream(device));
    t4r::bind::check_launch(status, "sampled_softmax_tile");
  }

  template <typename T>
  static void bce(const t4r::SampledTile<T>& tile, const Tensor& scores) {
    const int device = t4r::bind::device_of(scores);
    const int status = t4r_sampled_bce_tile_cuda(
        tile.scores, tile.stride, scores.size(0), tile.num_candidates, tile.target_scores, tile.targets,
        tile.sorted_ids, tile.order, tile.target_log_q, tile.candidate_log_q, tile.row_grad,
        static_cast<double>(tile.inverse_temperature), tile.beta, tile.with_grad, tile.loss, tile.target_grad,
        t4r::bind::dtype_code(scores), device, t4r::bind::current_stream(device));
    t4r::bind::check_launch(status, "sampled_bce_tile");
  }

  template <typename T>
  static void logits(const t4r::SampledTile<T>& tile, const Tensor& logits) {
    const int device = t4r::bind::device_of(logits);
    const int status = t4r_sampled_logits_tile_cuda(
        tile.scores, tile.stride, logits.size(0), tile.num_candidates, tile.targets, tile.sorted_ids, tile.order,
        tile.target_log_q, tile.candidate_log_q, static_cast<double>(tile.inverse_temperature),
        t4r::bind::dtype_code(logits), device, t4r::bind::current_stream(device));
    t4r::bind::check_launch(status, "sampled_logits_tile");
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(transformers4rec_ext, T4R_DEVICE_KEY, m) {
  if (!t4r::bind::driver_suffices()) return;
  m.impl("sampled_softmax_tile", TORCH_BOX(&t4r::bind::sampled_softmax_tile<OnCuda>));
  m.impl("sampled_bce_tile", TORCH_BOX(&t4r::bind::sampled_bce_tile<OnCuda>));
  m.impl("sampled_logits_tile", TORCH_BOX(&t4r::bind::sampled_logits_tile<OnCuda>));
}
