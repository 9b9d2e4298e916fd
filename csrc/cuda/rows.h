// Launchers of the lazy optimizers' updates of rows. Each returns a cudaError_t; nothing waits for the device.
#pragma once

#include <cstdint>

extern "C" {

// ids [size] ascending, equal ones in the order of their positions [size]: which row of values [size, width] is whose.
// An id outside [0, num_rows) is passed over: nobody looks at ids before the kernel does. exp_avg_sq and square_sum are
// [num_rows] if rowwise, else [num_rows, width]; weight and values are of the type, state of its wide type. parts: room
// for [(size - 1) / 32, width] of the wide type, null where size is at most 32.
int t4r_adam_rows_cuda(void* weight, void* exp_avg, void* exp_avg_sq, int32_t* steps, const int64_t* ids,
                       const int64_t* positions, const void* values, void* parts, int64_t size, int64_t num_rows,
                       int64_t width, bool rowwise, double lr, double beta1, double beta2, double eps,
                       double weight_decay, int dtype, int device, void* stream);

int t4r_adagrad_rows_cuda(void* weight, void* square_sum, const int64_t* ids, const int64_t* positions,
                          const void* values, void* parts, int64_t size, int64_t num_rows, int64_t width, bool rowwise,
                          double lr, double eps, double weight_decay, int dtype, int device, void* stream);
}
