// Brings the rows of a gradient into the order of their ids: a radix sort of (id, position) packed into one word, by
// as many bits as ids of the table have. O(N) per digit; rows that are sorted already (a coalesced gradient) are left.
#include <utility>

#include "../kernels.h"

namespace t4r {
namespace {

constexpr int kDigit = 12;  // 4096 counters stay in the first-level cache

int bits_of(uint64_t largest) { return largest == 0 ? 0 : 64 - __builtin_clzll(largest); }

void sort_by_digit(const uint64_t* keys, int64_t size, int shift, int digit, uint64_t* out) {
  const uint64_t mask = (uint64_t{1} << digit) - 1;
  int64_t start[1 << kDigit] = {};
  for (int64_t i = 0; i < size; ++i) ++start[(keys[i] >> shift) & mask];
  int64_t total = 0;
  for (uint64_t d = 0; d <= mask; ++d) total += std::exchange(start[d], total);
  for (int64_t i = 0; i < size; ++i) out[start[(keys[i] >> shift) & mask]++] = keys[i];
}

}  // namespace

SortedRows sort_rows(const int64_t* ids, int64_t size, int64_t num_rows, uint64_t* workspace) {
  if (size == 0) return {workspace, 0, 0};
  const int position_bits = bits_of(static_cast<uint64_t>(size - 1));
  uint64_t* keys = workspace;
  uint64_t* other = workspace + size;
  bool sorted = true;
  bool outside = false;
  for (int64_t i = 0; i < size; ++i) {
    outside |= static_cast<uint64_t>(ids[i]) >= static_cast<uint64_t>(num_rows);
    keys[i] = static_cast<uint64_t>(ids[i]) << position_bits | static_cast<uint64_t>(i);
    sorted &= i == 0 || ids[i] >= ids[i - 1];
  }
  if (outside) return {nullptr, size, position_bits};
  const int id_bits = sorted ? 0 : bits_of(static_cast<uint64_t>(num_rows - 1));
  const int passes = (id_bits + kDigit - 1) / kDigit;
  for (int pass = 0, shift = position_bits; pass < passes; ++pass) {
    const int digit = (id_bits + passes - 1) / passes;
    sort_by_digit(keys, size, shift, digit, other);
    std::swap(keys, other);
    shift += digit;
  }
  return {keys, size, position_bits};
}

}  // namespace t4r
