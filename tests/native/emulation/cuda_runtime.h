// Stands in for CUDA's header of this name, so that g++ compiles the kernels' own source for the host.
//
// A kernel runs with one fiber per thread. Barriers and warp collectives are rendezvous that all the threads they name
// must reach at the same place of the source. See docs/kernels.md for what this proves.
#pragma once

#include <cmath>
#include <cstring>
#include <tuple>

#include "runtime.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#if !defined(__restrict__)
#define __restrict__ __restrict
#endif

#define T4R_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ::t4r::emulation::start(#kernel, kernel, grid, block, shared_bytes, stream __VA_OPT__(, ) __VA_ARGS__)
#define T4R_DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(::t4r::emulation::dynamic_shared())

using cudaStream_t = struct CUstream_st*;
enum cudaError_t : int {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDevice = 101,
  cudaErrorLaunchFailure = 719,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };

namespace t4r::emulation {

template <typename... Parameters, typename... Arguments>
void start(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t,
           Arguments&&... arguments) {
  using Call = std::tuple<void (*)(Parameters...), Parameters...>;
  const Call call(kernel, static_cast<Parameters>(arguments)...);
  const auto run = [](const void* parameters) {
    std::apply([](const auto& function, const auto&... values) { function(values...); },
               *static_cast<const Call*>(parameters));
  };
#if defined(__SANITIZE_THREAD__)
  constexpr Build build = Build::kRace;
#elif defined(__SANITIZE_ADDRESS__)
  constexpr Build build = Build::kBounds;
#else
  constexpr Build build = Build::kPlain;
#endif
  launch({name, reinterpret_cast<const void*>(kernel), grid, block, shared_bytes, &call, sizeof(call), run, build});
}

// The device that is current: of two, so that a launcher can be seen to choose one and to restore the other.
constexpr int kDevices = 2;
int current_device();
void set_device(int device);

}  // namespace t4r::emulation

inline cudaError_t cudaGetLastError() { return static_cast<cudaError_t>(t4r::emulation::last_error()); }

// An error of any call is the last one until it is asked for.
inline cudaError_t kept(int error) {
  if (error != cudaSuccess) t4r::emulation::set_last_error(error);
  return static_cast<cudaError_t>(error);
}

inline cudaError_t cudaGetDevice(int* device) {
  *device = t4r::emulation::current_device();
  return cudaSuccess;
}

inline cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= t4r::emulation::kDevices) return kept(cudaErrorInvalidDevice);
  t4r::emulation::set_device(device);
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int device) {
  if (device < 0 || device >= t4r::emulation::kDevices) return kept(cudaErrorInvalidDevice);
  *value = static_cast<int>(t4r::emulation::most_shared());
  return cudaSuccess;
}

inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  return kept(t4r::emulation::allow_shared(kernel, value));
}

inline cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t = nullptr) {
  if (!t4r::emulation::device_memory(memory, bytes)) return kept(cudaErrorInvalidValue);
  memset(memory, value, bytes);
  return cudaSuccess;
}

#include "device.h"
