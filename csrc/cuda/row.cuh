// Rows of scores, one a block: how many threads, and the row in units of 16 bytes or, where it is not aligned for
// them, of one element.
#pragma once

#include "pack.cuh"

namespace t4r::cuda {

constexpr int kMostThreads = 1024;
constexpr int kBatch = 4;  // units whose loads a thread has under way at a time

// So many threads, a power of two and whole warps, that a row is one batch of packs each, if that many may be.
template <typename T>
unsigned threads_for_row(int64_t size, int most = kMostThreads) {
  const int64_t batch = kBatch * kPack<T>;
  int threads = kWarp;
  while (threads < most && threads * batch < size) threads *= 2;
  return static_cast<unsigned>(threads);
}

template <typename T>
struct Single {
  T value[1];
};

template <typename T>
T4R_HD bool is_aligned(const T* address) {
  return reinterpret_cast<uintptr_t>(address) % 16 == 0;
}

// Whether every row, `stride` apart, begins where a pack may.
template <typename T>
T4R_HD bool rows_are_aligned(const T* rows, int64_t stride) {
  return is_aligned(rows) && stride % kPack<T> == 0;
}

// How far the rest of a row, from unit `first` on, reaches into a batch of `most` units: 32 bits for what is compared
// and added within it.
__device__ __forceinline__ int units_left(int64_t first, int64_t units, int most) {
  return units - first < most ? static_cast<int>(units - first) : most;
}

template <typename Unit, typename T>
constexpr int kWidth = static_cast<int>(sizeof(Unit) / sizeof(T));

template <typename Unit, typename T, typename Index>
__device__ __forceinline__ Unit load_unit(const T* row, Index unit) {
  if constexpr (kWidth<Unit, T> == 1) {
    return {row[unit]};
  } else {
    return load_pack(row + unit * kWidth<Unit, T>);
  }
}

// `kShared`: to shared memory.
template <bool kShared = false, typename Unit, typename T, typename Index>
__device__ __forceinline__ void store_unit(T* row, Index unit, const Unit& values) {
  if constexpr (kWidth<Unit, T> == 1) {
    row[unit] = values.value[0];
  } else if constexpr (kShared) {
    *reinterpret_cast<Unit*>(row + unit * kWidth<Unit, T>) = values;
  } else {
    store_pack(row + unit * kWidth<Unit, T>, values);
  }
}

}  // namespace t4r::cuda
