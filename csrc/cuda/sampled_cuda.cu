// One tile of sampled softmax, of sampled binary cross-entropy or of sampled logits: core/softmax_row.h on the device.
//
// A block takes a row [S], with 16 float32 scores a thread: 32 threads up to S = 512, 1,024 from S = 8,193 on, so that
// all of a row's loads are under way at once. The losses keep their row in shared memory between the sweeps (maximum,
// sum, gradient), so that a score is read once and written once, or only read without a gradient. That is 4 S bytes
// (8 S in float64) and 272 more: S up to 58,044 on an H100 (227 KiB a block), 16,316 on a T4 (64 KiB). Longer rows lie
// where they are: softmax reads them four times and writes them three times. Logits need one sweep, in place.
//
// Bytes: 8 N S with a gradient (float32), 4 N S without; candidate_log_q [S] and sorted_ids [S] come from L2. About 25
// instructions a score for softmax, 40 for binary cross-entropy. Floor on an H100: 2.4 us for a million scores from
// memory. A tile was just written by a GEMM: its 8 Mi scores (32 MiB; more from 32,768 candidates on, up to 128 MiB)
// come from L2 (50 MB) as far as they fit.
//
// N blocks keep N of the 132 SMs busy, if so many; one row of 16,384 scores is one batch of loads on one SM, which
// takes about as long as starting a second kernel would: rows are not split. At 64 registers a thread or fewer, an SM
// has 32 warps or more (S > 512), or as many as blocks fit (S <= 512: 32 on 8.0, 9.0 and 10.0, 16 to 24 elsewhere).
//
// Hits: the block's first warp finds a row's target among the sorted candidate ids by 32 probes at a time while the
// others load; the run of hits, if any, is written over by all threads. Sums: 4 scores (32 in binary cross-entropy) in
// the scores' dtype, then float64, in an order that depends on S and on whether the row fits, not on its alignment.
#include "sampled.h"

#include <type_traits>

#include "../core/softmax_row.h"
#include "block.cuh"
#include "dtype.h"
#include "row.cuh"

namespace t4r::cuda {
namespace {

struct alignas(16) Scratch {
  double partial[kWarp];  // of a reduction: one a warp
  int64_t first_hit;
};

// First position in sorted_ids [size] that is not below id; all lanes of a warp must call. Three loads that wait for
// each other for 32,768 ids, where a lane alone needs 15.
__device__ int64_t warp_lower_bound(const int64_t* sorted_ids, int64_t size, int64_t id) {
  const int64_t lane = threadIdx.x % kWarp;
  int64_t low = 0;
  while (size > 0) {
    const int64_t piece = (size + kWarp - 1) / kWarp;
    const int64_t last = (lane + 1) * piece - 1;
    const bool below = last < size && sorted_ids[low + last] < id;
    const int64_t passed = __popc(__ballot_sync(kAllLanes, below)) * piece;
    low += passed;
    // in the piece that is left, the last id is known not to be below, unless the ids end before it
    size = size - passed < piece - 1 ? size - passed : piece - 1;
  }
  return low;
}

// to_j = from_j scale - log_q_j factor, for units [0, end). `to` may be `from`.
template <typename Unit, bool kToShared, typename T>
__device__ __forceinline__ void correct_units(const T* from, const T* log_q, int64_t end, T scale, T factor, T* to) {
  constexpr int batch = kBatch;
  const int threads = static_cast<int>(blockDim.x);
  for (int64_t begin = threadIdx.x; begin < end; begin += batch * threads) {
    const T* const scores_here = from + begin * kWidth<Unit, T>;
    const T* const log_q_here = log_q != nullptr ? log_q + begin * kWidth<Unit, T> : nullptr;
    T* const to_here = to + begin * kWidth<Unit, T>;
    const int left = units_left(begin, end, batch * threads);
    Unit scores[batch] = {};
#pragma unroll
    for (int u = 0; u < batch; ++u) {
      if (u * threads >= left) break;
      scores[u] = load_unit<Unit>(scores_here, u * threads);
    }
#pragma unroll
    for (int u = 0; u < batch; ++u) {
      if (u * threads >= left) break;
      const Unit counts = log_q != nullptr ? load_unit<Unit>(log_q_here, u * threads) : Unit{};
#pragma unroll
      for (int k = 0; k < kWidth<Unit, T>; ++k) {
        scores[u].value[k] = scores[u].value[k] * scale - counts.value[k] * factor;
      }
      store_unit<kToShared>(to_here, u * threads, scores[u]);
    }
  }
}

// A row between the sweeps: in shared memory, padded with -inf to whole packs, or where it is.
template <typename T, bool kHeld>
struct Row {
  using Unit = std::conditional_t<kHeld, Pack<T>, Single<T>>;

  T* scores;
  T* held;
  int64_t size;
  bool packed;  // scores and log_q may be read in packs

