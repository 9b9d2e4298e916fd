// Lazy optimizers on the device: one pass over the rows that a sorted gradient touches.
//
// A group of up to 32 lanes takes a position of the sorted ids. Where a run of equal ids begins there, it sums the run
// in its order (the coalescing; four loads are on their way at a time), updates the row and its state, and nobody else
// touches them: no atomics, the same bits whatever the order of blocks. Full moments also have the CPU's bits; the mean
// of squares of a row-wise moment is summed by lanes, so its last bit may differ.
//
// Bytes: a gradient row is read once (row-wise twice, the second time from cache), weight and state of a touched row
// are read and written once. N = 10,240 distinct rows of 64 float32 under Adam: 18 MB, 5.5 us at an H100's 3.35 TB/s;
// the sort of the ids before it (aten::sort) moves 2.6 MB. That is on paper, and of distinct rows: a run is summed by
// its group alone, one row after the other, so an item with 300 of them takes some 20 us. Flops: some 15 an element,
// and a hundred in float64 for each row's correction of the step, which take longer than the bytes where an SM has two
// float64 units (7.5, 8.6, 8.9, 12.0). No shared memory. 128 threads: rows are independent, so small blocks leave the
// scheduler most freedom.
#include <cmath>

#include "../core/row_update.h"
#include "block.cuh"
#include "dtype.h"
#include "pack.cuh"
#include "rows.h"

namespace t4r::cuda {
namespace {

constexpr int kThreads = 128;
// Blocks an SM shall hold: without the wish ptxas aims at more, and spills a few registers for it.
constexpr int kBlocks = 5;

// A gradient's ids in ascending order, and where each row of it is.
struct SortedPairs {
  const int64_t* ids;
  const int64_t* positions;
  int64_t size;

