// Reductions over a warp and over a block in an order that is always the same, and a block's prefix sum.
#pragma once

#include "launch.cuh"

namespace t4r::cuda {

struct Add {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
  template <typename T>
  __device__ static T none() {
    return 0;
  }
};

// NaN is passed over: it returns in the sums.
struct Larger {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return b > a ? b : a;
  }
  template <typename T>
  __device__ static T none() {
    return -static_cast<T>(INFINITY);
  }
};

// Every lane gets the result; all 32 must call.
template <typename T, typename Combine>
__device__ __forceinline__ T warp_reduce(T value, Combine combine) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value = combine(value, __shfl_xor_sync(kAllLanes, value, distance));
  }
  return value;
}

// Every thread gets the result; all must call. `scratch` has a place for each of the block's warps (at most 32), and
// may be used again at once. blockDim.x must be a multiple of 32.
template <typename T, typename Combine>
__device__ __forceinline__ T block_reduce(T value, Combine combine, T* scratch) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  value = warp_reduce(value, combine);
  if (warps == 1) return value;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  if (warp == 0) {  // the others would do the same, and float64 is slow where a GPU has few units for it
    value = warp_reduce(lane < warps ? scratch[lane] : Combine::template none<T>(), combine);
    if (lane == 0) scratch[0] = value;
  }
  __syncthreads();
  value = scratch[0];
  __syncthreads();
  return value;
}

// The sum of the values of all threads before this one; `total` is that of all. As block_reduce.
template <typename T>
__device__ __forceinline__ T block_exclusive_sum(T value, T* scratch, T& total) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  T inclusive = value;
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const T other = __shfl_up_sync(kAllLanes, inclusive, distance);
    if (lane >= distance) inclusive += other;
  }
  if (lane == kWarp - 1) scratch[warp] = inclusive;
  __syncthreads();
  T before = 0;
  total = 0;
  for (int w = 0; w < warps; ++w) {
    if (w == warp) before = total;
    total += scratch[w];
  }
  __syncthreads();
  return before + inclusive - value;
}

}  // namespace t4r::cuda
