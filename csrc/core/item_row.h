// One row of scores h.w over a tile of consecutive items [begin, begin + size): the pieces of full softmax, rank and
// top-k that look at every item. Logits are (h.w + bias) / T; softmax works in base 2, as in softmax_row.h.
#pragma once

#include <cmath>

#include "exp_log.h"

namespace t4r {

// Running log-sum-exp over tiles: y_j = (s_j + b_j) log2(e) / T, total = sum_j 2^(y_j - maximum).
template <typename T>
struct LogSumExpTile {
  const T* scores;  // [n, size], row stride `stride`
  int64_t stride;
  int64_t size;
  const T* bias;  // [size] or null
  T scale;        // log2(e) / T
  T* maximum;     // [n], -inf before the first tile
  double* total;  // [n], 0 before the first tile
};

// d loss / d (h.w) of label-smoothed cross-entropy:
//   g_n / T (2^(y_j - maximum) / total - smoothing - target_weight [j = target])
template <typename T>
struct SoftmaxGradTile {
  const T* scores;  // [n, size], row stride `stride`
  int64_t stride;
  T* grad;  // [n, size], row stride `grad_stride`
  int64_t grad_stride;
  int64_t size;
  int64_t begin;
  const T* bias;
  T scale;
  const int64_t* targets;  // [n]
  const T* maximum;        // [n]
  const double* total;     // [n]
  const T* row_grad;       // [n], g / T
  T smoothing;             // epsilon / V
  T target_weight;         // 1 - epsilon
};

// Counts the items of the tile that score at least as much as the target. The scores of the tile come from a GEMM,
// whose rounding depends on the place in the matrix; where it could decide, `pair_score` does, so that equal items tie.
template <typename T>
struct RankTile {
  const T* scores;
  int64_t stride;
  int64_t size;
  const T* hidden;  // [n, width], contiguous
  const T* weight;  // [size, width], row stride `weight_stride`
  int64_t weight_stride;
  int64_t width;
  const T* bias;
  const double* target_scores;  // [n], pair_score of the target
  const double* hidden_norms;   // [n], |h|
  double weight_norm;           // the largest |w| of the tile
  double bias_norm;             // the largest |b| of the tile
  int64_t* above;               // [n], += items with pair_score >= target_scores
  int64_t* not_a_number;        // [n], += items whose score is NaN
};

// Bound on the rounding error of a dot product of `width` terms in T, relative to |h| |w|, with room for the rounding
// of the limits made from it (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1).
template <typename T>
T4R_HD double dot_error_bound(int64_t width) {
  return 2.0 * static_cast<double>(width + 4) * (sizeof(T) == sizeof(float) ? 0x1p-24 : 0x1p-53);
}

// How much a sum of `width` products may lose because they are too small for T and become zero.
template <typename T>
T4R_HD double underflow_bound(int64_t width) {
  return static_cast<double>(width) * (sizeof(T) == sizeof(float) ? 0x1p-126 : 0x1p-1022);
}

// h.w + b of chosen pairs of rows and items, in float64.
template <typename T>
struct PairScores {
  const T* hidden;  // [n, width], contiguous
  const T* weight;  // [items, width], row stride `weight_stride`
  int64_t weight_stride;
  int64_t items;
  int64_t width;
  const T* bias;       // [items] or null
  const int64_t* ids;  // [n, per_row]; negative: no item, scores -inf; beyond the table: NaN, and nothing is read
  int64_t per_row;
  double* out;  // [n, per_row]
};

// The items of one of the `pieces` into which a tile is cut: whole cache lines of scores but for the last ones, which
// may be empty.
struct Piece {
  int64_t begin;
  int64_t end;
};

T4R_HD int64_t piece_size(int64_t size, int64_t pieces) {
  constexpr int64_t kLine = 16;
  return ((size + pieces - 1) / pieces + kLine - 1) / kLine * kLine;
}

// Piece `number` of those of `step` items, as piece_size has it.
T4R_HD Piece piece_of(int64_t size, int64_t step, int64_t number) {
  const int64_t begin = number * step, end = begin + step;
  return {begin < size ? begin : size, end < size ? end : size};
}

// Keeps the best k of the tiles so far in a buffer of `capacity` > k entries, ties to the lower id. A row has a buffer
// for each of the pieces of its tiles.
template <typename T>
struct TopKTile {
  const T* scores;
  int64_t stride;
  int64_t size;
  int64_t begin;
  const T* bias;
  const int64_t* excluded;  // [n, num_excluded], rows ascending, or null
  int64_t num_excluded;
  int64_t k;
  int64_t pieces;
  int64_t piece_size;
  int64_t capacity;
  T* best;        // [n, pieces, capacity], -inf where empty
  int64_t* ids;   // [n, pieces, capacity], -1 where empty
  int64_t* fill;  // [n, pieces]
  T* threshold;   // [n, pieces], only larger scores can still matter; -inf before the first tile
};

}  // namespace t4r