  // The end of the run of equal ids that begins at i: by doubled steps, then by halves, since runs may be long.
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

// The gradient's columns [j, j + C) of the row: the sum of the run in its order.
template <int C, typename S>
__device__ __forceinline__ Elements<Wide<S>, C> sum_run(const S* values, const SortedPairs& rows, const Run& run,
                                                        int64_t width, int64_t j) {
  constexpr int kAhead = 4;
  Elements<Wide<S>, C> sum;
  const auto first = load<C>(values + rows.positions[run.begin] * width + j);
#pragma unroll
  for (int k = 0; k < C; ++k) sum.value[k] = widen(first.value[k]);
  int64_t i = run.begin + 1;
  for (; i + kAhead <= run.end; i += kAhead) {
    Elements<S, C> next[kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) next[a] = load<C>(values + rows.positions[i + a] * width + j);
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
#pragma unroll
      for (int k = 0; k < C; ++k) sum.value[k] += widen(next[a].value[k]);
    }
  }
  for (; i < run.end; ++i) {
    const auto next = load<C>(values + rows.positions[i] * width + j);
#pragma unroll
    for (int k = 0; k < C; ++k) sum.value[k] += widen(next.value[k]);
  }
  return sum;
}

// Calls body(j) for the columns of this lane, C at a time; of no row where the run is empty.
template <int C, typename Body>
__device__ __forceinline__ void for_columns(const Run& run, int64_t width, Body body) {
  if (run.begin == run.end) return;
  for (int64_t j = static_cast<int64_t>(run.lane) * C; j < width; j += static_cast<int64_t>(run.group) * C) body(j);
}

// The mean over the row of the squares of value(j, k), for the leader; others get it too.
template <int C, typename T, typename Gradient>
__device__ T mean_square(const Run& run, int64_t width, Gradient gradient) {
  T sum = 0;
  for_columns<C>(run, width, [&](int64_t j) {
    const Elements<T, C> g = gradient(j);
#pragma unroll
    for (int k = 0; k < C; ++k) sum += g.value[k] * g.value[k];
  });
  return run.sum(sum) / static_cast<T>(width);
}

template <int C, bool kRowwise, typename S>
__device__ void update(const AdamRows<S>& task, const SortedPairs& rows, const Run& run) {
  using T = Wide<S>;
  const int64_t offset = run.id * task.width;
  const auto gradient = [&](int64_t j) { return sum_run<C>(task.values, rows, run, task.width, j); };
  const T square = kRowwise ? mean_square<C, T>(run, task.width, gradient) : T(0);
  T step_size = 0, inverse_root = 0;
  if (run.leads()) {
    const double steps = ++task.steps[run.id];
    step_size = static_cast<T>(task.lr / one_minus_power(task.log_beta1, steps));
    inverse_root = static_cast<T>(1.0 / std::sqrt(one_minus_power(task.log_beta2, steps)));
    if constexpr (kRowwise) {
      const T v = decayed_sum(task.exp_avg_sq[run.id], square, task.beta2, task.one_minus_beta2);
      task.exp_avg_sq[run.id] = v;
      step_size /= std::sqrt(v) * inverse_root + task.eps;
    }
  }
  step_size = run.from_leader(step_size);
  inverse_root = run.from_leader(inverse_root);
  for_columns<C>(run, task.width, [&](int64_t j) {
    const auto g = gradient(j);
    auto w = load<C>(task.weight + offset + j);
    auto m = load<C>(task.exp_avg + offset + j);
    Elements<T, C> v = {};
    if constexpr (!kRowwise) v = load<C>(task.exp_avg_sq + offset + j);
#pragma unroll
    for (int k = 0; k < C; ++k) {
      m.value[k] = decayed_average(m.value[k], g.value[k], task.one_minus_beta1);
      v.value[k] = decayed_sum(v.value[k], g.value[k] * g.value[k], task.beta2, task.one_minus_beta2);
      const T step = kRowwise ? step_size * m.value[k]
                              : step_size * (m.value[k] / (std::sqrt(v.value[k]) * inverse_root + task.eps));
      w.value[k] = narrow<S>(widen(w.value[k]) * task.keep - step);
    }
    store(task.weight + offset + j, w);
    store(task.exp_avg + offset + j, m);
    if constexpr (!kRowwise) store(task.exp_avg_sq + offset + j, v);
  });
}

template <int C, bool kRowwise, typename S>
__device__ void update(const AdagradRows<S>& task, const SortedPairs& rows, const Run& run) {
  using T = Wide<S>;
  const int64_t offset = run.id * task.width;
  const auto gradient = [&](int64_t j) {
    auto g = sum_run<C>(task.values, rows, run, task.width, j);
    const auto w = load<C>(task.weight + offset + j);
#pragma unroll
    for (int k = 0; k < C; ++k) g.value[k] = with_decay(g.value[k], task.weight_decay, widen(w.value[k]));
    return g;
  };
  T scale = 0;
  if constexpr (kRowwise) {
    const T square = mean_square<C, T>(run, task.width, gradient);
    if (run.leads()) {
      const T sum = task.square_sum[run.id] + square;
      task.square_sum[run.id] = sum;
      scale = task.lr / (std::sqrt(sum) + task.eps);
    }
    scale = run.from_leader(scale);
  }
  for_columns<C>(run, task.width, [&](int64_t j) {
    const auto g = gradient(j);
    auto w = load<C>(task.weight + offset + j);
    Elements<T, C> sum = {};
    if constexpr (!kRowwise) sum = load<C>(task.square_sum + offset + j);
#pragma unroll
    for (int k = 0; k < C; ++k) {
      sum.value[k] += g.value[k] * g.value[k];
      const T step = kRowwise ? scale * g.value[k] : task.lr * (g.value[k] / (std::sqrt(sum.value[k]) + task.eps));
      w.value[k] = narrow<S>(widen(w.value[k]) - step);
    }
    store(task.weight + offset + j, w);
    if constexpr (!kRowwise) store(task.square_sum + offset + j, sum);
  });
}

template <int C, bool kRowwise, typename Task>
__global__ void __launch_bounds__(kThreads, kBlocks)
    update_rows(Task task, SortedPairs rows, int64_t num_rows, int group) {
  const int64_t per_warp = kWarp / group;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / kWarp);
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int64_t first = warp * per_warp; first < rows.size; first += warps * per_warp) {
    const int64_t i = first + lane / group;
    Run run{-1, i, i, lane % group, group};
    if (i < rows.size && (i == 0 || rows.ids[i] != rows.ids[i - 1])) {
      run.id = rows.ids[i];
      if (run.id >= 0 && run.id < num_rows) run.end = rows.run_end(i);
    }
    update<C, kRowwise>(task, rows, run);
  }
}

