// One tile of full softmax, of its running log-sum-exp or of its gradient: core/item_row.h on the device.
//
// Log-sum-exp: a block takes a row, with 16 float32 scores a thread (32 threads up to 512 items, 1,024 from 8,193 on).
// A thread has 16 scores in registers (8 of a row that is not aligned, or of float64), finds their largest and adds
// their powers to a sum of its own, relative to the maximum of the tiles before; a thread that meets a score 2^40 above
// that, or the first one at all, raises its own maximum. The block brings all sums to the largest maximum in the end.
// So a row of any length is read once.
// Gradient: nothing is summed, so rows are cut into pieces of 4,096 scores (2,048 where they are not aligned, or of
// float64), a block each.
//
// Bytes (float32): log-sum-exp 4 N m, gradient 8 N m; bias [m] comes from L2. About 15 instructions a score each.
// Floor on an H100 for a million scores: 1.2 us and 2.4 us from memory; tiles were just written by a GEMM and come from
// L2 (50 MB) where they fit. Shared memory: 256 bytes for sums of a block's warps. At 64 registers a thread in float32
// an SM has 32 warps, of which each has 2 KiB of loads under way.
//
// Log-sum-exp of N rows keeps N of the 132 SMs busy, if so many; 16,384 scores of a row are one batch of loads, which
// takes about as long as starting a second kernel would: rows are not split (of 262,144, a tile for 32 rows or fewer,
// that is 16 batches one after the other). Sums: a thread's batch in the scores'
// dtype by 4 partial sums, then float64, in an order that depends on the tile's width and alignment only.
#include "softmax.h"

#include "../core/item_row.h"
#include "block.cuh"
#include "dtype.h"
#include "row.cuh"

namespace t4r::cuda {
namespace {

constexpr int kGradThreads = 256;
template <typename T>
constexpr int kSumThreads = sizeof(T) == sizeof(float) ? kMostThreads : kMostThreads / 2;  // for registers enough

// A batch of a thread's logits y, -inf behind the row's end.
template <typename Unit, typename T>
struct Logits {
  static constexpr int kUnits = kWidth<Unit, T> == 1 ? 2 * kBatch : kBatch;  // singles need registers for addresses
  Unit unit[kUnits];

  // The units first, first + blockDim.x, ... of a row of `units`.
  __device__ __forceinline__ void load(const T* row, const T* bias, T scale, int64_t first, int64_t units) {
    const int threads = static_cast<int>(blockDim.x);
    const int left = units_left(first, units, kUnits * threads);
    const T* const from = row + first * kWidth<Unit, T>;
    const T* const bias_from = bias != nullptr ? bias + first * kWidth<Unit, T> : nullptr;
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
#pragma unroll
      for (T& y : unit[u].value) y = -static_cast<T>(INFINITY);
      if (u * threads < left) unit[u] = load_unit<Unit>(from, u * threads);
    }
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      if (bias != nullptr && u * threads < left) {
        const Unit biases = load_unit<Unit>(bias_from, u * threads);
#pragma unroll
        for (int k = 0; k < kWidth<Unit, T>; ++k) unit[u].value[k] += biases.value[k];
      }
#pragma unroll
      for (T& y : unit[u].value) y *= scale;
    }
  }

  __device__ __forceinline__ T largest() const {
    T largest = -static_cast<T>(INFINITY);
#pragma unroll
    for (const Unit& each : unit) {
#pragma unroll
      for (const T y : each.value) largest = y > largest ? y : largest;
    }
    return largest;
  }

  // The sum of 2^(y - m)
  __device__ __forceinline__ T sum(T m) const {
    T partial[4] = {};
#pragma unroll
    for (int i = 0; i < kUnits * kWidth<Unit, T>; ++i) {
      partial[i % 4] += exp2_small<true>(unit[i / kWidth<Unit, T>].value[i % kWidth<Unit, T>] - m);
    }
    return (partial[0] + partial[1]) + (partial[2] + partial[3]);
  }
};

