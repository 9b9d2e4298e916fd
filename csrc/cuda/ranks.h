// Launchers of rank counting. Each returns a cudaError_t; nothing waits for the device. dtype: float32 or float64, that
// of scores, hidden, weight and bias.
#pragma once

#include <cstdint>

extern "C" {

// Adds to above [rows] the items of a tile of scores [rows, size] that score at least target_scores, and to
// not_a_number [rows] those that score NaN; hidden [rows, width] is contiguous, weight [size, width]. workspace: two
// numbers of 8 bytes, whatever they hold.
int t4r_rank_tile_cuda(const void* scores, int64_t stride, int64_t rows, int64_t size, const void* hidden,
                       const void* weight, int64_t weight_stride, int64_t width, const void* bias,
                       const double* target_scores, const double* hidden_norms, int64_t* above, int64_t* not_a_number,
                       void* workspace, int dtype, int device, void* stream);

// out [rows, per_row] = h.w + b in float64 of hidden [rows, width] and rows ids [rows, per_row] of weight [items,
// width]; -inf for a negative id, NaN for one from items on.
int t4r_pair_scores_cuda(const void* hidden, const void* weight, int64_t weight_stride, int64_t items, int64_t width,
                         const void* bias, const int64_t* ids, int64_t rows, int64_t per_row, double* out, int dtype,
                         int device, void* stream);
}
