// The log-uniform law over R classes: inverse CDF, log of expected counts.
//   p(c) = log1p(1/(c+1)) / log1p(R),  c = floor(expm1(u log1p(R))),  q = -expm1(M log1p(-p))
#pragma once

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

}  // namespace t4r