// Starts the pass with as many lanes a row as it has pieces.
template <int C, typename Task>
int start(const Task& task, const SortedPairs& rows, int64_t num_rows, cudaStream_t stream) {
  const int64_t pieces = (task.width + C - 1) / C;
  int group = 1;
  while (group < kWarp && group < pieces) group *= 2;
  auto* const kernel = task.rowwise ? update_rows<C, true, Task> : update_rows<C, false, Task>;
  const unsigned blocks = blocks_for(rows.size, kThreads / group);
  T4R_LAUNCH(kernel, blocks, kThreads, 0, stream, task, rows, num_rows, group);
  return static_cast<int>(cudaGetLastError());
}

// `aligned`: every row of every tensor can be read 16 bytes at a time.
template <typename Task>
int start(const Task& task, const SortedPairs& rows, int64_t num_rows, bool aligned, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  using S = typename Task::Storage;
  return aligned ? start<kPack<S>>(task, rows, num_rows, queue) : start<1>(task, rows, num_rows, queue);
}

}  // namespace
}  // namespace t4r::cuda

extern "C" int t4r_adam_rows_cuda(void* weight, void* exp_avg, void* exp_avg_sq, int32_t* steps, const int64_t* ids,
                                  const int64_t* positions, const void* values, int64_t size, int64_t num_rows,
                                  int64_t width, bool rowwise, double lr, double beta1, double beta2, double eps,
                                  double weight_decay, int dtype, int device, void* stream) {
  using namespace t4r;
  if (size == 0 || width == 0) return 0;
  const cuda::DeviceScope scope(device);
  if (scope.failed()) return scope.status();
  return cuda::with_type(dtype, [&](auto zero) {
    using S = decltype(zero);
    using T = Wide<S>;
    const AdamRows<S> task =
        adam_task(static_cast<S*>(weight), static_cast<T*>(exp_avg), static_cast<T*>(exp_avg_sq), steps,
                  static_cast<const S*>(values), width, rowwise, lr, beta1, beta2, eps, weight_decay);
    const bool aligned = cuda::in_packs(task.weight, width, width) && cuda::in_packs(task.values, width, width) &&
                         cuda::in_packs(task.exp_avg, width, width) &&
                         (rowwise || cuda::in_packs(task.exp_avg_sq, width, width));
    return cuda::start(task, {ids, positions, size}, num_rows, aligned, stream);
  });
}

extern "C" int t4r_adagrad_rows_cuda(void* weight, void* square_sum, const int64_t* ids, const int64_t* positions,
                                     const void* values, int64_t size, int64_t num_rows, int64_t width, bool rowwise,
                                     double lr, double eps, double weight_decay, int dtype, int device, void* stream) {
  using namespace t4r;
  if (size == 0 || width == 0) return 0;
  const cuda::DeviceScope scope(device);
  if (scope.failed()) return scope.status();
  return cuda::with_type(dtype, [&](auto zero) {
    using S = decltype(zero);
    using T = Wide<S>;
    const AdagradRows<S> task = adagrad_task(static_cast<S*>(weight), static_cast<T*>(square_sum),
                                             static_cast<const S*>(values), width, rowwise, lr, eps, weight_decay);
    const bool aligned = cuda::in_packs(task.weight, width, width) && cuda::in_packs(task.values, width, width) &&
                         (rowwise || cuda::in_packs(task.square_sum, width, width));
    return cuda::start(task, {ids, positions, size}, num_rows, aligned, stream);
  });
}
