// The rows of a sorted gradient on the device: runs of equal ids, who has one, and its sum.
#pragma once

#include "../core/row_update.h"
#include "block.cuh"
#include "pack.cuh"

namespace t4r::cuda {

// A gradient's ids in ascending order, and where each row of it is.
struct SortedPairs {
  const int64_t* ids;
  const int64_t* positions;
  int64_t size;

  // The end of the run of equal ids that i is in: by doubled steps, then by halves, since runs may be long.
  __device__ int64_t run_end(int64_t i) const {
    const int64_t id = ids[i];
    int64_t step = 1;
    while (i + step < size && ids[i + step] == id) step *= 2;
    int64_t low = i + step / 2, high = i + step < size ? i + step : size;  // ids[low] == id, ids[high] != id
    while (high - low > 1) {
      const int64_t middle = low + (high - low) / 2;
      (ids[middle] == id ? low : high) = middle;
    }
    return high;
  }

  // Its begin, likewise.
  __device__ int64_t run_begin(int64_t i) const {
    const int64_t id = ids[i];
    int64_t step = 1;
    while (i - step >= 0 && ids[i - step] == id) step *= 2;
    int64_t low = i - step >= 0 ? i - step : -1, high = i - step / 2;  // ids[low] != id, ids[high] == id
    while (high - low > 1) {
      const int64_t middle = low + (high - low) / 2;
      (ids[middle] == id ? high : low) = middle;
    }
    return high;
  }
};

// The run [begin, end) of one row, which this group of lanes has to itself; empty where there is nothing to do, but
// then too the group takes part in what the warp does together.
struct Run {
  int64_t id;
  int64_t begin;
  int64_t end;
  int lane;   // of the group
  int group;  // lanes: a power of two, at most 32

  __device__ bool leads() const { return lane == 0 && begin < end; }

  template <typename T>
  __device__ T from_leader(T value) const {
    return __shfl_sync(kAllLanes, value, static_cast<int>(threadIdx.x) % kWarp / group * group);
  }
  template <typename T>
  __device__ T sum(T value) const {
    for (int distance = group / 2; distance > 0; distance /= 2) {
      value += __shfl_xor_sync(kAllLanes, value, distance);
    }
    return value;
  }
};

// C consecutive elements: one, or as many as 16 bytes of the weight's type hold.
template <typename T, int C>
struct Elements {
  T value[C];
};

template <int C, typename S>
__device__ __forceinline__ Elements<S, C> load(const S* from) {
  Elements<S, C> out;
  if constexpr (C == 1) {
    out.value[0] = *from;
  } else {
#pragma unroll
    for (int k = 0; k < C; k += kPack<S>) {
      const Pack<S> pack = load_pack(from + k);
#pragma unroll
      for (int i = 0; i < kPack<S>; ++i) out.value[k + i] = pack.value[i];
    }
  }
  return out;
}

template <typename S, int C>
__device__ __forceinline__ void store(S* to, const Elements<S, C>& from) {
  if constexpr (C == 1) {
    *to = from.value[0];
  } else {
#pragma unroll
    for (int k = 0; k < C; k += kPack<S>) {
      Pack<S> pack;
#pragma unroll
      for (int i = 0; i < kPack<S>; ++i) pack.value[i] = from.value[k + i];
      store_pack(to + k, pack);
    }
  }
}

// Adds the columns [j, j + C) of the rows row(first), ..., row(end - 1) to `sum`, in this order. Four loads are on
// their way at a time.
template <int C, typename T, typename Row>
__device__ __forceinline__ void add_rows(Elements<T, C>& sum, int64_t first, int64_t end, int64_t j, Row row) {
  constexpr int kAhead = 4;
  int64_t i = first;
  for (; i + kAhead <= end; i += kAhead) {
    decltype(load<C>(row(i))) next[kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) next[a] = load<C>(row(i + a) + j);
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
#pragma unroll
      for (int k = 0; k < C; ++k) sum.value[k] += widen(next[a].value[k]);
    }
  }
  for (; i < end; ++i) {
    const auto next = load<C>(row(i) + j);
#pragma unroll
    for (int k = 0; k < C; ++k) sum.value[k] += widen(next.value[k]);
  }
}

// A gradient of rows, sorted by id.
template <typename S>
struct SortedGradient {
  const S* values;  // [rows.size, width]
  SortedPairs rows;
  int64_t width;
  Wide<S>* parts;  // [most_parts(rows.size), width]: sums of parts of runs

  // The columns [j, j + C) of the sum of the part [begin, end), in its order.
  template <int C>
  __device__ __forceinline__ Elements<Wide<S>, C> sum_part(int64_t begin, int64_t end, int64_t j) const {
    Elements<Wide<S>, C> sum;
#pragma unroll
    for (int k = 0; k < C; ++k) sum.value[k] = static_cast<Wide<S>>(-0.0);  // and any number are that number
    add_rows<C>(sum, begin, end, j, [this](int64_t i) { return values + rows.positions[i] * width; });
    return sum;
  }

  // The same of a whole run, of which `parts` has all but the first.
  template <int C>
  __device__ __forceinline__ Elements<Wide<S>, C> sum_run(const Run& run, int64_t j) const {
    const bool has_parts = run.end - run.begin > kPart;
    auto sum = sum_part<C>(run.begin, has_parts ? run.begin + kPart : run.end, j);
    if (has_parts) {
      const int64_t first = run.begin / kPart;
      add_rows<C>(sum, first, first + (run.end - run.begin - 1) / kPart, j,
                  [this](int64_t part) { return parts + part * width; });
    }
    return sum;
  }
};

// Calls body(j) for the columns of this lane, C at a time; of no row where the run is empty.
template <int C, typename Body>
__device__ __forceinline__ void for_columns(const Run& run, int64_t width, Body body) {
  if (run.begin == run.end) return;
  for (int64_t j = static_cast<int64_t>(run.lane) * C; j < width; j += static_cast<int64_t>(run.group) * C) body(j);
}

}  // namespace t4r::cuda
