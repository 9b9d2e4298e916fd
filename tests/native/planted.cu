// Small kernels, each right, and wrong with one of these planted: what the emulation must find.
#include "cuda/block.cuh"
#include "cuda/pack.cuh"

namespace {

using namespace t4r::cuda;

enum Bug {  // in test_emulation.py's order
  kNone,
  kMissingBarrier,
  kMissingSecondBarrier,
  kOneColumnTooFar,
  kSharedOverflow,
  kDivergentBarrier,
  kTwoBarriers,
  kEarlyReturn,
  kMissingSyncwarp,
  kLanesLeave,
  kLaneOutOfMask,
  kWarpOrder,
  kNonAtomicCounter,
  kBlockOrder,
  kRaceBetweenBlocks,
  kReadBesideAtomics,
  kUninitialised,
  kMisaligned,
  kGlobalStore,
  kLocalArray,
  kLocalPointer,
  kLocalOfAnother,
  kWaits,
  kWritesConst,
};

cudaStream_t stream_of(void* stream) { return static_cast<cudaStream_t>(stream); }

// out[b, i] = x[b, n - 1 - i], a row a block, through shared memory.
__global__ void reverse_kernel(const float* x, float* out, int bug) {
  T4R_DYNAMIC_SHARED(float, row);
  const unsigned n = blockDim.x, i = threadIdx.x;
  row[i] = x[blockIdx.x * n + i];
  if (bug != kMissingBarrier) __syncthreads();
  out[blockIdx.x * n + i] = row[n - 1 - i];
}

// out[i] = sum over the tiles t of x[t, n - 1 - i].
__global__ void tiles_kernel(const float* x, int tiles, float* out, int bug) {
  T4R_DYNAMIC_SHARED(float, tile);
  const unsigned n = blockDim.x, i = threadIdx.x;
  float sum = 0;
  for (int t = 0; t < tiles; ++t) {
    tile[i] = x[t * n + i];
    __syncthreads();
    sum += tile[n - 1 - i];
    if (bug != kMissingSecondBarrier) __syncthreads();
  }
  out[i] = sum;
}

// out[b, i] = b * i for i < width, a row a block; blockDim.x >= width.
__global__ void columns_kernel(float* out, int width, int bug) {
  const int end = bug == kOneColumnTooFar ? width + 1 : width;
  const int i = static_cast<int>(threadIdx.x);
  if (i < end) out[blockIdx.x * width + i] = static_cast<float>(blockIdx.x) * static_cast<float>(i);
}

// out[i] = i, through shared memory for n floats.
__global__ void shared_kernel(float* out, int n, int bug) {
  T4R_DYNAMIC_SHARED(float, row);
  const int shift = bug == kSharedOverflow ? 1 : 0;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += blockDim.x) row[i + shift] = static_cast<float>(i);
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < n; i += blockDim.x) out[i] = row[i + shift];
}

// out[i] = x[i] + x[i ^ 1], where i is in the first half; all the threads need the barrier.
__global__ void half_kernel(const float* x, float* out, int bug) {
  T4R_DYNAMIC_SHARED(float, row);
  const unsigned i = threadIdx.x;
  row[i] = x[i];
  const bool first_half = i < blockDim.x / 2;
  if (bug == kEarlyReturn && !first_half) return;
  if (bug == kTwoBarriers && first_half) {
    __syncthreads();
  } else if (bug != kDivergentBarrier || first_half) {
    __syncthreads();
  }
  if (first_half) out[i] = row[i] + row[i ^ 1];
}

// out[i] = x[i ^ 1], within a warp, through shared memory.
__global__ void neighbours_kernel(const float* x, float* out, int bug) {
  T4R_DYNAMIC_SHARED(float, row);
  const unsigned i = threadIdx.x;
  row[i] = x[i];
  if (bug != kMissingSyncwarp) __syncwarp();
  out[i] = row[i ^ 1];
}

