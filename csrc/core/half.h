// float16 and bfloat16 as they lie in memory: widened exactly, rounded once to the nearest even. Branch-free integer
// arithmetic, so that loops over it vectorise on every instruction set and give the same bits.
#pragma once

#include "portable.h"

namespace t4r {

struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// The type in which sums are formed: float64 for float64, else float32.
template <typename S>
struct WideOf {
  using type = float;
};
template <>
struct WideOf<double> {
  using type = double;
};
template <typename S>
using Wide = typename WideOf<S>::type;

T4R_HD double widen(double x) { return x; }
T4R_HD float widen(float x) { return x; }
T4R_HD float widen(BFloat16 x) { return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

T4R_HD float widen(Float16 x) {
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fff) << 13;
  const uint32_t exponent = magnitude & 0x0f800000u;
  const uint32_t rebased = magnitude + (112u << 23);
  // infinities and NaN take the largest exponent; a subnormal is what exceeds the smallest normal number
  const float normal = bit_cast<float>(exponent == 0x0f800000u ? rebased + (112u << 23) : rebased);
  const float subnormal = bit_cast<float>(rebased + (1u << 23)) - bit_cast<float>(113u << 23);
  const uint32_t bits = bit_cast<uint32_t>(exponent == 0 ? subnormal : normal);
  return bit_cast<float>(bits | static_cast<uint32_t>(x.bits & 0x8000) << 16);
}

template <typename S>
T4R_HD S narrow(Wide<S> x) {
  return x;
}

template <>
T4R_HD BFloat16 narrow<BFloat16>(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return {static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded)};
}

template <>
T4R_HD Float16 narrow<Float16>(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // adding 1/2 leaves a subnormal result, rounded, in the lowest bits of the mantissa
  const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - bit_cast<uint32_t>(0.5f);
  const uint32_t large = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t finite = magnitude < (113u << 23) ? subnormal : normal;
  const uint32_t rounded = magnitude >= (143u << 23) ? large : finite;
  return {static_cast<uint16_t>(rounded | ((bits >> 16) & 0x8000u))};
}

}  // namespace t4r
