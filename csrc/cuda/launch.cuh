// What every kernel file includes: how kernels are started, on which device, and where their shared memory is.
//
// The same source runs on the host under tests/native/emulation, whose cuda_runtime.h defines both macros. For that,
// kernels use dynamic shared memory only, no cooperative groups, never wait for another block, and give results that do
// not depend on the order of threads.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../core/portable.h"

#if !defined(T4R_LAUNCH)
// `kernel` is the name of a function or of a pointer to one; give an instance of a template with several arguments a
// name first, for the sake of the commas.
#define T4R_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)
// `name`: a pointer to the block's dynamic shared memory, aligned to 16 bytes.
#define T4R_DYNAMIC_SHARED(type, name)                                \
  extern __shared__ __align__(16) unsigned char t4r_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(t4r_dynamic_shared)
#endif

namespace t4r::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int64_t kMostBlocks = 0x7fffffff;  // of a grid's x

// Takes an error out of the runtime, which keeps it until it is asked: one that is returned must not be found again
// after the next launch.
inline cudaError_t taken(cudaError_t status) {
  if (status != cudaSuccess) cudaGetLastError();
  return status;
}

// Makes `device` the current one for as long as it lives; launchers begin with it, so that any harness can call them.
class DeviceScope {
 public:
  explicit DeviceScope(int device) : status_(taken(cudaGetDevice(&previous_))) {
    changed_ = status_ == cudaSuccess && previous_ != device;
    if (changed_) status_ = taken(cudaSetDevice(device));
  }
  ~DeviceScope() {
    if (changed_) cudaSetDevice(previous_);
  }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

  int status() const { return static_cast<int>(status_); }
  bool failed() const { return status_ != cudaSuccess; }

 private:
  int previous_ = 0;
  bool changed_ = false;
  cudaError_t status_;
};

// Blocks for `size` pieces of work of which a block takes `per_block`, at most `most`: kernels stride over the rest.
inline unsigned blocks_for(int64_t size, int64_t per_block, int64_t most = kMostBlocks) {
  const int64_t blocks = (size + per_block - 1) / per_block;
  return static_cast<unsigned>(blocks < most ? blocks : most);
}

// The most dynamic shared memory that a block of this device may have.
inline size_t most_shared(int device) {
  int bytes = 0;
  const auto status = taken(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return status == cudaSuccess && bytes > 0 ? static_cast<size_t>(bytes) : 48 * 1024;
}

// Lets `kernel` use this much dynamic shared memory on the current device, which above 48 KiB it must be told. It is
// told the most that there is, always: less would be taken from a thread of the host that is about to start the same
// kernel with more.
template <typename Kernel>
cudaError_t allow_shared(Kernel* kernel, size_t bytes) {
  if (bytes <= 48 * 1024) return cudaSuccess;
  int device = 0;
  const auto status = taken(cudaGetDevice(&device));
  if (status != cudaSuccess) return status;
  const size_t most = most_shared(device);
  return taken(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(bytes > most ? bytes : most)));
}

}  // namespace t4r::cuda