// out[w] = the sum of x over warp w; the last lanes leave before the collective where it is wrong.
__global__ void warps_kernel(const float* x, float* out, int bug) {
  float value = x[threadIdx.x];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (bug == kLanesLeave && lane > 29) return;
  if (bug == kLaneOutOfMask && lane < 16) value = __shfl_sync(0x0000ffffu, value, 20);
  value = warp_reduce(value, Add{});
  if (threadIdx.x % kWarp == 0) out[threadIdx.x / kWarp] = value;
}

// out[0] = the number of the warp that is last in the block's order.
__global__ void last_warp_kernel(int* out, int bug) {
  T4R_DYNAMIC_SHARED(int, last);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  if (threadIdx.x == 0) *last = 0;
  __syncthreads();
  if (threadIdx.x % kWarp == 0) {
    if (bug == kWarpOrder) {
      atomicExch(last, warp);
    } else {
      atomicMax(last, warp);
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) *out = *last;
}

// count[0] = the number of threads, of all blocks; last[0] = the number of the last block.
__global__ void count_kernel(int* count, int* last, int bug) {
  const int block = static_cast<int>(blockIdx.x);
  if (bug == kNonAtomicCounter) {
    ++*count;
  } else {
    atomicAdd(count, 1);
  }
  if (threadIdx.x != 0) return;
  if (bug == kBlockOrder) {
    atomicExch(last, block);
  } else if (bug == kRaceBetweenBlocks) {
    *last = static_cast<int>(gridDim.x) - 1;  // the same value, and yet
  } else if (bug != kReadBesideAtomics || *last < block) {
    atomicMax(last, block);
  }
}

// out[i] = 1 + i, added up in shared memory that must be cleared.
__global__ void cleared_kernel(float* out, int bug) {
  T4R_DYNAMIC_SHARED(float, sum);
  const unsigned i = threadIdx.x;
  if (bug != kUninitialised) sum[i] = 1;
  sum[i] += static_cast<float>(i);
  out[i] = sum[i];
}

// out[i] = x[i], four at a time; x must be aligned for that.
__global__ void packs_kernel(const float* x, float* out, int64_t size, int bug) {
  const bool packs = bug == kMisaligned || (in_packs(x, 0, size) && in_packs(out, 0, size));
  const int64_t i = threadIdx.x;
  if (bug == kGlobalStore) {
    T4R_DYNAMIC_SHARED(float, row);
    if (i * 4 < size) store_pack(row + i * 4, Pack<float>{});
  }
  if (packs) {
    if (i * 4 < size) store_pack(out + i * 4, load_pack(x + i * 4));
  } else {
    for (int64_t j = i; j < size; j += blockDim.x) out[j] = x[j];
  }
}

__device__ __noinline__ float element(const float* values, int i) { return values[i]; }

// out[i] = the sum of i, i + 1, i + 2, from an array of the thread's own.
__global__ void locals_kernel(float* out, int bug) {
  T4R_DYNAMIC_SHARED(const float*, first);
  float values[4];
  for (int j = 0; j < 4; ++j) values[j] = static_cast<float>(static_cast<int>(threadIdx.x) + j);
  if (threadIdx.x == 0) *first = values;
  __syncthreads();
  float sum = 0;
  for (int j = 0; j < (bug == kLocalArray ? 5 : 3); ++j) sum += values[j];
  if (bug == kLocalPointer) sum += element(values, 4);
  if (bug == kLocalOfAnother) sum += element(*first, 0);
  out[threadIdx.x] = sum;
}

// out[0] = x[0], for which one thread waits for another, or x[0] is made what out[0] is.
__global__ void one_kernel(const float* x, float* out, int* ready, int bug) {
  if (bug == kWaits && threadIdx.x == 0) {
    while (atomicAdd(ready, 0) == 0) {
    }
  }
  if (threadIdx.x == 1) atomicExch(ready, 1);
  if (threadIdx.x == 0) *(bug == kWritesConst ? const_cast<float*>(x) : out) = *x;
}

}  // namespace

