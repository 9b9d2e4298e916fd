// Launcher of top-k selection. Returns a cudaError_t; nothing waits for the device.
#pragma once

#include <cstdint>

extern "C" {

// Merges a tile of scores [rows, size] of the items [begin, begin + size) into the best so far of each of the `pieces`
// of a row's tiles: best, ids [rows, pieces, capacity], capacity > k, of which fill [rows, pieces] are valid and the
// others -inf and -1; equal scores lie in ascending order of their ids, and no id is above begin. Only scores above
// threshold [rows, pieces] enter. excluded [rows, num_excluded], each row ascending, or null. dtype: float32 or
// float64, of scores, bias, best, threshold.
int t4r_topk_tile_cuda(const void* scores, int64_t stride, int64_t rows, int64_t size, int64_t begin, const void* bias,
                       const int64_t* excluded, int64_t num_excluded, int64_t k, int64_t pieces, int64_t capacity,
                       void* best, int64_t* ids, int64_t* fill, void* threshold, int dtype, int device, void* stream);
}
