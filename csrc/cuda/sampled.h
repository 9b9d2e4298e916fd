// Launchers of the tiles of sampled losses and logits (core/softmax_row.h); `dtype` is that of the scores, kFloat32 or
// kFloat64. Each returns a cudaError_t.
#pragma once

#include <cstdint>

extern "C" {

int t4r_sampled_softmax_tile_cuda(void* scores, int64_t stride, int64_t rows, int64_t num_candidates,
                                  const void* target_scores, const int64_t* targets, const int64_t* sorted_ids,
                                  const int64_t* order, const void* target_log_q, const void* candidate_log_q,
                                  const void* row_grad, double inverse_temperature, int corrected, int with_grad,
                                  void* loss, void* target_grad, int dtype, int device, void* stream);

int t4r_sampled_bce_tile_cuda(void* scores, int64_t stride, int64_t rows, int64_t num_candidates,
                              const void* target_scores, const int64_t* targets, const int64_t* sorted_ids,
                              const int64_t* order, const void* target_log_q, const void* candidate_log_q,
                              const void* row_grad, double inverse_temperature, const void* beta, int with_grad,
                              void* loss, void* target_grad, int dtype, int device, void* stream);

// `logits` points at column 0, the target's; num_candidates more follow.
int t4r_sampled_logits_tile_cuda(void* logits, int64_t stride, int64_t rows, int64_t num_candidates,
                                 const int64_t* targets, const int64_t* sorted_ids, const int64_t* order,
                                 const void* target_log_q, const void* candidate_log_q, double inverse_temperature,
                                 int dtype, int device, void* stream);

}  // extern "C"
