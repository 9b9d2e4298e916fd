// Lazy optimizers on the device: one pass over the rows that a sorted gradient touches.
//
// A group of up to 32 lanes takes a position of the sorted ids. Where a run of equal ids begins there, it sums the run
// (the coalescing), updates the row and its state, and nobody else touches them: no atomics, the same bits whatever the
// order of blocks. Full moments also have the CPU's bits; the mean of squares of a row-wise moment is summed by lanes,
// so its last bit may differ. Of runs longer than kPart, which a few popular items have in every batch, a first kernel
// sums the parts, each by a group, and the pass adds them up: n rows of one item are some kPart + n / kPart loads one
// after the other, four on their way at a time, instead of n.
//
// Bytes: a gradient row is read once (row-wise twice, the second time from cache), weight and state of a touched row
// are read and written once. N = 10,240 distinct rows of 64 float32 under Adam: 18 MB, 5.5 us at an H100's 3.35 TB/s;
// the sort of the ids before it (aten::sort) moves 2.6 MB, and the first kernel looks at two ids in 32. An item with
// 300 rows takes some 5 us in place of 20, one with 7,000 some 40 in place of 500 (up to 128 columns; more are as many
// rounds more). All that is on paper. Flops: some 15
// an element, and a hundred in float64 for each row's correction of the step, which take longer than the bytes where an
// SM has two float64 units (7.5, 8.6, 8.9, 12.0). No shared memory. 128 threads: rows are independent, so small blocks
// leave the scheduler most freedom.
#include <cmath>

#include "../core/row_update.h"
#include "dtype.h"
#include "rows.h"
#include "runs.cuh"

