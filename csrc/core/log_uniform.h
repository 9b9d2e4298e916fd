// The log-uniform law over R classes: inverse CDF, log of expected counts.
//   p(c) = log1p(1/(c+1)) / log1p(R),  c = floor(expm1(u log1p(R))),  q = -expm1(M log1p(-p))
#pragma once

#include <cmath>

#include "draws.h"
#include "exp_log.h"

namespace t4r {

// floor gives class + 1; log_range = log1p(R)
T4R_HD double one_plus_class(double u, double log_range) { return exp_f64(u * log_range); }

T4R_HD int64_t clamp_class(double one_plus, int64_t num_classes) {
  const int64_t c = static_cast<int64_t>(one_plus) - 1;
  return c < 0 ? 0 : (c < num_classes ? c : num_classes - 1);
}

// log1p(1/(c+1)) / log1p(R); log1p(1/(c+1)) = ln((c+2)/(c+1)) = 2 atanh(1/(2c+3))
T4R_HD double probability(double class_index, double inverse_log_range) {
  return twice_atanh(1.0 / (2.0 * class_index + 3.0)) * inverse_log_range;
}

// M log1p(-p) = log (1 - p)^M, for p <= 1/2 (R >= 3), not below -700
T4R_HD double log_absent(double p, double tries) {
  const double y = tries * twice_atanh(p / (p - 2.0));
  return y > -700.0 ? y : -700.0;
}

// q = -expm1(y) as u + lost, so that log q = log u + lost: near y = 0 u is -expm1(y) itself, far from it u = 1 - e^y
// and what its rounding lost (which counts only where u is almost 1)
T4R_HD double one_minus_exp(double y, double& lost) {
  int64_t k;
  const double r = reduce(y, k);
  const double m = expm1_reduced(r);
  const double scale = power_of_two(k);
  const double exp_y = (m + 1.0) * scale;
  const bool near = y > -0.69314718055994531;
  const double u = near ? -(m * scale + (scale - 1.0)) : 1.0 - exp_y;
  lost = near ? 0.0 : (1.0 - u) - exp_y;
  return u;
}

// log(1 - e^y) for -700 <= y < 0, in float32; adding +0 turns the -0 of a certain item into 0
T4R_HD float log_one_minus_exp(double y) {
  double lost;
  const double u = one_minus_exp(y, lost);
  return static_cast<float>(log_f64(u) + lost) + 0.0f;
}

// log of the expected count of an item after `tries` draws, for 0 < p <= 1/2
T4R_HD float log_count(double p, double tries, bool unique) {
  if (unique) return log_one_minus_exp(log_absent(p, tries));
  return static_cast<float>(log_f64(p) + log_f64(tries));
}

// The same where the series of log_absent does not hold: for p = 0 and p > 1/4. NaN where p is no probability.
T4R_HD float log_count_elsewhere(double p, double tries, bool unique) {
  if (p == 0.0) return -INFINITY;
  if (!(p > 0.0 && p <= 1.0)) return NAN;
  if (!unique) return static_cast<float>(log_f64(p * tries));
  const double y = p < 1.0 ? tries * log_f64(1.0 - p) : -700.0;
  return log_one_minus_exp(y > -700.0 ? y : -700.0);
}

// `probability` for R < 3, where it may be above 1/2: exactly 1 of a single class.
T4R_HD double probability_of_few(double class_index, int64_t num_classes, double inverse_log_range) {
  return num_classes == 1 ? 1.0 : probability(class_index, inverse_log_range);
}

}  // namespace t4r
