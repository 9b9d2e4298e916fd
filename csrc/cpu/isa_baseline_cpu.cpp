// The kernels for any processor.
#include <cmath>
#include <type_traits>

#include "../core/log_uniform.h"
#include "../kernels.h"

namespace t4r {
namespace baseline {
#define ISA_NAME "baseline"
#define ISA_FUSED false
#include "kernels_cpu.inc"
}  // namespace baseline

constinit const CpuKernels kBaselineKernels = baseline::kernels;
}  // namespace t4r
