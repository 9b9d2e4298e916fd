// The operators over tiles of full softmax, for any device: what they check and how they lay out a tile.
// `Device` has the kernels: logsumexp and softmax_grad, each called with a tile and the tensor of its scores.
#pragma once

#include "bind.h"
#include "core/item_row.h"

namespace t4r::bind {

constexpr double kLog2E = 1.4426950408889634;

template <typename Device>
void logsumexp_tile(Tensor scores, std::optional<Tensor> bias, double temperature, Tensor maximum, Tensor total) {
  check_rows(scores);
  for_dtype(scores, [&](auto zero) {
    using T = decltype(zero);
    const LogSumExpTile<T> tile{
        static_cast<const T*>(scores.const_data_ptr()), scores.stride(0),   scores.size(1),       pointer<T>(bias),
        static_cast<T>(kLog2E / temperature),           output<T>(maximum), output<double>(total)};
    Device::logsumexp(tile, scores);
  });
}

template <typename Device>
void softmax_grad_tile(Tensor scores, std::optional<Tensor> bias, Tensor targets, int64_t begin, double temperature,
                       double smoothing, double target_weight, Tensor maximum, Tensor total, Tensor row_grad,
                       Tensor grad) {
  check_rows(scores);
  check_rows(grad);
  for_dtype(scores, [&](auto zero) {
    using T = decltype(zero);
    const SoftmaxGradTile<T> tile{static_cast<const T*>(scores.const_data_ptr()),
                                  scores.stride(0),
                                  static_cast<T*>(grad.mutable_data_ptr()),
                                  grad.stride(0),
                                  scores.size(1),
                                  begin,
                                  pointer<T>(bias),
                                  static_cast<T>(kLog2E / temperature),
                                  pointer<int64_t>(targets),
                                  pointer<T>(maximum),
                                  pointer<double>(total),
                                  pointer<T>(row_grad),
                                  static_cast<T>(smoothing),
                                  static_cast<T>(target_weight)};
    Device::softmax_grad(tile, scores);
  });
}

}  // namespace t4r::bind
