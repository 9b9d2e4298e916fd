// Chooses the instruction set at run time, so that one wheel serves AVX2 and AVX-512 machines.
#include <cstdlib>
#include <cstring>

#include "../kernels.h"

namespace t4r {
namespace {

const CpuKernels& choose() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  const char* wanted = std::getenv("T4R_EXT_ISA");
  if (wanted != nullptr && std::strcmp(wanted, "baseline") == 0) return kBaselineKernels;
  if (avx512 && (wanted == nullptr || std::strcmp(wanted, "avx2") != 0)) return kAvx512Kernels;
  if (avx2) return kAvx2Kernels;
#endif
  return kBaselineKernels;
}

}  // namespace

const CpuKernels& cpu_kernels() {
  static const CpuKernels& chosen = choose();
  return chosen;
}

}  // namespace t4r