namespace t4r::cuda {
namespace {

constexpr int kThreads = 128;
// Blocks an SM shall hold: without the wish ptxas aims at more, and spills a few registers for it.
constexpr int kBlocks = 5;

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
__device__ void update(const AdamRows<S>& task, const SortedGradient<S>& sorted, const Run& run) {
  using T = Wide<S>;
  const int64_t offset = run.id * task.width;
  const auto gradient = [&](int64_t j) { return sorted.template sum_run<C>(run, j); };
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
__device__ void update(const AdagradRows<S>& task, const SortedGradient<S>& sorted, const Run& run) {
  using T = Wide<S>;
  const int64_t offset = run.id * task.width;
  const auto gradient = [&](int64_t j) {
    auto g = sorted.template sum_run<C>(run, j);
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

// Calls body(i, lane of the group) for i in [0, size), each by a group of lanes; whole warps come, with i >= size too.
template <typename Body>
__device__ __forceinline__ void for_groups(int64_t size, int group, Body body) {
  const int64_t per_warp = kWarp / group;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / kWarp);
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int64_t first = warp * per_warp; first < size; first += warps * per_warp) {
    body(first + lane / group, lane % group);
  }
}

// The parts of runs but their first ones. At most one of them begins at [(part + 1) kPart, (part + 2) kPart), and it is
// of the run that has the first of these positions.
template <int C, typename S>
__global__ void __launch_bounds__(kThreads, kBlocks) sum_parts(SortedGradient<S> sorted, int64_t num_rows, int group) {
  const SortedPairs rows = sorted.rows;
  for_groups(most_parts(rows.size), group, [&](int64_t part, int lane) {
    if (part >= most_parts(rows.size)) return;
    const int64_t at = (part + 1) * kPart, id = rows.ids[at];
    if (rows.ids[at - 1] != id || id < 0 || id >= num_rows) return;
    const int64_t into_part = (at - rows.run_begin(at)) % kPart;
    const int64_t begin = into_part == 0 ? at : at + kPart - into_part;
    if (begin >= rows.size || rows.ids[begin] != id) return;
    const int64_t last = (begin + kPart < rows.size ? begin + kPart : rows.size) - 1;
    const Run run{id, begin, rows.ids[last] == id ? last + 1 : rows.run_end(begin), lane, group};
    for_columns<C>(run, sorted.width, [&](int64_t j) {
      store(sorted.parts + part * sorted.width + j, sorted.template sum_part<C>(run.begin, run.end, j));
    });
  });
}

template <int C, bool kRowwise, typename Task>
__global__ void __launch_bounds__(kThreads, kBlocks)
    update_rows(Task task, SortedGradient<typename Task::Storage> sorted, int64_t num_rows, int group) {
  const SortedPairs& rows = sorted.rows;
  for_groups(rows.size, group, [&](int64_t i, int lane) {
    Run run{-1, i, i, lane, group};
    if (i < rows.size && (i == 0 || rows.ids[i] != rows.ids[i - 1])) {
      run.id = rows.ids[i];
      if (run.id >= 0 && run.id < num_rows) run.end = rows.run_end(i);
    }
    update<C, kRowwise>(task, sorted, run);
  });
}

// Starts both with as many lanes a row as it has pieces.
template <int C, typename Task>
int start(const Task& task, const SortedGradient<typename Task::Storage>& sorted, int64_t num_rows,
          cudaStream_t stream) {
  using S = typename Task::Storage;
  const int64_t pieces = (task.width + C - 1) / C;
  int group = 1;
  while (group < kWarp && group < pieces) group *= 2;
  if (const int64_t parts = most_parts(sorted.rows.size); parts > 0) {
    auto* const first = sum_parts<C, S>;
    T4R_LAUNCH(first, blocks_for(parts, kThreads / group), kThreads, 0, stream, sorted, num_rows, group);
    const cudaError_t status = cudaGetLastError();
    if (status != cudaSuccess) return static_cast<int>(status);
  }
  auto* const kernel = task.rowwise ? update_rows<C, true, Task> : update_rows<C, false, Task>;
  const unsigned blocks = blocks_for(sorted.rows.size, kThreads / group);
  T4R_LAUNCH(kernel, blocks, kThreads, 0, stream, task, sorted, num_rows, group);
  return static_cast<int>(cudaGetLastError());
}

// `aligned`: every row of the task's tensors can be read 16 bytes at a time.
template <typename Task>
int start(const Task& task, const SortedPairs& rows, int64_t num_rows, void* parts, bool aligned, void* stream) {
  using S = typename Task::Storage;
  const auto queue = static_cast<cudaStream_t>(stream);
  const SortedGradient<S> sorted{task.values, rows, task.width, static_cast<Wide<S>*>(parts)};
  aligned = aligned && in_packs(task.values, task.width, task.width) && in_packs(sorted.parts, task.width, task.width);
  return aligned ? start<kPack<S>>(task, sorted, num_rows, queue) : start<1>(task, sorted, num_rows, queue);
}

}  // namespace
}  // namespace t4r::cuda

extern "C" int t4r_adam_rows_cuda(void* weight, void* exp_avg, void* exp_avg_sq, int32_t* steps, const int64_t* ids,
                                  const int64_t* positions, const void* values, void* parts, int64_t size,
                                  int64_t num_rows, int64_t width, bool rowwise, double lr, double beta1, double beta2,
                                  double eps, double weight_decay, int dtype, int device, void* stream) {
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
    const bool aligned = cuda::in_packs(task.weight, width, width) && cuda::in_packs(task.exp_avg, width, width) &&
                         (rowwise || cuda::in_packs(task.exp_avg_sq, width, width));
    return cuda::start(task, {ids, positions, size}, num_rows, parts, aligned, stream);
  });
}

extern "C" int t4r_adagrad_rows_cuda(void* weight, void* square_sum, const int64_t* ids, const int64_t* positions,
                                     const void* values, void* parts, int64_t size, int64_t num_rows, int64_t width,
                                     bool rowwise, double lr, double eps, double weight_decay, int dtype, int device,
                                     void* stream) {
  using namespace t4r;
  if (size == 0 || width == 0) return 0;
  const cuda::DeviceScope scope(device);
  if (scope.failed()) return scope.status();
  return cuda::with_type(dtype, [&](auto zero) {
    using S = decltype(zero);
    using T = Wide<S>;
    const AdagradRows<S> task = adagrad_task(static_cast<S*>(weight), static_cast<T*>(square_sum),
                                             static_cast<const S*>(values), width, rowwise, lr, eps, weight_decay);
    const bool aligned =
        cuda::in_packs(task.weight, width, width) && (rowwise || cuda::in_packs(task.square_sum, width, width));
    return cuda::start(task, {ids, positions, size}, num_rows, parts, aligned, stream);
  });
}
