// block.cuh and pack.cuh behind launchers, for test_emulation.py.
#include "cuda/block.cuh"
#include "cuda/dtype.h"
#include "cuda/pack.cuh"

namespace {

using namespace t4r::cuda;

// Each thread's sum of x before it in its block, and the block's sum and maximum, with one scratch.
template <typename T>
__global__ void reductions_kernel(const T* x, T* sum, T* largest, T* before, T* total) {
  T4R_DYNAMIC_SHARED(T, scratch);
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  before[i] = block_exclusive_sum(x[i], scratch, total[i]);
  sum[i] = block_reduce(x[i], Add{}, scratch);
  largest[i] = block_reduce(x[i], Larger{}, scratch);
}

// Copies rows, in packs where that can be done; packs[0] says whether it was.
template <typename S>
__global__ void copy_kernel(const S* from, int64_t from_stride, S* to, int64_t to_stride, int64_t width, int* packs) {
  const bool in_16_bytes = in_packs(from, from_stride, width) && in_packs<S>(to, to_stride, width);
  from += blockIdx.x * from_stride;
  to += blockIdx.x * to_stride;
  if (in_16_bytes) {
    for (int64_t i = threadIdx.x * kPack<S>; i < width; i += blockDim.x * kPack<S>) {
      store_pack(to + i, load_pack(from + i));
    }
  } else {
    for (int64_t i = threadIdx.x; i < width; i += blockDim.x) to[i] = from[i];
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) *packs = in_16_bytes;
}

// out [6, threads]: what each lane reads in groups of `width` lanes, and how many lanes of its warp's first half hold
// an odd number.
__global__ void collectives_kernel(const double* x, int by, int width, double* out) {
  const unsigned n = blockDim.x, i = threadIdx.x;
  const double value = x[i];
  out[i] = __shfl_sync(kAllLanes, value, by, width);
  out[n + i] = __shfl_xor_sync(kAllLanes, value, by, width);
  out[2 * n + i] = __shfl_up_sync(kAllLanes, value, by, width);
  out[3 * n + i] = __shfl_down_sync(kAllLanes, value, by, width);
  const bool any = __syncthreads_or(value > 1e6) != 0;
  const bool half = i % kWarp < kWarp / 2;
  const unsigned odd = half ? __ballot_sync(0xffffu, static_cast<int>(value) % 2) : 0;
  out[5 * n + i] = __syncthreads_count(static_cast<int>(value) % 2);
  out[4 * n + i] = any ? -1 : __popc(odd) + 0.5 * __ffs(static_cast<int>(odd));
}

// out: the sum, minimum, maximum and union of x, how many threads were first at out[5], and that one's value there.
__global__ void atomics_kernel(const int* x, int* out) {
  const int value = x[blockIdx.x * blockDim.x + threadIdx.x];
  atomicAdd(out, value);
  atomicMin(out + 1, value);
  atomicMax(out + 2, value);
  atomicOr(out + 3, value);
  if (atomicCAS(out + 5, -1, value) == -1) atomicAdd(out + 4, 1);
}

template <typename T>
int reductions(const void* x, void* sum, void* largest, void* before, void* total, int blocks, int threads,
               cudaStream_t stream) {
  T4R_LAUNCH(reductions_kernel<T>, blocks, threads, kWarp * sizeof(T), stream, static_cast<const T*>(x),
             static_cast<T*>(sum), static_cast<T*>(largest), static_cast<T*>(before), static_cast<T*>(total));
  return static_cast<int>(cudaGetLastError());
}

template <bool allowed>
__global__ void where_kernel(int* device, int value) {
  if (blockIdx.x == 0 && threadIdx.x == 0) *device = value;
}

}  // namespace

extern "C" {

int t4r_reductions_cuda(const void* x, void* sum, void* largest, void* before, void* total, int dtype, int blocks,
                        int threads, void* stream) {
  return with_wide_type(dtype, [&](auto type) {
    return reductions<decltype(type)>(x, sum, largest, before, total, blocks, threads,
                                      static_cast<cudaStream_t>(stream));
  });
}

int t4r_collectives_cuda(const double* x, int by, int width, double* out, int threads, void* stream) {
  T4R_LAUNCH(collectives_kernel, 1, threads, 0, static_cast<cudaStream_t>(stream), x, by, width, out);
  return static_cast<int>(cudaGetLastError());
}

int t4r_atomics_cuda(const int* x, int* out, int blocks, int threads, void* stream) {
  T4R_LAUNCH(atomics_kernel, blocks, threads, 0, static_cast<cudaStream_t>(stream), x, out);
  return static_cast<int>(cudaGetLastError());
}

int t4r_copy_cuda(const void* from, int64_t from_stride, void* to, int64_t to_stride, int64_t rows, int64_t width,
                  int* packs, int dtype, void* stream) {
  return with_type(dtype, [&](auto type) {
    using S = decltype(type);
    T4R_LAUNCH(copy_kernel<S>, blocks_for(rows, 1), 32, 0, static_cast<cudaStream_t>(stream),
               static_cast<const S*>(from), from_stride, static_cast<S*>(to), to_stride, width, packs);
    return static_cast<int>(cudaGetLastError());
  });
}

// With as many threads and as much shared memory as is asked for, allowed first or not.
int t4r_launch_cuda(int* chosen, int blocks, int threads, int shared_bytes, int allowed_bytes, int device,
                    void* stream) {
  const DeviceScope scope(device);
  if (scope.failed()) return scope.status();
  const bool allow = allowed_bytes > 0;
  if (allow) {
    const auto status = allow_shared(where_kernel<true>, static_cast<size_t>(allowed_bytes));
    if (status != cudaSuccess) return static_cast<int>(status);
  }
  int current = -1;
  cudaGetDevice(&current);
  const auto kernel = allow ? where_kernel<true> : where_kernel<false>;
  T4R_LAUNCH(kernel, blocks, threads, shared_bytes, static_cast<cudaStream_t>(stream), chosen, current);
  return static_cast<int>(cudaGetLastError());
}

}  // extern "C"
