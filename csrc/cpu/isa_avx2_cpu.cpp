// The kernels for x86-64 processors with AVX2.
#if defined(__x86_64__)
#include <cmath>
#include <type_traits>

#include "../core/log_uniform.h"
#include "../kernels.h"

// After the standard headers, so that no shared inline function of theirs is compiled for this instruction set.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2")
#endif

namespace t4r {
namespace avx2 {
#define ISA_NAME "avx2"
#define ISA_FUSED true
#include "kernels_cpu.inc"
}  // namespace avx2

constinit const CpuKernels kAvx2Kernels = avx2::kernels;
}  // namespace t4r

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
