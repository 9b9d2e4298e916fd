// Lazy optimizers: the update of one row that a sparse gradient touches, by its own count of steps t.
//   Adam:    m += (1 - b1)(g - m),  v = b2 v + (1 - b2) g^2,
//            w = (1 - lr wd) w - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
//   Adagrad: g += wd w,  s += g^2,  w -= lr g / (sqrt(s) + eps)
// Row-wise: v and s are one number a row, and g^2 the mean over the row.
#pragma once

#include <cmath>

#include "exp_log.h"
#include "half.h"

namespace t4r {

// A row's gradient is summed by parts of so many of its run's rows: those of a part in their order, then the parts in
// theirs. So the parts of a long run, an item that much of a batch touches, may be summed at the same time. On paper 32
// take the H100 about as long as a batch of 10,240 distinct rows.
constexpr int64_t kPart = 32;

// How many parts of runs, the first of each run left out, `size` rows may have: two such parts begin at least kPart
// apart, and none of them before kPart, so that each has a number of its own, begin / kPart - 1.
T4R_HD int64_t most_parts(int64_t size) { return size > 0 ? (size - 1) / kPart : 0; }

// Gradient rows in ascending order of their ids; rows of one id in the order in which they came. A key is the id and,
// in the lowest bits, the position.
struct SortedRows {
  const uint64_t* keys;
  int64_t size;
  int position_bits;

  T4R_HD int64_t id(int64_t i) const { return static_cast<int64_t>(keys[i] >> position_bits); }
  T4R_HD int64_t position(int64_t i) const {
    return static_cast<int64_t>(keys[i] & ((uint64_t{1} << position_bits) - 1));
  }
  // The end of the run of equal ids that begins at i.
  T4R_HD int64_t run_end(int64_t i) const {
    int64_t end = i + 1;
    while (end < size && id(end) == id(i)) ++end;
    return end;
  }
};

// A table of V rows, its state and its gradient of rows. S: type of weight and gradient; state is Wide<S>.
template <typename S>
struct AdamRows {
  using Storage = S;
  S* weight;            // [V, D]
  Wide<S>* exp_avg;     // [V, D]
  Wide<S>* exp_avg_sq;  // [V, D], or [V] if rowwise
  int32_t* steps;       // [V]
  const S* values;      // [N, D]
  int64_t width;        // D
  bool rowwise;
  double lr;
  double log_beta1;  // -inf for a beta of 0
  double log_beta2;
  Wide<S> keep;  // 1 - lr wd
  Wide<S> one_minus_beta1;
  Wide<S> beta2;
  Wide<S> one_minus_beta2;
  Wide<S> eps;
};

template <typename S>
struct AdagradRows {
  using Storage = S;
  S* weight;            // [V, D]
  Wide<S>* square_sum;  // [V, D], or [V] if rowwise
  const S* values;      // [N, D]
  int64_t width;        // D
  bool rowwise;
  Wide<S> lr;
  Wide<S> weight_decay;
  Wide<S> eps;
};

// A task from the numbers that users give.
template <typename S>
AdamRows<S> adam_task(S* weight, Wide<S>* exp_avg, Wide<S>* exp_avg_sq, int32_t* steps, const S* values, int64_t width,
                      bool rowwise, double lr, double beta1, double beta2, double eps, double weight_decay) {
  using T = Wide<S>;
  return {weight,
          exp_avg,
          exp_avg_sq,
          steps,
          values,
          width,
          rowwise,
          lr,
          std::log(beta1),
          std::log(beta2),
          static_cast<T>(1.0 - lr * weight_decay),
          static_cast<T>(1.0 - beta1),
          static_cast<T>(beta2),
          static_cast<T>(1.0 - beta2),
          static_cast<T>(eps)};
}

template <typename S>
AdagradRows<S> adagrad_task(S* weight, Wide<S>* square_sum, const S* values, int64_t width, bool rowwise, double lr,
                            double eps, double weight_decay) {
  using T = Wide<S>;
  return {weight,
          square_sum,
          values,
          width,
          rowwise,
          static_cast<T>(lr),
          static_cast<T>(weight_decay),
          static_cast<T>(eps)};
}

// 1 - beta^t without the cancellation where beta^t is near 1
T4R_HD double one_minus_power(double log_beta, double t) {
  const double y = t * log_beta;
  int64_t k;
  const double r = reduce(y > -700.0 ? y : -700.0, k);
  const double scale = power_of_two(k);
  return (1.0 - scale) - expm1_reduced(r) * scale;
}

// A gradient with coupled weight decay; without it the weight is not looked at, which may be NaN.
template <typename T>
T4R_HD T with_decay(T gradient, T decay, T weight) {
  return decay == 0 ? gradient : gradient + decay * weight;
}

template <typename T>
T4R_HD T decayed_average(T average, T value, T one_minus_beta) {
  return average + (value - average) * one_minus_beta;
}

template <typename T>
T4R_HD T decayed_sum(T sum, T square, T beta, T one_minus_beta) {
  return sum * beta + square * one_minus_beta;
}

}  // namespace t4r
