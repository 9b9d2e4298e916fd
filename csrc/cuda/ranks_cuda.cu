// Rank counting on the device.
//
// pair_scores: eight lanes a pair, each with one of the eight partial sums that the CPU keeps: the same bits. Bytes:
// two rows of D a pair; flops 2 D in float64. 10,240 pairs of 64 float32: 5.2 MB, 1.6 us at an H100's 3.35 TB/s.
//
// largest_norms: the largest |w| and |b| of a tile, from which the error of its scores is bounded. Eight lanes a row;
// the blocks' maxima meet in an atomicMax of the bits, which does not depend on their order. Bytes: the tile's rows.
//
// count_above: one block a row of scores, or a piece of it where rows are few. A score is read once (16 bytes at a
// time) and compared with the two limits between which the GEMM's rounding could decide; only a score between them is
// made again in float64, four at a time by a warp. Bytes: rows * size * 4; a tile of 1024 x 8192: 34 MB, 10 us, and
// less where the GEMM left it in the 50 MB of second-level cache. Blocks as small as fit the row, at most 256 threads.
// Shared memory: a number a warp. The pieces of a row meet in an atomicAdd of integers, which does not depend on their
// order.
#include <cmath>

#include "../core/item_row.h"
#include "block.cuh"
#include "dtype.h"
#include "ranks.h"
#include "row.cuh"

