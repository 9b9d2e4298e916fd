// Top-k selection on the device: one block a row of a tile of scores, or a piece of it where rows are few.
//
// A score is read once, 16 bytes at a time, and asked one question: is it above the threshold? Those that are go, in
// the order of their items, to the end of the row's buffer of capacity > k entries (a prefix sum tells each its place).
// A full buffer is cut to its k best: the k-th largest score is found bit by bit (32 or 64 counts of the buffer), the
// better ones and the first of the equal ones are kept in their order, and it becomes the threshold. The result depends
// on no order of threads; ties go to the lower id, because items come in ascending order and keep it.
//
// Bytes: rows * size * 4; a tile of 1024 x 8192 float32: 34 MB, 10 us at an H100's 3.35 TB/s. Of V items in random
// order some k (1 + ln(V / k)) enter a buffer, which lies in the second-level cache. A cut takes a barrier a bit where
// every thread has an entry at most, else three and counts of capacity / threads entries each. Threads as the row needs
// them, at most 256; shared memory: a number a warp.
#include <cmath>

#include "../core/item_row.h"
#include "../core/softmax_row.h"
#include "block.cuh"
#include "dtype.h"
#include "row.cuh"
#include "topk.h"

namespace t4r::cuda {
namespace {

constexpr int kRowThreads = 256;  // at most
constexpr int kBlocks = 3;  // an SM shall hold: without the wish ptxas aims at more, and spills a few registers for it

// Bits whose order, as an unsigned number, is that of the scores.
__device__ __forceinline__ uint32_t ordered_bits(float score) {
  const auto bits = bit_cast<uint32_t>(score);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ uint64_t ordered_bits(double score) {
  const auto bits = bit_cast<uint64_t>(score);
  return (bits >> 63) != 0 ? ~bits : bits | 0x8000000000000000ull;
}

// A row's buffer; -0 never enters as such, so that equal scores have equal bits.
template <typename T>
struct Buffer {
  T* best;
  int64_t* ids;
  int64_t capacity;
};

// The ordered bits of the k-th largest score; `above`: how many are larger.
template <typename T>
__device__ auto find_kth(const Buffer<T>& buffer, int64_t k, int* scratch, int64_t& above) {
  using Bits = decltype(ordered_bits(T{}));
  Bits kth = 0;
  above = 0;
  const bool one_each = buffer.capacity <= blockDim.x;
  const bool inside = threadIdx.x < buffer.capacity;
  const Bits own = one_each && inside ? ordered_bits(buffer.best[threadIdx.x]) : Bits(0);
  for (int shift = 8 * static_cast<int>(sizeof(T)) - 1; shift >= 0; --shift) {
    // of those that begin like kth: how many have a 1 here? If k of them and of the larger ones, so has the k-th.
    const Bits prefix = (kth >> shift) | 1;
    int ones = 0;
    if (one_each) {
      ones = __syncthreads_count(inside && (own >> shift) == prefix ? 1 : 0);
    } else {
      for (int64_t i = threadIdx.x; i < buffer.capacity; i += blockDim.x) {
        ones += (ordered_bits(buffer.best[i]) >> shift) == prefix ? 1 : 0;
      }
      ones = block_reduce(ones, Add{}, scratch);
    }
    if (above + ones >= k) {
      kth = prefix << shift;
    } else {
      above += ones;
    }
  }
  return kth;
}

// Moves the k best of a full buffer to its front, empties the rest and returns the worst score kept. The block must
// come to a barrier before anyone touches the buffer again.
template <typename T>
__device__ T keep_best(const Buffer<T>& buffer, int64_t k, int* scratch) {
  int64_t above;
  const auto kth = find_kth(buffer, k, scratch, above);
  const int64_t equal_kept = k - above;
  int64_t kept = 0, equals = 0;
  for (int64_t first = 0; first < buffer.capacity; first += blockDim.x) {
    const int64_t i = first + threadIdx.x;
    const bool inside = i < buffer.capacity;
    const T score = inside ? buffer.best[i] : T(0);
    const int64_t id = inside ? buffer.ids[i] : -1;
    const auto bits = ordered_bits(score);
    int of_block;
    const bool is_equal = inside && bits == kth;
    const int equals_before = block_exclusive_sum(is_equal ? 1 : 0, scratch, of_block);
    const bool keeps = inside && (bits > kth || (is_equal && equals + equals_before < equal_kept));
    equals += of_block;
    // its barriers also divide the reads of these entries from the writes, which go no further than they
    const int before = block_exclusive_sum(keeps ? 1 : 0, scratch, of_block);
    if (keeps) {
      buffer.best[kept + before] = score;
      buffer.ids[kept + before] = id;
    }
    kept += of_block;
  }
  for (int64_t i = k + threadIdx.x; i < buffer.capacity; i += blockDim.x) {
    buffer.best[i] = -static_cast<T>(INFINITY);
    buffer.ids[i] = -1;
  }
  // the k-th score itself, from its bits
  const auto sign = decltype(kth){1} << (8 * sizeof(T) - 1);
  return bit_cast<T>((kth & sign) != 0 ? kth & ~sign : ~kth);
}

__device__ __forceinline__ bool contains(const int64_t* sorted_ids, int64_t size, int64_t id) {
  const int64_t at = lower_bound(sorted_ids, size, id);
  return at < size && sorted_ids[at] == id;
}

template <typename Unit, typename T>
__global__ void __launch_bounds__(kRowThreads, kBlocks) select(TopKTile<T> tile, int64_t rows) {
  constexpr int C = kWidth<Unit, T>;
  T4R_DYNAMIC_SHARED(int, scratch);
  const Piece piece = piece_of(tile.size, tile.piece_size, blockIdx.y);
  if (piece.begin == piece.end) return;  // without a barrier between what is read here and written below
  for (int64_t n = blockIdx.x; n < rows; n += gridDim.x) {
    const T* row = tile.scores + n * tile.stride;
    const int64_t place = n * gridDim.y + blockIdx.y;
    const Buffer<T> buffer{tile.best + place * tile.capacity, tile.ids + place * tile.capacity, tile.capacity};
    int64_t fill = tile.fill[place];
    T threshold = tile.threshold[place];
    const int64_t step = static_cast<int64_t>(blockDim.x) * C;
    for (int64_t first = piece.begin; first < piece.end; first += step) {
      const int64_t j = first + static_cast<int64_t>(threadIdx.x) * C;
      Unit scores = {};
      unsigned enters = 0;  // bit c: item j + c is above the threshold
      if (j < piece.end) {
        scores = load_scores<Unit>(row, tile.bias, j, piece.end);
#pragma unroll
        for (int c = 0; c < C; ++c) enters |= (scores.value[c] > threshold ? 1u : 0u) << c;
      }
      if (__syncthreads_or(static_cast<int>(enters)) == 0) continue;
      const int64_t* excluded = tile.excluded + n * tile.num_excluded;
#pragma unroll
      for (int c = 0; c < C; ++c) {
        if ((enters >> c & 1u) != 0 && contains(excluded, tile.num_excluded, tile.begin + j + c)) enters &= ~(1u << c);
      }
      // what does not fit waits until the buffer is cut, and is asked again; at least capacity - k fit a turn
      for (;;) {
        int wanted;
        int64_t at = fill + block_exclusive_sum(__popc(enters), scratch, wanted);
#pragma unroll
        for (int c = 0; c < C; ++c) {
          if ((enters >> c & 1u) == 0) continue;
          if (at < tile.capacity) {
            buffer.best[at] = scores.value[c] + T(0);  // -0 becomes 0
            buffer.ids[at] = tile.begin + j + c;
            enters &= ~(1u << c);
          }
          ++at;
        }
        fill += wanted;
        if (fill < tile.capacity) break;
        __syncthreads();
        threshold = keep_best(buffer, tile.k, scratch);
        fill = tile.k;
#pragma unroll
        for (int c = 0; c < C; ++c) {
          if ((enters >> c & 1u) != 0 && !(scores.value[c] > threshold)) enters &= ~(1u << c);
        }
      }
    }
    if (threadIdx.x == 0) {
      tile.fill[place] = fill;
      tile.threshold[place] = threshold;
    }
  }
}

template <typename Unit, typename T>
int start(const TopKTile<T>& tile, int64_t rows, cudaStream_t stream) {
  constexpr int C = kWidth<Unit, T>;
  auto* const kernel = select<Unit, T>;
  const unsigned threads = threads_for((tile.piece_size + C - 1) / C, kRowThreads);
  const dim3 grid(blocks_for(rows, 1), static_cast<unsigned>(tile.pieces));
  T4R_LAUNCH(kernel, grid, threads, kWarp * sizeof(int), stream, tile, rows);
  return static_cast<int>(cudaGetLastError());
}

}  // namespace
}  // namespace t4r::cuda

extern "C" int t4r_topk_tile_cuda(const void* scores, int64_t stride, int64_t rows, int64_t size, int64_t begin,
                                  const void* bias, const int64_t* excluded, int64_t num_excluded, int64_t k,
                                  int64_t pieces, int64_t capacity, void* best, int64_t* ids, int64_t* fill,
                                  void* threshold, int dtype, int device, void* stream) {
  using namespace t4r;
  if (rows == 0 || size == 0) return 0;
  const cuda::DeviceScope scope(device);
  if (scope.failed()) return scope.status();
  return cuda::with_wide_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const TopKTile<T> tile{static_cast<const T*>(scores),
                           stride,
                           size,
                           begin,
                           static_cast<const T*>(bias),
                           excluded,
                           num_excluded,
                           k,
                           pieces,
                           piece_size(size, pieces),
                           capacity,
                           static_cast<T*>(best),
                           ids,
                           fill,
                           static_cast<T*>(threshold)};
    const auto queue = static_cast<cudaStream_t>(stream);
    return cuda::rows_are_aligned(tile.scores, stride) ? cuda::start<cuda::Pack<T>>(tile, rows, queue)
                                                       : cuda::start<cuda::Single<T>>(tile, rows, queue);
  });
}