  __device__ Row(const SampledTile<T>& tile, int64_t n, T* shared)
      : scores(tile.scores + n * tile.stride),
        held(kHeld ? shared : scores),
        size(tile.num_candidates),
        packed(kHeld && rows_are_aligned(tile.scores, tile.stride) && is_aligned(tile.candidate_log_q)) {}

  __device__ int64_t packs() const { return packed ? size / kPack<T> : 0; }
  __device__ int64_t units() const { return (size + kWidth<Unit, T> - 1) / kWidth<Unit, T>; }
  __device__ Unit load(int64_t unit) const { return load_unit<Unit>(held, unit); }
  __device__ void store(int64_t unit, const Unit& values) const { store_unit<kHeld>(held, unit, values); }

  // held_j = scores_j scale - log_q_j factor
  __device__ void read(const T* log_q, T scale, T factor) const {
    const int64_t read = packs() * kPack<T>;
    correct_units<Pack<T>, kHeld>(scores, log_q, packs(), scale, factor, held);
    correct_units<Single<T>, kHeld>(scores + read, log_q != nullptr ? log_q + read : nullptr, size - read, scale,
                                    factor, held + read);
    const int64_t padding = units() * kWidth<Unit, T> - size;
    if (threadIdx.x < padding) held[size + threadIdx.x] = -static_cast<T>(INFINITY);
  }