namespace t4r::cuda {
namespace {

constexpr int kLanes = 8;  // of a pair, and the CPU's partial sums
constexpr int kPairThreads = 256;
constexpr int kRowThreads = 256;  // at most
// Blocks an SM shall hold: without the wish ptxas aims at more, and spills a few registers for it.
constexpr int kBlocks = 3;
// Rows are cut until there are so many blocks, what an H100 holds, or pieces take so many turns.
constexpr int64_t kBusyBlocks = kBlocks * 132;
constexpr int64_t kLeastTurns = 4;

__device__ __forceinline__ void add(int64_t* count, int64_t more) {
  if (more != 0) atomicAdd(reinterpret_cast<unsigned long long*>(count), static_cast<unsigned long long>(more));
}

// h.w + b by the eight lanes that `lane` counts, in the CPU's order; every lane of the warp calls, the first of the
// eight gets the result. `active`: whether these eight have a pair.
template <typename T>
__device__ double pair_score(const T* hidden, const T* row, int64_t width, const T* bias, int lane, bool active) {
  double sum = 0.0;
  if (active) {
    const int64_t whole = width / kLanes * kLanes;
#pragma unroll 4
    for (int64_t d = lane; d < whole; d += kLanes) sum += static_cast<double>(hidden[d]) * static_cast<double>(row[d]);
    if (lane == 0) {
      for (int64_t d = whole; d < width; ++d) sum += static_cast<double>(hidden[d]) * static_cast<double>(row[d]);
    }
  }
  double total = sum;
#pragma unroll
  for (int k = 1; k < kLanes; ++k) total += __shfl_down_sync(kAllLanes, sum, k);
  return total + (active && bias != nullptr ? static_cast<double>(*bias) : 0.0);
}

template <typename T>
__global__ void __launch_bounds__(kPairThreads, kBlocks) score_pairs(PairScores<T> pairs, int64_t size) {
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t per_warp = kWarp / kLanes;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kPairThreads + threadIdx.x) / kWarp * per_warp;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kPairThreads / kLanes;
  for (int64_t of_warp = first; of_warp < size; of_warp += step) {
    const int64_t i = of_warp + static_cast<int64_t>(threadIdx.x) % kWarp / kLanes;
    const int64_t id = i < size ? pairs.ids[i] : -1;
    const bool active = id >= 0 && id < pairs.items;
    const double score = pair_score(pairs.hidden + (active ? i / pairs.per_row * pairs.width : 0),
                                    pairs.weight + (active ? id * pairs.weight_stride : 0), pairs.width,
                                    active && pairs.bias != nullptr ? pairs.bias + id : nullptr, lane, active);
    if (lane == 0 && i < size) {
      pairs.out[i] = active ? score : static_cast<double>(id < 0 ? -INFINITY : NAN);
    }
  }
}

// The largest |w|^2 and |b| of a tile, as the bits of float64, whose order is that of the numbers.
struct Largest {
  unsigned long long square;
  unsigned long long bias;
};

__device__ __forceinline__ void raise(unsigned long long* largest, double value) {
  if (value > 0) atomicMax(largest, bit_cast<unsigned long long>(value));  // NaN is passed over
}

template <typename T>
__global__ void __launch_bounds__(kPairThreads, kBlocks)
    largest_norms(const T* weight, int64_t rows, int64_t stride, int64_t width, const T* bias, Largest* largest) {
  T4R_DYNAMIC_SHARED(double, scratch);
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t per_warp = kWarp / kLanes;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kPairThreads + threadIdx.x) / kWarp * per_warp;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kPairThreads / kLanes;
  double square = 0.0, magnitude = 0.0;
  for (int64_t of_warp = first; of_warp < rows; of_warp += step) {
    const int64_t v = of_warp + static_cast<int64_t>(threadIdx.x) % kWarp / kLanes;
    T sum = 0;
    for (int64_t d = lane; v < rows && d < width; d += kLanes) sum += weight[v * stride + d] * weight[v * stride + d];
#pragma unroll
    for (int distance = kLanes / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(kAllLanes, sum, distance);
    square = Larger{}(square, static_cast<double>(sum));
    if (v < rows && lane == 0 && bias != nullptr) magnitude = Larger{}(magnitude, fabs(static_cast<double>(bias[v])));
  }
  square = block_reduce(square, Larger{}, scratch);
  magnitude = block_reduce(magnitude, Larger{}, scratch);
  if (threadIdx.x == 0) {
    raise(&largest->square, square);
    raise(&largest->bias, magnitude);
  }
}

// Scores below `low` are below the target's, those above `high` are above it; between them pair_score decides.
template <typename T>
struct Limits {
  T low;
  T high;
};

template <typename T>
__device__ Limits<T> limits(const RankTile<T>& tile, const Largest& largest, int64_t n, double target) {
  const double bound = dot_error_bound<T>(tile.width);
  const double underflow = underflow_bound<T>(tile.width);
  const double weight_norm = std::sqrt(bit_cast<double>(largest.square) + underflow) * (1.0 + bound);
  const double size = tile.hidden_norms[n] * weight_norm + bit_cast<double>(largest.bias);
  const double tolerance = bound * (size + fabs(target)) + underflow;
  return {static_cast<T>(target - tolerance), static_cast<T>(target + tolerance)};
}

// The items of row n at column + k in this lane, k counted by the bits of `doubt`: their scores, four at a time.
template <typename T>
__device__ void settle(const RankTile<T>& tile, int64_t n, int64_t column, unsigned doubt, double target,
                       int64_t& above, int64_t& nan) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (unsigned lanes = __ballot_sync(kAllLanes, doubt != 0); lanes != 0;
       lanes = __ballot_sync(kAllLanes, doubt != 0)) {
    unsigned mine = lanes;  // the lane whose item these eight lanes take: the first, second, third or fourth in doubt
    for (int skip = 0; skip < lane / kLanes; ++skip) mine &= mine - 1;
    const bool active = mine != 0;
    const int owner = active ? __ffs(static_cast<int>(mine)) - 1 : 0;
    const int64_t j = __shfl_sync(kAllLanes, column + __ffs(static_cast<int>(doubt)) - 1, owner);
    const double exact =
        pair_score(tile.hidden + n * tile.width, tile.weight + (active ? j * tile.weight_stride : 0), tile.width,
                   active && tile.bias != nullptr ? tile.bias + j : nullptr, lane % kLanes, active);
    if (active && lane % kLanes == 0) {
      above += exact >= target ? 1 : 0;
      nan += exact != exact ? 1 : 0;
    }
    // the first four lanes in doubt are done with their first item
    unsigned rest = lanes;
    for (int done = 0; done < kWarp / kLanes; ++done) rest &= rest - 1;
    if (((lanes & ~rest) >> lane & 1) != 0) doubt &= doubt - 1;
  }
}

template <typename Unit, typename T>
__global__ void __launch_bounds__(kRowThreads, kBlocks)
    count_above(RankTile<T> tile, const Largest* largest, int64_t rows, int64_t step_of_pieces) {
  constexpr int C = kWidth<Unit, T>;
  T4R_DYNAMIC_SHARED(int64_t, scratch);
  const Piece piece = piece_of(tile.size, step_of_pieces, blockIdx.y);
  for (int64_t n = blockIdx.x; n < rows; n += gridDim.x) {
    const double target = tile.target_scores[n];
    if (target != target) {  // a miss whatever the others score
      if (threadIdx.x == 0 && blockIdx.y == 0) tile.not_a_number[n] += 1;
      continue;
    }
    const Limits<T> limit = limits(tile, *largest, n, target);
    int64_t above = 0, nan = 0;
    const int64_t step = static_cast<int64_t>(blockDim.x) * C;
    // every lane of a warp takes as many turns
    for (int64_t begin = piece.begin; begin < piece.end; begin += step) {
      const int64_t j = begin + static_cast<int64_t>(threadIdx.x) * C;
      unsigned doubt = 0;
      if (j < piece.end) {
        const Unit scores = load_scores<Unit>(tile.scores + n * tile.stride, tile.bias, j, piece.end);
#pragma unroll
        for (int k = 0; k < C; ++k) {
          const T score = scores.value[k];
          const bool clear = score > limit.high;
          above += clear ? 1 : 0;
          doubt |= (clear || score < limit.low ? 0u : 1u) << k;  // in this order NaN is in doubt
        }
        if (j + C > piece.end) doubt &= (1u << (piece.end - j)) - 1;
      }
      settle(tile, n, j, doubt, target, above, nan);
    }
    above = block_reduce(above, Add{}, scratch);
    nan = block_reduce(nan, Add{}, scratch);
    if (threadIdx.x == 0) {
      add(tile.above + n, above);
      add(tile.not_a_number + n, nan);
    }
  }
}

