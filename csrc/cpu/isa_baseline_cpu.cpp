// The kernels for any processor.
#include <cmath>

#include "../core/log_uniform.h"
#include "../kernels.h"

namespace t4r {
namespace baseline {
#include "kernels_cpu.inc"
}  // namespace baseline

const CpuKernels kBaselineKernels = {
    "baseline",
    baseline::draw,
    baseline::log_q,
    baseline::sampled_tile<float>,
    baseline::sampled_tile<double>,
    baseline::logits_tile<float>,
    baseline::logits_tile<double>,
};
}  // namespace t4r
