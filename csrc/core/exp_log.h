// exp and log without branches, tables or libm, so that loops over them vectorise and every machine gives the same
// bits. Compile with -ffp-contract=off: each operation is rounded on its own, as in ops/reference.
#pragma once

#include "portable.h"

namespace t4r {

// x rounded to the nearest integer, as a double; `integer` is the same as int64. |x| < 2^51.
T4R_HD double round_to_integer(double x, int64_t& integer) {
  const double magic = 6755399441055744.0;  // 1.5 * 2^52: adding it pushes the fraction out of the mantissa
  const double shifted = x + magic;
  integer = bit_cast<int64_t>(shifted) - bit_cast<int64_t>(magic);
  return shifted - magic;
}

T4R_HD double power_of_two(int64_t k) { return bit_cast<double>((k + 1023) << 52); }  // -1022 <= k <= 1023

// r = x - k ln 2 with |r| <= ln(2) / 2
T4R_HD double reduce(double x, int64_t& k) {
  const double rounded = round_to_integer(x * 0x1.71547652b82fep+0, k);
  return (x - rounded * 0x1.62e42feep-1) - rounded * 0x1.a39ef35793c76p-33;
}

// a b + c, in one rounding where Fused: faster where the instruction set has it, but then not the bits of one without
template <bool Fused = false>
T4R_HD float multiply_add(float a, float b, float c) {
  if constexpr (Fused) return __builtin_fmaf(a, b, c);
  return a * b + c;
}

template <bool Fused = false>
T4R_HD double multiply_add(double a, double b, double c) {
  if constexpr (Fused) return __builtin_fma(a, b, c);
  return a * b + c;
}

// sum of c[i] x^i by Estrin's scheme: pairs, then pairs of pairs in x^2, ...; short chains of dependent operations.
// ops/reference evaluates in the same order, so both give the same bits (not Fused).
template <bool Fused = false, typename T, int N>
T4R_HD T estrin(const T (&c)[N], T x) {
  if constexpr (N == 1) {
    return c[0];
  } else {
    T pairs[(N + 1) / 2];
    for (int i = 0; i < N / 2; ++i) pairs[i] = multiply_add<Fused>(c[2 * i + 1], x, c[2 * i]);
    if constexpr (N % 2 == 1) pairs[N / 2] = c[N - 1];
    return estrin<Fused>(pairs, x * x);
  }
}

// e^r - 1 for |r| <= ln(2) / 2: (e^r - 1) / r by a Chebyshev fit, relative error 2e-17 before rounding
T4R_HD double expm1_reduced(double r) {
  const double c[11] = {0x1p+0,
                        0x1.0000000000005p-1,
                        0x1.5555555555557p-3,
                        0x1.55555555520a4p-5,
                        0x1.11111111100dcp-7,
                        0x1.6c16c17f46982p-10,
                        0x1.a01a01abe7fe1p-13,
                        0x1.a019a6611cad5p-16,
                        0x1.71de0231960ebp-19,
                        0x1.28a2ca617b969p-22,
                        0x1.af4de97ca4194p-26};
  return estrin(c, r) * r;
}

// e^x for -708 <= x <= 709
T4R_HD double exp_f64(double x) {
  int64_t k;
  const double r = reduce(x, k);
  return (expm1_reduced(r) + 1.0) * power_of_two(k);
}

// ln((1 + s) / (1 - s)) = 2 atanh(s) for |s| <= 1/3: 2 atanh(s) / s by a Chebyshev fit in s^2, error 1e-16
T4R_HD double twice_atanh(double s) {
  const double c[10] = {0x1p+1,
                        0x1.5555555555aeep-1,
                        0x1.99999998ca58bp-2,
                        0x1.2492498161ca5p-2,
                        0x1.c71c47af989fdp-3,
                        0x1.74628d4f43596p-3,
                        0x1.3aa5e932d3628p-3,
                        0x1.1659956da410fp-3,
                        0x1.94b79523b2fbbp-4,
                        0x1.6c26693a7c095p-3};
  return estrin(c, s * s) * s;
}

// ln u for normal u > 0: u = 2^k m, m in [sqrt(1/2), sqrt(2)), s = (m - 1) / (m + 1), ln m = 2 s + 2/3 s^3 + ...
// (coefficients and order of operations of FreeBSD's e_log.c; error below 1 ulp)
T4R_HD double log_f64(double u) {
  const int64_t bits = bit_cast<int64_t>(u);
  // adding the distance from sqrt(1/2) to 1 makes the exponent field switch at sqrt(2) instead of at 2
  const int64_t shifted = bits + (0x3ff0000000000000LL - 0x3fe6a09e667f3bcdLL);
  const int64_t k = static_cast<int64_t>(static_cast<uint64_t>(shifted) >> 52) - 1023;
  const double m = bit_cast<double>(bits - k * (1LL << 52));
  const double kd = bit_cast<double>(k + 0x4338000000000000LL) - 6755399441055744.0;
  const double f = m - 1.0;
  const double s = f / (2.0 + f);
  const double z = s * s;
  const double w = z * z;
  const double even = w * (3.999999999940941908e-01 + w * (2.222219843214978396e-01 + w * 1.531383769920937332e-01));
  const double odd =
      z * (6.666666666666735130e-01 +
           w * (2.857142874366239149e-01 + w * (1.818357216161805012e-01 + w * 1.479819860511658591e-01)));
  const double half = 0.5 * f * f;
  return kd * 0x1.62e42feep-1 - ((half - (s * (half + (odd + even)) + kd * 0x1.a39ef35793c76p-33)) - f);
}

// 2^y for y <= 64, exactly 1 at 0 and exactly 0 below -126.5; NaN stays NaN. Minimax polynomial of 2^f on |f| <= 1/2,
// relative error below 2.5e-7 with rounding.
template <bool Fused = false>
T4R_HD float exp2_small(float y) {
  const float c[6] = {1.0f, 0.693147004f, 0.240222424f, 0.0555073358f, 0.00967151299f, 0.00132647273f};
  const float clamped = -127.0f > y ? -127.0f : y;  // in this order NaN passes
  // 1.5 * 2^23 pushes the fraction out of the mantissa; 127 more makes what is left the biased exponent, 0 at -127
  const float shifted = clamped + (12582912.0f + 127.0f);
  const float f = clamped - (shifted - (12582912.0f + 127.0f));
  return estrin<Fused>(c, f) * bit_cast<float>(bit_cast<int32_t>(shifted) << 23);
}

template <bool Fused = false>
T4R_HD double exp2_small(double y) {
  const bool vanishes = y < -1020.0;
  const double value = exp_f64((vanishes ? -1020.0 : y) * 0.69314718055994531);
  return vanishes ? 0.0 : value;
}

}  // namespace t4r
