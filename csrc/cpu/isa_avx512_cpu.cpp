// The kernels for x86-64 processors with AVX512.
#if defined(__x86_64__)
#include <cmath>
#include <type_traits>

#include "../core/log_uniform.h"
#include "../kernels.h"

// After the standard headers, so that no shared inline function of theirs is compiled for this instruction set.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,bmi,bmi2"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,bmi,bmi2")
#endif

namespace t4r {
namespace avx512 {
#define ISA_NAME "avx512"
#define ISA_FUSED true
#include "kernels_cpu.inc"
}  // namespace avx512

constinit const CpuKernels kAvx512Kernels = avx512::kernels;
}  // namespace t4r

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