// 2^(from - to) for from <= to; 1 where they are equal, be they infinite
template <typename T>
__device__ double rescale(T from, T to) {
  return from == to ? 1.0 : static_cast<double>(exp2_small(from - to));
}

// A thread's part of a row: total = sum of 2^(y - maximum).
template <typename T>
struct Running {
  T maximum;
  double total;

  template <typename Unit>
  __device__ __forceinline__ void add(const Logits<Unit, T>& logits) {
    constexpr T headroom = 40;
    const T largest = logits.largest();
    if (largest > maximum + headroom) {
      total *= rescale(maximum, largest);
      maximum = largest;
    }
    total += static_cast<double>(logits.sum(maximum == -static_cast<T>(INFINITY) ? T(0) : maximum));
  }
};

template <typename Unit, typename T>
__global__ void __launch_bounds__(kSumThreads<T>, 1) logsumexp_rows(const LogSumExpTile<T> tile) {
  T4R_DYNAMIC_SHARED(double, scratch);
  const int64_t n = blockIdx.x;
  const T* row = tile.scores + n * tile.stride;
  const int64_t units = tile.size / kWidth<Unit, T>;
  const int64_t step = static_cast<int64_t>(blockDim.x) * Logits<Unit, T>::kUnits;
  const T before = tile.maximum[n];
  Running<T> part{before, 0.0};
#pragma unroll 1
  for (int64_t first = threadIdx.x; first < units; first += step) {
    Logits<Unit, T> logits;
    logits.load(row, tile.bias, tile.scale, first, units);
    part.add(logits);
  }
  const T m = block_reduce(part.maximum, Larger{}, reinterpret_cast<T*>(scratch));
  const double sum = block_reduce(part.total * rescale(part.maximum, m), Add{}, scratch);
  __syncthreads();  // a block of one warp has not met another barrier since all have read the maximum
  if (threadIdx.x == 0) {
    tile.total[n] = tile.total[n] * rescale(before, m) + sum;
    tile.maximum[n] = m;
  }
}

// Rows are cut into `pieces` of as many scores as a block has in a batch.
template <typename Unit, typename T>
__global__ void __launch_bounds__(kGradThreads, 4) softmax_grad_rows(const SoftmaxGradTile<T> tile, unsigned pieces) {
  constexpr int units_a_thread = Logits<Unit, T>::kUnits;
  constexpr T most = 64;
  const int threads = static_cast<int>(blockDim.x);
  const int64_t n = blockIdx.x / pieces;
  const int64_t first = static_cast<int64_t>(blockIdx.x % pieces) * threads * units_a_thread + threadIdx.x;
  const int64_t units = tile.size / kWidth<Unit, T>;
  const int left = units_left(first, units, units_a_thread * threads);
  const T g = tile.row_grad[n];
  const T m = tile.maximum[n];
  const T factor = static_cast<T>(static_cast<double>(g) / tile.total[n]);
  const T constant = g * tile.smoothing;
  const T of_target = g * tile.target_weight;
  T* const grad = tile.grad + n * tile.grad_stride + first * kWidth<Unit, T>;
  const int64_t target = tile.targets[n] - tile.begin - first * kWidth<Unit, T>;
  Logits<Unit, T> logits;
  logits.load(tile.scores + n * tile.stride, tile.bias, tile.scale, first, units);
#pragma unroll
  for (int u = 0; u < units_a_thread; ++u) {
    if (u * threads >= left) break;
    Unit values;
#pragma unroll
    for (int k = 0; k < kWidth<Unit, T>; ++k) {
      // scores made again may exceed the maximum where an ulp of theirs is large; in this order NaN passes
      const T above = logits.unit[u].value[k] - m;
      T value = multiply_add<true>(exp2_small<true>(most < above ? most : above), factor, -constant);
      if (target == u * threads * kWidth<Unit, T> + k) value -= of_target;
      values.value[k] = g == T(0) ? T(0) : value;  // an ignored row adds nothing, whatever its scores are
    }
    store_unit(grad, u * threads, values);
  }
}

