// One draw of a law: counter-based random bits, so that any draw can be made on its own, and classes from them.
#pragma once

#include "portable.h"

namespace t4r {

// the i-th output of splitmix64 (OOPSLA 2014)
T4R_HD uint64_t random_bits(uint64_t seed, uint64_t index) {
  uint64_t x = seed + (index + 1) * 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

// 53 random bits as a double in [0, 1)
T4R_HD double uniform(uint64_t seed, uint64_t index) {
  const uint64_t x = random_bits(seed, index);
  // the upper 52 bits become the mantissa of a number in [1, 2), the 53rd is added: exact, and without the
  // conversion from int64 that AVX2 lacks
  const double upper = bit_cast<double>((x >> 12) | 0x3FF0000000000000ULL) - 1.0;
  const double lowest = ((x >> 11) & 1) != 0 ? 0x1p-53 : 0.0;
  return upper + lowest;
}

// Largest 63-bit number that is not in the incomplete run of R values at their end.
T4R_HD uint64_t last_of_whole_runs(uint64_t num_classes) {
  const uint64_t end = uint64_t{1} << 63;
  return end / num_classes * num_classes - 1;
}

// One of R classes, all equally likely; -1 where the bits fall into the incomplete run.
T4R_HD int64_t uniform_class(uint64_t seed, uint64_t index, uint64_t num_classes, uint64_t last) {
  const uint64_t x = random_bits(seed, index) & 0x7FFFFFFFFFFFFFFFULL;
  return x <= last ? static_cast<int64_t>(x % num_classes) : -1;
}

// Walker's alias table: bucket b, drawn uniformly, stands for class b, or for its alias with chance 1 - threshold[b].
T4R_HD int64_t alias_bucket(uint64_t seed, uint64_t index, int64_t num_classes) {
  const auto bucket = static_cast<int64_t>(uniform(seed, 2 * index) * static_cast<double>(num_classes));
  return bucket < num_classes ? bucket : num_classes - 1;
}

T4R_HD int64_t alias_class(uint64_t seed, uint64_t index, int64_t bucket, float threshold, int32_t alias) {
  const bool own = uniform(seed, 2 * index + 1) < static_cast<double>(threshold);
  return own ? bucket : alias;
}

}  // namespace t4r
