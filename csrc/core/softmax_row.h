// One row of a loss over {target} + S candidates. Softmax takes three sweeps over a row that stays in cache:
//   y_j = (s_j / T - log q_j) log2(e) (max),  e_j = 2^(y_j - max) (sum),  d loss / d s_j = g e_j / (T total)
// binary cross-entropy one: x_j = s_j / T - log q_j,  loss_j = softplus(x_j),  d loss / d s_j = g sigmoid(x_j) / T
// Base 2, because 2^y needs no multiplication to reduce its argument.
#pragma once

#include <cmath>

#include "exp_log.h"

namespace t4r {

template <typename T>
struct SampledTile {
  T* scores;  // [n, S], row stride `stride`; h.w on entry, gradient on exit
  int64_t stride;
  int64_t num_candidates;     // S
  const T* target_scores;     // [n]
  const int64_t* targets;     // [n]
  const int64_t* sorted_ids;  // [S] ascending, or null: keep accidental hits
  const int64_t* order;       // [S] position of sorted_ids[i] among the candidates
  const T* target_log_q;      // [n] or null
  const T* candidate_log_q;   // [S] or null
  const T* row_grad;          // [n] or null: 1
  T inverse_temperature;
  bool corrected;  // softmax only
  const T* beta;   // [1], binary cross-entropy only: the weight of the target's term
  bool with_grad;
  T* loss;         // [n]
  T* target_grad;  // [n]
};

// First position in sorted_ids [size] that is not below id.
T4R_HD int64_t lower_bound(const int64_t* sorted_ids, int64_t size, int64_t id) {
  int64_t low = 0;
  while (size > 0) {
    const int64_t half = size / 2;
    const bool right = sorted_ids[low + half] < id;
    low += right ? half + 1 : 0;
    size = right ? size - half - 1 : half;
  }
  return low;
}

// Writes -inf at every candidate of the row that equals its target.
template <typename T>
T4R_HD void exclude_hits(T* row, const int64_t* sorted_ids, const int64_t* order, int64_t size, int64_t target) {
  for (int64_t i = lower_bound(sorted_ids, size, target); i < size && sorted_ids[i] == target; ++i) {
    row[order[i]] = -static_cast<T>(INFINITY);
  }
}

// Loss of a row from its sum of 2^(y_j - m) over the candidates, the total with the target's 2^(y - m), and
// m - y in natural units.
T4R_HD double row_loss(double sum, double total, double max_minus_target, bool corrected) {
  if (!corrected) return log(total) + max_minus_target;
  return sum > 0 ? (sum / total) * (log(sum) + max_minus_target) : sum * 0.0;
}

// The target's term of binary cross-entropy and its slope: softplus(-x) and sigmoid(-x).
T4R_HD void target_terms(double x, double& softplus, double& sigmoid) {
  const double e = exp(-fabs(x));
  softplus = (x > 0 ? 0.0 : -x) + log1p(e);
  sigmoid = (x > 0 ? e : 1.0) / (1.0 + e);
}

// softplus(x) = max(x, 0) + log(1 + e) and sigmoid(x) = (x < 0 ? e : 1) / (1 + e) from e = e^-|x|
template <typename T>
T4R_HD T exp_of_minus_abs(T x) {
  return exp2_small((x < 0 ? x : -x) * static_cast<T>(1.4426950408889634));
}

}  // namespace t4r
