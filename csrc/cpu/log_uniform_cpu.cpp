// The log-uniform law on the CPU: draws (vectorised) and log of expected counts.
#include <cmath>

#include "../core/log_uniform.h"
#include "../kernels.h"
#include "draw_cpu.h"

namespace t4r {
namespace {

struct LogUniformLaw {
  const CpuKernels& kernels;
  uint64_t seed;
  int64_t num_classes;
  double log_range;

  void operator()(uint64_t start, int64_t count, int64_t* classes) const {
    double one_plus[kBlock];
    kernels.draw(seed, start, count, log_range, one_plus);
    for (int64_t i = 0; i < count; ++i) classes[i] = clamp_class(one_plus[i], num_classes);
  }
};

}  // namespace

void log_uniform_log_q(const CpuKernels& kernels, const int64_t* ids, int64_t size, int64_t num_classes, int64_t min_id,
                       double tries, bool unique, float* out) {
  const double log_range = std::log1p(static_cast<double>(num_classes));
  if (num_classes >= 3) {
    kernels.log_q(ids, size, min_id, tries, log_range, unique, out);
    return;
  }
  for (int64_t i = 0; i < size; ++i) {
    const double p = probability_of_few(static_cast<double>(ids[i] - min_id), num_classes, 1.0 / log_range);
    out[i] = log_count_elsewhere(p, tries, unique);
  }
}

void log_expected_count(const CpuKernels& kernels, const float* p, int64_t size, double tries, bool unique,
                        float* out) {
  double block[kBlock];
  for (int64_t begin = 0; begin < size; begin += kBlock) {
    const int64_t count = size - begin < kBlock ? size - begin : kBlock;
    for (int64_t i = 0; i < count; ++i) {
      const auto value = static_cast<double>(p[begin + i]);
      block[i] = value > 0.0 && value <= 0.5 ? value : 0.5;
    }
    kernels.log_counts(block, count, tries, unique, out + begin);
    for (int64_t i = begin; i < begin + count; ++i) {
      if (!(p[i] > 0.0f && p[i] <= 0.5f)) out[i] = log_count_elsewhere(static_cast<double>(p[i]), tries, unique);
    }
  }
}

int64_t draw_log_uniform(const CpuKernels& kernels, uint64_t seed, int64_t num_samples, int64_t num_classes,
                         bool unique, int64_t* classes) {
  const LogUniformLaw law{kernels, seed, num_classes, std::log1p(static_cast<double>(num_classes))};
  return draw(law, num_samples, num_classes, unique, classes);
}

}  // namespace t4r