template <typename Unit, typename T>
int start(const RankTile<T>& tile, const Largest* largest, int64_t rows, cudaStream_t stream) {
  constexpr int C = kWidth<Unit, T>;
  auto* const kernel = count_above<Unit, T>;
  const int64_t turns = tile.size / (kRowThreads * C), busy = kBusyBlocks / rows, most = turns / kLeastTurns;
  const int64_t pieces = busy < most ? (busy > 1 ? busy : 1) : (most > 1 ? most : 1);
  const int64_t step = piece_size(tile.size, pieces);
  const unsigned threads = threads_for((step + C - 1) / C, kRowThreads);
  const dim3 grid(blocks_for(rows, 1), static_cast<unsigned>(pieces));
  T4R_LAUNCH(kernel, grid, threads, kWarp * sizeof(int64_t), stream, tile, largest, rows, step);
  return static_cast<int>(cudaGetLastError());
}

}  // namespace
}  // namespace t4r::cuda

extern "C" int t4r_rank_tile_cuda(const void* scores, int64_t stride, int64_t rows, int64_t size, const void* hidden,
                                  const void* weight, int64_t weight_stride, int64_t width, const void* bias,
                                  const double* target_scores, const double* hidden_norms, int64_t* above,
                                  int64_t* not_a_number, void* workspace, int dtype, int device, void* stream) {
  using namespace t4r;
  if (rows == 0) return 0;
  const cuda::DeviceScope scope(device);
  if (scope.failed()) return scope.status();
  const auto queue = static_cast<cudaStream_t>(stream);
  auto* const largest = static_cast<cuda::Largest*>(workspace);
  const auto cleared = cuda::taken(cudaMemsetAsync(largest, 0, sizeof(cuda::Largest), queue));
  if (cleared != cudaSuccess) return static_cast<int>(cleared);
  return cuda::with_wide_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const RankTile<T> tile{static_cast<const T*>(scores),
                           stride,
                           size,
                           static_cast<const T*>(hidden),
                           static_cast<const T*>(weight),
                           weight_stride,
                           width,
                           static_cast<const T*>(bias),
                           target_scores,
                           hidden_norms,
                           0.0,
                           0.0,
                           above,
                           not_a_number};
    if (size > 0) {
      auto* const norms = cuda::largest_norms<T>;
      const unsigned blocks = cuda::blocks_for(size, cuda::kPairThreads / cuda::kLanes, cuda::kBusyBlocks);
      T4R_LAUNCH(norms, blocks, cuda::kPairThreads, cuda::kWarp * sizeof(double), queue, tile.weight, size,
                 weight_stride, width, tile.bias, largest);
    }
    return cuda::rows_are_aligned(tile.scores, stride) ? cuda::start<cuda::Pack<T>>(tile, largest, rows, queue)
                                                       : cuda::start<cuda::Single<T>>(tile, largest, rows, queue);
  });
}

extern "C" int t4r_pair_scores_cuda(const void* hidden, const void* weight, int64_t weight_stride, int64_t items,
                                    int64_t width, const void* bias, const int64_t* ids, int64_t rows, int64_t per_row,
                                    double* out, int dtype, int device, void* stream) {
  using namespace t4r;
  const int64_t size = rows * per_row;
  if (size == 0) return 0;
  const cuda::DeviceScope scope(device);
  if (scope.failed()) return scope.status();
  return cuda::with_wide_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const PairScores<T> pairs{static_cast<const T*>(hidden),
                              static_cast<const T*>(weight),
                              weight_stride,
                              items,
                              width,
                              static_cast<const T*>(bias),
                              ids,
                              per_row,
                              out};
    auto* const kernel = cuda::score_pairs<T>;
    const unsigned blocks = cuda::blocks_for(size, cuda::kPairThreads / cuda::kLanes);
    T4R_LAUNCH(kernel, blocks, cuda::kPairThreads, 0, static_cast<cudaStream_t>(stream), pairs, size);
    return static_cast<int>(cudaGetLastError());
  });
}