  // scores_j = held_j factor
  __device__ void write(T factor) const {
    const int64_t written = packs() * kPack<T>;
    correct_units<Pack<T>, false>(held, static_cast<const T*>(nullptr), packs(), factor, T(0), scores);
    correct_units<Single<T>, false>(held + written, static_cast<const T*>(nullptr), size - written, factor, T(0),
                                    scores + written);
  }
};

// Reads a row, with -inf at every candidate that equals its target. All of the row is there when it returns.
template <typename T, bool kHeld>
__device__ void read_row(const Row<T, kHeld>& row, const SampledTile<T>& tile, int64_t n, T scale, T factor,
                         Scratch* scratch) {
  const int64_t target = tile.targets[n];
  if (tile.sorted_ids != nullptr && threadIdx.x < kWarp) {
    const int64_t first = warp_lower_bound(tile.sorted_ids, row.size, target);
    if (threadIdx.x == 0) scratch->first_hit = first;
  }
  row.read(tile.candidate_log_q, scale, factor);
  __syncthreads();
  if (tile.sorted_ids == nullptr) return;
  const int64_t first = scratch->first_hit;
  if (first == row.size || tile.sorted_ids[first] != target) return;
  for (int64_t i = first + threadIdx.x; i < row.size && tile.sorted_ids[i] == target; i += blockDim.x) {
    row.held[tile.order[i]] = -static_cast<T>(INFINITY);
  }
  __syncthreads();
}

template <typename T, bool kHeld>
__device__ T largest_of(const Row<T, kHeld>& row, Scratch* scratch) {
  T largest = -static_cast<T>(INFINITY);
  for (int64_t i = threadIdx.x; i < row.units(); i += blockDim.x) {
    const auto unit = row.load(i);
    for (const T value : unit.value) largest = value > largest ? value : largest;
  }
  return block_reduce(largest, Larger{}, reinterpret_cast<T*>(scratch->partial));
}

// held_j = 2^(held_j - m) if they are to be kept; returns the sum
template <typename T, bool kHeld>
__device__ double exponentiate(const Row<T, kHeld>& row, T m, bool keep, Scratch* scratch) {
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < row.units(); i += blockDim.x) {
    auto unit = row.load(i);
    T of_unit = 0;
    for (T& value : unit.value) {
      value = exp2_small(value - m);
      of_unit += value;
    }
    if (keep) row.store(i, unit);
    sum += static_cast<double>(of_unit);
  }
  return block_reduce(sum, Add{}, scratch->partial);
}

template <typename T, bool kHeld>
__global__ void __launch_bounds__(kMostThreads, 1) softmax_rows(const SampledTile<T> tile) {
  T4R_DYNAMIC_SHARED(Scratch, scratch);
  const int64_t n = blockIdx.x;
  const T log2_e = static_cast<T>(1.4426950408889634);
  const Row<T, kHeld> row(tile, n, reinterpret_cast<T*>(scratch + 1));
  read_row(row, tile, n, tile.inverse_temperature * log2_e, log2_e, scratch);
  T target = tile.target_scores[n] * tile.inverse_temperature;
  if (tile.target_log_q != nullptr && !tile.corrected) target -= tile.target_log_q[n];
  target *= log2_e;
  T m = largest_of(row, scratch);
  m = target > m ? target : m;
  const double sum = exponentiate(row, m, tile.with_grad, scratch);
  const double total = sum + static_cast<double>(exp2_small(target - m));
  const double g = (tile.row_grad != nullptr ? static_cast<double>(tile.row_grad[n]) : 1.0) *
                   static_cast<double>(tile.inverse_temperature);
  if (threadIdx.x == 0) {
    const double max_minus_target = (static_cast<double>(m) - static_cast<double>(target)) * 0.69314718055994531;
    tile.loss[n] = static_cast<T>(row_loss(sum, total, max_minus_target, tile.corrected));
    if (tile.with_grad) tile.target_grad[n] = static_cast<T>(-g * (sum / total));
  }
  if (!tile.with_grad) return;
  __syncthreads();  // others made what a thread writes, where the row is not written in packs
  row.write(static_cast<T>(g / total));
}

// held_j = g sigmoid(held_j) if they are to be kept; returns the sum of softplus(held_j). Where held_j is -inf both are
// 0; NaN stays NaN.
template <typename T, bool kHeld>
__device__ double softplus_and_sigmoid(const Row<T, kHeld>& row, T g, bool keep, Scratch* scratch) {
  constexpr int factors = 32;  // of at most 2 in a product: one logarithm for many
  constexpr int units = factors / kWidth<typename Row<T, kHeld>::Unit, T>;
  double total = 0.0;
  for (int64_t begin = threadIdx.x; begin < row.units(); begin += units * blockDim.x) {
    const int64_t end = begin + units * blockDim.x < row.units() ? begin + units * blockDim.x : row.units();
    T linear = 0;
    T product = 0;  // of 1 + e, less 1: what is small stays exact
    for (int64_t i = begin; i < end; i += blockDim.x) {
      auto unit = row.load(i);
      for (T& x : unit.value) {
        const T e = exp_of_minus_abs(x);
        linear += x < 0 ? T(0) : x;
        product = multiply_add<true>(product, e, product + e);
        x = g * (x < 0 ? e : T(1)) / (T(1) + e);
      }
      if (keep) row.store(i, unit);
    }
    total += log_f64(1.0 + static_cast<double>(product)) + static_cast<double>(linear);
  }
  return block_reduce(total, Add{}, scratch->partial);
}

template <typename T, bool kHeld>
__global__ void __launch_bounds__(kMostThreads, 1) bce_rows(const SampledTile<T> tile) {
  T4R_DYNAMIC_SHARED(Scratch, scratch);
  const int64_t n = blockIdx.x;
  const Row<T, kHeld> row(tile, n, reinterpret_cast<T*>(scratch + 1));
  read_row(row, tile, n, tile.inverse_temperature, T(1), scratch);
  const T g = (tile.row_grad != nullptr ? tile.row_grad[n] : T(1)) * tile.inverse_temperature;
  const double of_candidates = softplus_and_sigmoid(row, g, tile.with_grad, scratch);
  if (threadIdx.x == 0) {
    const double beta = static_cast<double>(*tile.beta);
    T x = tile.target_scores[n] * tile.inverse_temperature;
    if (tile.target_log_q != nullptr) x -= tile.target_log_q[n];
    double softplus, sigmoid;
    target_terms(static_cast<double>(x), softplus, sigmoid);
    tile.loss[n] = static_cast<T>(beta * softplus + of_candidates);
    if (tile.with_grad) tile.target_grad[n] = static_cast<T>(-beta * sigmoid) * g;
  }
  if (!kHeld || !tile.with_grad) return;
  __syncthreads();  // as in softmax_rows
  row.write(T(1));
}

// `scores` points at column 0, the target's.
template <typename T>
__global__ void __launch_bounds__(kMostThreads, 1) logits_rows(SampledTile<T> tile) {
  T4R_DYNAMIC_SHARED(Scratch, scratch);
  const int64_t n = blockIdx.x;
  if (threadIdx.x == 0) {
    T* target = tile.scores + n * tile.stride;
    *target = *target * tile.inverse_temperature - (tile.target_log_q != nullptr ? tile.target_log_q[n] : T(0));
  }
  ++tile.scores;
  const Row<T, false> row(tile, n, nullptr);
  read_row(row, tile, n, tile.inverse_temperature, T(1), scratch);
}

template <typename T>
SampledTile<T> tile_of(void* scores, int64_t stride, int64_t num_candidates, const int64_t* targets,
                       const int64_t* sorted_ids, const int64_t* order, const void* target_log_q,
                       const void* candidate_log_q, double inverse_temperature) {
  SampledTile<T> tile{};
  tile.scores = static_cast<T*>(scores);
  tile.stride = stride;
  tile.num_candidates = num_candidates;
  tile.targets = targets;
  tile.sorted_ids = sorted_ids;
  tile.order = order;
  tile.target_log_q = static_cast<const T*>(target_log_q);
  tile.candidate_log_q = static_cast<const T*>(candidate_log_q);
  tile.inverse_temperature = static_cast<T>(inverse_temperature);
  return tile;
}

template <typename T>
void add_loss(SampledTile<T>& tile, const void* target_scores, const void* row_grad, int with_grad, void* loss,
              void* target_grad) {
  tile.target_scores = static_cast<const T*>(target_scores);
  tile.row_grad = static_cast<const T*>(row_grad);
  tile.with_grad = with_grad != 0;
  tile.loss = static_cast<T*>(loss);
  tile.target_grad = static_cast<T*>(target_grad);
}

// Starts one block a row, of the kernel that holds the row in shared memory if it fits.
template <typename T, typename Kernel>
int launch(const SampledTile<T>& tile, int64_t rows, Kernel held, Kernel in_place, int device, void* stream) {
  if (rows > kMostBlocks) return kBadArgument;
  const int64_t padded = (tile.num_candidates + kPack<T> - 1) / kPack<T> * kPack<T>;
  const size_t bytes = sizeof(Scratch) + static_cast<size_t>(padded) * sizeof(T);
  const bool fits = held != in_place && bytes <= most_shared(device);
  const Kernel kernel = fits ? held : in_place;
  const auto status = fits ? allow_shared(kernel, bytes) : cudaSuccess;
  if (status != cudaSuccess) return static_cast<int>(status);
  T4R_LAUNCH(kernel, static_cast<unsigned>(rows), threads_for_row<T>(tile.num_candidates),
             fits ? bytes : sizeof(Scratch), static_cast<cudaStream_t>(stream), tile);
  return static_cast<int>(cudaGetLastError());
}

}  // namespace
}  // namespace t4r::cuda

