// Binds the tiles of full softmax on CUDA devices to the operators of ops/schemas.
#include "bind_cuda.h"
#include "bind_softmax.h"
#include "cuda/softmax.h"

namespace {

using t4r::bind::Tensor;

struct OnCuda {
  template <typename T>
  static void logsumexp(const t4r::LogSumExpTile<T>& tile, const Tensor& scores) {
    const int device = t4r::bind::device_of(scores);
    const int status = t4r_logsumexp_tile_cuda(
        tile.scores, tile.stride, scores.size(0), tile.size, tile.bias, static_cast<double>(tile.scale), tile.maximum,
        tile.total, t4r::bind::dtype_code(scores), device, t4r::bind::current_stream(device));
    t4r::bind::check_launch(status, "logsumexp_tile");
  }

  template <typename T>
  static void softmax_grad(const t4r::SoftmaxGradTile<T>& tile, const Tensor& scores) {
    const int device = t4r::bind::device_of(scores);
    const int status = t4r_softmax_grad_tile_cuda(
        tile.scores, tile.stride, tile.grad, tile.grad_stride, scores.size(0), tile.size, tile.begin, tile.bias,
        static_cast<double>(tile.scale), tile.targets, tile.maximum, tile.total, tile.row_grad,
        static_cast<double>(tile.smoothing), static_cast<double>(tile.target_weight), t4r::bind::dtype_code(scores),
        device, t4r::bind::current_stream(device));
    t4r::bind::check_launch(status, "softmax_grad_tile");
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(transformers4rec_ext, T4R_DEVICE_KEY, m) {
  if (!t4r::bind::driver_suffices()) return;
  m.impl("logsumexp_tile", TORCH_BOX(&t4r::bind::logsumexp_tile<OnCuda>));
  m.impl("softmax_grad_tile", TORCH_BOX(&t4r::bind::softmax_grad_tile<OnCuda>));
}