template <typename Unit, typename T>
int launch_logsumexp(const LogSumExpTile<T>& tile, int64_t rows, cudaStream_t stream) {
  if (rows > kMostBlocks) return kBadArgument;
  const auto kernel = logsumexp_rows<Unit, T>;
  T4R_LAUNCH(kernel, static_cast<unsigned>(rows), threads_for_row<T>(tile.size, kSumThreads<T>), kWarp * sizeof(double),
             stream, tile);
  return static_cast<int>(cudaGetLastError());
}

template <typename Unit, typename T>
int launch_softmax_grad(const SoftmaxGradTile<T>& tile, int64_t rows, cudaStream_t stream) {
  const unsigned threads = threads_for_row<T>(tile.size, kGradThreads);
  const int64_t piece = static_cast<int64_t>(threads) * Logits<Unit, T>::kUnits * kWidth<Unit, T>;
  const int64_t pieces = (tile.size + piece - 1) / piece;
  if (rows > kMostBlocks / pieces) return kBadArgument;
  const auto kernel = softmax_grad_rows<Unit, T>;
  T4R_LAUNCH(kernel, static_cast<unsigned>(rows * pieces), threads, 0, stream, tile, static_cast<unsigned>(pieces));
  return static_cast<int>(cudaGetLastError());
}

}  // namespace
}  // namespace t4r::cuda

extern "C" int t4r_logsumexp_tile_cuda(const void* scores, int64_t stride, int64_t rows, int64_t size, const void* bias,
                                       double scale, void* maximum, double* total, int dtype, int device,
                                       void* stream) {
  using namespace t4r::cuda;
  const DeviceScope scope(device);
  if (scope.failed()) return scope.status();
  if (rows == 0 || size == 0) return 0;
  return with_wide_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const t4r::LogSumExpTile<T> tile{
        static_cast<const T*>(scores), stride, size, static_cast<const T*>(bias), static_cast<T>(scale),
        static_cast<T*>(maximum),      total};
    const bool packed = in_packs(tile.scores, stride, size) && is_aligned(tile.bias);
    const auto on = static_cast<cudaStream_t>(stream);
    return packed ? launch_logsumexp<Pack<T>>(tile, rows, on) : launch_logsumexp<Single<T>>(tile, rows, on);
  });
}

extern "C" int t4r_softmax_grad_tile_cuda(const void* scores, int64_t stride, void* grad, int64_t grad_stride,
                                          int64_t rows, int64_t size, int64_t begin, const void* bias, double scale,
                                          const int64_t* targets, const void* maximum, const double* total,
                                          const void* row_grad, double smoothing, double target_weight, int dtype,
                                          int device, void* stream) {
  using namespace t4r::cuda;
  const DeviceScope scope(device);
  if (scope.failed()) return scope.status();
  if (rows == 0 || size == 0) return 0;
  return with_wide_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const t4r::SoftmaxGradTile<T> tile{static_cast<const T*>(scores),
                                       stride,
                                       static_cast<T*>(grad),
                                       grad_stride,
                                       size,
                                       begin,
                                       static_cast<const T*>(bias),
                                       static_cast<T>(scale),
                                       targets,
                                       static_cast<const T*>(maximum),
                                       total,
                                       static_cast<const T*>(row_grad),
                                       static_cast<T>(smoothing),
                                       static_cast<T>(target_weight)};
    const bool packed = in_packs(tile.scores, stride, size) &&
                        in_packs(static_cast<const T*>(tile.grad), grad_stride, size) && is_aligned(tile.bias);
    const auto on = static_cast<cudaStream_t>(stream);
    return packed ? launch_softmax_grad<Pack<T>>(tile, rows, on) : launch_softmax_grad<Single<T>>(tile, rows, on);
  });
}
