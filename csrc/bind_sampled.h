// The operators over tiles of sampled scores, for any device: what they check and how they lay out a tile.
// `Device` has the kernels: softmax, bce and logits, each called with a SampledTile<T> and the tensor of its scores.
#pragma once

#include "bind.h"
#include "core/softmax_row.h"

namespace t4r::bind {

// Without a loss: the tile of logits.
template <typename T>
SampledTile<T> sampled_tile(Tensor& scores, int64_t num_candidates, const Tensor& targets,
                            const std::optional<Tensor>& sorted_ids, const std::optional<Tensor>& order,
                            const std::optional<Tensor>& target_log_q, const std::optional<Tensor>& candidate_log_q,
                            double temperature) {
  check_rows(scores);
  SampledTile<T> tile{};
  tile.scores = static_cast<T*>(scores.mutable_data_ptr());
  tile.stride = scores.stride(0);
  tile.num_candidates = num_candidates;
  tile.targets = pointer<int64_t>(targets);
  tile.sorted_ids = pointer<int64_t>(sorted_ids);
  tile.order = pointer<int64_t>(order);
  tile.target_log_q = pointer<T>(target_log_q);
  tile.candidate_log_q = pointer<T>(candidate_log_q);
  tile.inverse_temperature = static_cast<T>(1.0 / temperature);
  return tile;
}

template <typename T>
void add_loss(SampledTile<T>& tile, const Tensor& target_scores, const std::optional<Tensor>& row_grad, bool with_grad,
              Tensor& loss, Tensor& target_grad) {
  tile.target_scores = pointer<T>(target_scores);
  tile.row_grad = pointer<T>(row_grad);
  tile.with_grad = with_grad;
  tile.loss = output<T>(loss);
  tile.target_grad = output<T>(target_grad);
}

template <typename Device>
void sampled_softmax_tile(Tensor scores, Tensor target_scores, Tensor targets, std::optional<Tensor> sorted_ids,
                          std::optional<Tensor> order, std::optional<Tensor> target_log_q,
                          std::optional<Tensor> candidate_log_q, double temperature, bool corrected,
                          std::optional<Tensor> row_grad, bool with_grad, Tensor loss, Tensor target_grad) {
  for_dtype(scores, [&](auto zero) {
    using T = decltype(zero);
    auto tile =
        sampled_tile<T>(scores, scores.size(1), targets, sorted_ids, order, target_log_q, candidate_log_q, temperature);
    add_loss(tile, target_scores, row_grad, with_grad, loss, target_grad);
    tile.corrected = corrected;
    Device::softmax(tile, scores);
  });
}

template <typename Device>
void sampled_bce_tile(Tensor scores, Tensor target_scores, Tensor targets, std::optional<Tensor> sorted_ids,
                      std::optional<Tensor> order, std::optional<Tensor> target_log_q,
                      std::optional<Tensor> candidate_log_q, double temperature, Tensor beta,
                      std::optional<Tensor> row_grad, bool with_grad, Tensor loss, Tensor target_grad) {
  for_dtype(scores, [&](auto zero) {
    using T = decltype(zero);
    auto tile =
        sampled_tile<T>(scores, scores.size(1), targets, sorted_ids, order, target_log_q, candidate_log_q, temperature);
    add_loss(tile, target_scores, row_grad, with_grad, loss, target_grad);
    tile.beta = pointer<T>(beta);
    Device::bce(tile, scores);
  });
}

template <typename Device>
void sampled_logits_tile(Tensor logits, Tensor targets, std::optional<Tensor> sorted_ids, std::optional<Tensor> order,
                         std::optional<Tensor> target_log_q, std::optional<Tensor> candidate_log_q,
                         double temperature) {
  for_dtype(logits, [&](auto zero) {
    using T = decltype(zero);
    Device::logits(sampled_tile<T>(logits, logits.size(1) - 1, targets, sorted_ids, order, target_log_q,
                                   candidate_log_q, temperature),
                   logits);
  });
}

}  // namespace t4r::bind