using t4r::cuda::DeviceScope;

extern "C" int t4r_sampled_softmax_tile_cuda(void* scores, int64_t stride, int64_t rows, int64_t num_candidates,
                                             const void* target_scores, const int64_t* targets,
                                             const int64_t* sorted_ids, const int64_t* order, const void* target_log_q,
                                             const void* candidate_log_q, const void* row_grad,
                                             double inverse_temperature, int corrected, int with_grad, void* loss,
                                             void* target_grad, int dtype, int device, void* stream) {
  const DeviceScope scope(device);
  if (scope.failed()) return scope.status();
  if (rows == 0) return 0;
  return t4r::cuda::with_wide_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    auto tile = t4r::cuda::tile_of<T>(scores, stride, num_candidates, targets, sorted_ids, order, target_log_q,
                                      candidate_log_q, inverse_temperature);
    t4r::cuda::add_loss(tile, target_scores, row_grad, with_grad, loss, target_grad);
    tile.corrected = corrected != 0;
    return t4r::cuda::launch(tile, rows, t4r::cuda::softmax_rows<T, true>, t4r::cuda::softmax_rows<T, false>, device,
                             stream);
  });
}

extern "C" int t4r_sampled_bce_tile_cuda(void* scores, int64_t stride, int64_t rows, int64_t num_candidates,
                                         const void* target_scores, const int64_t* targets, const int64_t* sorted_ids,
                                         const int64_t* order, const void* target_log_q, const void* candidate_log_q,
                                         const void* row_grad, double inverse_temperature, const void* beta,
                                         int with_grad, void* loss, void* target_grad, int dtype, int device,
                                         void* stream) {
  const DeviceScope scope(device);
  if (scope.failed()) return scope.status();
  if (rows == 0) return 0;
  return t4r::cuda::with_wide_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    auto tile = t4r::cuda::tile_of<T>(scores, stride, num_candidates, targets, sorted_ids, order, target_log_q,
                                      candidate_log_q, inverse_temperature);
    t4r::cuda::add_loss(tile, target_scores, row_grad, with_grad, loss, target_grad);
    tile.beta = static_cast<const T*>(beta);
    return t4r::cuda::launch(tile, rows, t4r::cuda::bce_rows<T, true>, t4r::cuda::bce_rows<T, false>, device, stream);
  });
}

extern "C" int t4r_sampled_logits_tile_cuda(void* logits, int64_t stride, int64_t rows, int64_t num_candidates,
                                            const int64_t* targets, const int64_t* sorted_ids, const int64_t* order,
                                            const void* target_log_q, const void* candidate_log_q,
                                            double inverse_temperature, int dtype, int device, void* stream) {
  const DeviceScope scope(device);
  if (scope.failed()) return scope.status();
  if (rows == 0) return 0;
  return t4r::cuda::with_wide_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto tile = t4r::cuda::tile_of<T>(logits, stride, num_candidates, targets, sorted_ids, order, target_log_q,
                                            candidate_log_q, inverse_temperature);
    return t4r::cuda::launch(tile, rows, t4r::cuda::logits_rows<T>, t4r::cuda::logits_rows<T>, device, stream);
  });
}
