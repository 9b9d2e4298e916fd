// Launchers of the tiles of full softmax (core/item_row.h); `dtype` is that of the scores, kFloat32 or kFloat64. Each
// returns a cudaError_t.
#pragma once

#include <cstdint>

extern "C" {

int t4r_logsumexp_tile_cuda(const void* scores, int64_t stride, int64_t rows, int64_t size, const void* bias,
                            double scale, void* maximum, double* total, int dtype, int device, void* stream);

int t4r_softmax_grad_tile_cuda(const void* scores, int64_t stride, void* grad, int64_t grad_stride, int64_t rows,
                               int64_t size, int64_t begin, const void* bias, double scale, const int64_t* targets,
                               const void* maximum, const double* total, const void* row_grad, double smoothing,
                               double target_weight, int dtype, int device, void* stream);

}  // extern "C"
