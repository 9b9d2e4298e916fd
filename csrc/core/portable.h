// Macros that let the same arithmetic compile for the host and the device.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define T4R_HD __host__ __device__ __forceinline__
#else
#define T4R_HD inline __attribute__((always_inline))
#endif

namespace t4r {

template <typename To, typename From>
T4R_HD To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast needs equal sizes");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

}  // namespace t4r
