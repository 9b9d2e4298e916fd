// Uniform candidates, and candidates by weights through an alias table.
#include <numeric>
#include <vector>

#include "../core/draws.h"
#include "../kernels.h"
#include "draw_cpu.h"

namespace t4r {
namespace {

struct UniformLaw {
  uint64_t seed;
  uint64_t num_classes;
  uint64_t last;

  void operator()(uint64_t start, int64_t count, int64_t* classes) const {
    for (int64_t i = 0; i < count; ++i) {
      classes[i] = uniform_class(seed, start + static_cast<uint64_t>(i), num_classes, last);
    }
  }
};

struct AliasLaw {
  uint64_t seed;
  int64_t num_classes;
  const float* threshold;
  const int32_t* alias;

  // Buckets first, coins after: the table is read at random, and so its lines arrive together.
  void operator()(uint64_t start, int64_t count, int64_t* classes) const {
    for (int64_t i = 0; i < count; ++i) {
      classes[i] = alias_bucket(seed, start + static_cast<uint64_t>(i), num_classes);
      __builtin_prefetch(threshold + classes[i]);
      __builtin_prefetch(alias + classes[i]);
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t bucket = classes[i];
      classes[i] = alias_class(seed, start + static_cast<uint64_t>(i), bucket, threshold[bucket], alias[bucket]);
    }
  }
};

}  // namespace

void draw_uniform(uint64_t seed, int64_t num_samples, int64_t num_classes, bool unique, int64_t* classes) {
  const auto range = static_cast<uint64_t>(num_classes);
  const UniformLaw law{seed, range, last_of_whole_runs(range)};
  if (!unique || 2 * num_samples <= num_classes) {
    draw(law, num_samples, num_classes, unique, classes);
    return;
  }
  // more than half of the range: draw the classes to leave out, so that no draw takes more than two tries on average
  std::vector<bool> left_out(range, false);
  std::vector<int64_t> drawn(range - static_cast<uint64_t>(num_samples));
  if (!drawn.empty()) draw(law, static_cast<int64_t>(drawn.size()), num_classes, true, drawn.data());
  for (const int64_t c : drawn) left_out[static_cast<size_t>(c)] = true;
  for (int64_t c = 0; c < num_classes; ++c) {
    if (!left_out[static_cast<size_t>(c)]) *classes++ = c;
  }
}

int64_t draw_weighted(uint64_t seed, int64_t num_samples, int64_t num_classes, const float* threshold,
                      const int32_t* alias, bool unique, int64_t* classes) {
  return draw(AliasLaw{seed, num_classes, threshold, alias}, num_samples, num_classes, unique, classes);
}

}  // namespace t4r
