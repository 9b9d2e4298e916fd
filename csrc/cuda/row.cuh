// Rows of scores, one a block: how many threads, and the row in units of 16 bytes or, where it is not aligned for
// them, of one element.
#pragma once

#include "pack.cuh"

namespace t4r::cuda {

constexpr int kMostThreads = 1024;
constexpr int kBatch = 4;  // units whose loads a thread has under way at a time

// Threads for `pieces` of a row, one each if that many may be: a power of two, whole warps.
inline unsigned threads_for(int64_t pieces, int most) {
  int threads = kWarp;
  while (threads < most && threads < pieces) threads *= 2;
  return static_cast<unsigned>(threads);
}

// The same for a row in batches of packs.
template <typename T>
unsigned threads_for_row(int64_t size, int most = kMostThreads) {
  const int64_t batch = kBatch * kPack<T>;
  return threads_for((size + batch - 1) / batch, most);
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

// The scores of a row from column j on, as many as a unit holds, with their bias.
template <typename Unit, typename T>
__device__ __forceinline__ Unit load_scores(const T* row, const T* bias, int64_t j) {
  Unit scores = load_unit<Unit>(row + j, 0);
  if (bias != nullptr) {
#pragma unroll
    for (int k = 0; k < kWidth<Unit, T>; ++k) scores.value[k] += bias[j + k];
  }
  return scores;
}

// The same of a row that ends before column `end`: -inf from there on, where nothing is read.
template <typename Unit, typename T>
__device__ __forceinline__ Unit load_scores(const T* row, const T* bias, int64_t j, int64_t end) {
  if (j + kWidth<Unit, T> <= end) return load_scores<Unit>(row, bias, j);
  Unit scores;
#pragma unroll
  for (int k = 0; k < kWidth<Unit, T>; ++k) {
    scores.value[k] = j + k < end ? load_scores<Single<T>>(row, bias, j + k).value[0] : -static_cast<T>(INFINITY);
  }
  return scores;
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
