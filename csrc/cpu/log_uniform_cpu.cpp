// Unique candidates: draws in blocks (vectorised), keeps the first occurrence of each class.
// O(M) time, O(S) memory, nothing proportional to the catalogue: a bitmap where that is smaller than the hash table.
#include <cmath>
#include <vector>

#include "../core/log_uniform.h"
#include "../kernels.h"

namespace t4r {
namespace {

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

template <typename Set>
int64_t draw_until_distinct(const CpuKernels& kernels, uint64_t seed, int64_t num_samples, int64_t num_classes, Set set,
                            int64_t* classes) {
  const double log_range = std::log1p(static_cast<double>(num_classes));
  double one_plus[kBlock];
  int64_t found = 0;
  for (int64_t start = 0;; start += kBlock) {
    kernels.draw(seed, static_cast<uint64_t>(start), kBlock, log_range, one_plus);
    for (int64_t i = 0; i < kBlock; ++i) {
      const int64_t c = clamp_class(one_plus[i], num_classes);
      classes[found] = c;  // found < num_samples: written first, kept only if new
      found += set.insert(c);
      if (found == num_samples) return start + i + 1;
    }
  }
}

// At most two classes, where p may exceed 1/2 and the vectorised series does not hold.
void log_q_of_two(const int64_t* ids, int64_t size, int64_t min_id, double tries, double log_range, bool unique,
                  float* out) {
  for (int64_t i = 0; i < size; ++i) {
    const double p = std::log1p(1.0 / static_cast<double>(ids[i] - min_id + 1)) / log_range;
    const double log_q = unique ? std::log1p(-std::pow(1.0 - p, tries)) : std::log(p * tries);
    out[i] = static_cast<float>(log_q) + 0.0f;
  }
}

}  // namespace

void log_uniform_log_q(const CpuKernels& kernels, const int64_t* ids, int64_t size, int64_t num_classes, int64_t min_id,
                       double tries, bool unique, float* out) {
  const double log_range = std::log1p(static_cast<double>(num_classes));
  const auto log_q = num_classes < 3 ? log_q_of_two : kernels.log_q;
  log_q(ids, size, min_id, tries, log_range, unique, out);
}

int64_t draw_unique_classes(const CpuKernels& kernels, uint64_t seed, int64_t num_samples, int64_t num_classes,
                            int64_t* classes) {
  int bits = 6;
  while ((int64_t{1} << bits) < 2 * num_samples) ++bits;
  if (num_classes <= (int64_t{64} << bits)) {
    return draw_until_distinct(kernels, seed, num_samples, num_classes, Bitmap(num_classes), classes);
  }
  return draw_until_distinct(kernels, seed, num_samples, num_classes, HashSet(bits), classes);
}

void draw_classes(const CpuKernels& kernels, uint64_t seed, int64_t num_samples, int64_t num_classes,
                  int64_t* classes) {
  const double log_range = std::log1p(static_cast<double>(num_classes));
  double one_plus[kBlock];
  for (int64_t start = 0; start < num_samples; start += kBlock) {
    const int64_t block = num_samples - start < kBlock ? num_samples - start : kBlock;
    kernels.draw(seed, static_cast<uint64_t>(start), block, log_range, one_plus);
    for (int64_t i = 0; i < block; ++i) classes[start + i] = clamp_class(one_plus[i], num_classes);
  }
}

}  // namespace t4r
