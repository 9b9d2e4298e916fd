// Loads and stores of 16 bytes: as many elements as fit them.
#pragma once

#include "../core/half.h"
#include "launch.cuh"

namespace t4r::cuda {

template <typename S>
constexpr int kPack = 16 / static_cast<int>(sizeof(S));

template <typename S>
struct alignas(16) Pack {
  S value[kPack<S>];
};

// Whether rows of `width` elements, `stride` apart, can all be read 16 bytes at a time.
template <typename S>
T4R_HD bool in_packs(const S* rows, int64_t stride, int64_t width) {
  const auto address = reinterpret_cast<uintptr_t>(rows);
  return address % 16 == 0 && stride % kPack<S> == 0 && width % kPack<S> == 0;
}

template <typename S>
__device__ __forceinline__ Pack<S> load_pack(const S* from) {
  return bit_cast<Pack<S>>(*reinterpret_cast<const uint4*>(from));
}

// To global memory, in one instruction by its name: a plain store of a pack nvcc may cut into one for each element.
template <typename S>
__device__ __forceinline__ void store_pack(S* to, const Pack<S>& pack) {
  __stwb(reinterpret_cast<uint4*>(to), bit_cast<uint4>(pack));
}

}  // namespace t4r::cuda
