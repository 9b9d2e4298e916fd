// Draws of any law in blocks; of unique candidates the first occurrence of each class is kept.
// O(M) time, O(S) memory, nothing proportional to the catalogue: a bitmap where that is smaller than the hash table.
#pragma once

#include <cstdint>
#include <vector>

namespace t4r {

constexpr int64_t kBlock = 256;

// Open addressing with linear probing over a table at most half full; 0 marks an empty slot, so class + 1 is stored.
class HashSet {
 public:
  explicit HashSet(int bits) : shift_(64 - bits), mask_((int64_t{1} << bits) - 1), slots_(mask_ + 1, 0) {}

  bool insert(int64_t class_index) {
    const int64_t key = class_index + 1;
    auto slot = static_cast<int64_t>((static_cast<uint64_t>(key) * 0x9E3779B97F4A7C15ULL) >> shift_);
    while (slots_[slot] != 0) {
      if (slots_[slot] == key) return false;
      slot = (slot + 1) & mask_;
    }
    slots_[slot] = key;
    return true;
  }

 private:
  int shift_;
  int64_t mask_;
  std::vector<int64_t> slots_;
};

class Bitmap {
 public:
  explicit Bitmap(int64_t num_classes) : words_((num_classes + 63) / 64, 0) {}

  bool insert(int64_t class_index) {
    uint64_t& word = words_[class_index >> 6];
    const uint64_t bit = uint64_t{1} << (class_index & 63);
    const bool is_new = (word & bit) == 0;
    word |= bit;
    return is_new;
  }

 private:
  std::vector<uint64_t> words_;
};

// A law is called as law(start, count, classes) with count <= kBlock and fills in the classes of these draws; below
// zero: a draw that is rejected. Returns the number of draws.
template <typename Law, typename Set>
int64_t draw_until_distinct(const Law& law, int64_t num_samples, Set set, int64_t* classes) {
  int64_t block[kBlock];
  int64_t found = 0;
  for (int64_t start = 0;; start += kBlock) {
    law(static_cast<uint64_t>(start), kBlock, block);
    for (int64_t i = 0; i < kBlock; ++i) {
      const int64_t c = block[i];
      if (c < 0) continue;
      classes[found] = c;  // found < num_samples: written first, kept only if new
      found += set.insert(c);
      if (found == num_samples) return start + i + 1;
    }
  }
}

// Classes [num_samples], distinct ones if `unique` (there must be as many), in the order drawn.
template <typename Law>
int64_t draw(const Law& law, int64_t num_samples, int64_t num_classes, bool unique, int64_t* classes) {
  if (unique) {
    int bits = 6;
    while ((int64_t{1} << bits) < 2 * num_samples) ++bits;
    if (num_classes <= (int64_t{64} << bits)) {
      return draw_until_distinct(law, num_samples, Bitmap(num_classes), classes);
    }
    return draw_until_distinct(law, num_samples, HashSet(bits), classes);
  }
  int64_t block[kBlock];
  int64_t found = 0;
  int64_t start = 0;
  while (found < num_samples) {
    const int64_t count = num_samples - found < kBlock ? num_samples - found : kBlock;
    law(static_cast<uint64_t>(start), count, block);
    start += count;
    for (int64_t i = 0; i < count; ++i) {
      classes[found] = block[i];
      found += block[i] >= 0;
    }
  }
  return num_samples;
}

}  // namespace t4r