extern "C" {

int t4r_reverse_cuda(const float* x, float* out, int blocks, int threads, int bug, void* stream) {
  T4R_LAUNCH(reverse_kernel, blocks, threads, threads * sizeof(float), stream_of(stream), x, out, bug);
  return static_cast<int>(cudaGetLastError());
}

int t4r_tiles_cuda(const float* x, int tiles, float* out, int threads, int bug, void* stream) {
  T4R_LAUNCH(tiles_kernel, 1, threads, threads * sizeof(float), stream_of(stream), x, tiles, out, bug);
  return static_cast<int>(cudaGetLastError());
}

int t4r_columns_cuda(float* out, int rows, int width, int bug, void* stream) {
  T4R_LAUNCH(columns_kernel, rows, 64, 0, stream_of(stream), out, width, bug);
  return static_cast<int>(cudaGetLastError());
}

int t4r_shared_cuda(float* out, int n, int bug, void* stream) {
  T4R_LAUNCH(shared_kernel, 1, 64, n * sizeof(float), stream_of(stream), out, n, bug);
  return static_cast<int>(cudaGetLastError());
}

int t4r_half_cuda(const float* x, float* out, int threads, int bug, void* stream) {
  T4R_LAUNCH(half_kernel, 1, threads, threads * sizeof(float), stream_of(stream), x, out, bug);
  return static_cast<int>(cudaGetLastError());
}

int t4r_neighbours_cuda(const float* x, float* out, int threads, int bug, void* stream) {
  T4R_LAUNCH(neighbours_kernel, 1, threads, threads * sizeof(float), stream_of(stream), x, out, bug);
  return static_cast<int>(cudaGetLastError());
}

int t4r_warps_cuda(const float* x, float* out, int threads, int bug, void* stream) {
  T4R_LAUNCH(warps_kernel, 1, threads, 0, stream_of(stream), x, out, bug);
  return static_cast<int>(cudaGetLastError());
}

int t4r_last_warp_cuda(int* out, int threads, int bug, void* stream) {
  T4R_LAUNCH(last_warp_kernel, 1, threads, sizeof(int), stream_of(stream), out, bug);
  return static_cast<int>(cudaGetLastError());
}

int t4r_count_cuda(int* count, int* last, int blocks, int threads, int bug, void* stream) {
  cudaMemsetAsync(count, 0, sizeof(int), stream_of(stream));
  cudaMemsetAsync(last, 0, sizeof(int), stream_of(stream));
  T4R_LAUNCH(count_kernel, blocks, threads, 0, stream_of(stream), count, last, bug);
  return static_cast<int>(cudaGetLastError());
}

int t4r_cleared_cuda(float* out, int threads, int bug, void* stream) {
  T4R_LAUNCH(cleared_kernel, 1, threads, threads * sizeof(float), stream_of(stream), out, bug);
  return static_cast<int>(cudaGetLastError());
}

int t4r_packs_cuda(const float* x, float* out, int64_t size, int bug, void* stream) {
  T4R_LAUNCH(packs_kernel, 1, 64, size * sizeof(float), stream_of(stream), x, out, size, bug);
  return static_cast<int>(cudaGetLastError());
}

int t4r_locals_cuda(float* out, int bug, void* stream) {
  T4R_LAUNCH(locals_kernel, 1, 32, sizeof(float*), stream_of(stream), out, bug);
  return static_cast<int>(cudaGetLastError());
}

int t4r_one_cuda(const float* x, float* out, int* ready, int bug, void* stream) {
  T4R_LAUNCH(one_kernel, 1, 32, 0, stream_of(stream), x, out, ready, bug);
  return static_cast<int>(cudaGetLastError());
}

}  // extern "C"
