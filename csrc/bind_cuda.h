// What the bind_*_cuda.cpp files share besides bind.h. Nothing here needs torch's CUDA headers or its CUDA build, so
// one library serves both: the current stream is asked for by name when a kernel is about to start. A registration
// begins with `if (!driver_suffices()) return;`.
#pragma once

#include <dlfcn.h>

#include "bind.h"
#include "cuda/dtype.h"
#include "cuda/library.h"

namespace t4r::bind {

#if defined(T4R_EMULATED)  // tests/native/emulation runs these bindings on the host's tensors, and the kernels with
                           // them

#define T4R_DEVICE_KEY CPU

inline int device_of(const Tensor&) { return 0; }
inline int32_t device_type() { return aoti_torch_device_type_cpu(); }
inline void* current_stream(int) { return nullptr; }
inline bool driver_suffices() { return true; }

#else

#define T4R_DEVICE_KEY CUDA

inline int device_of(const Tensor& tensor) { return static_cast<int>(tensor.get_device_index()); }
inline int32_t device_type() { return aoti_torch_device_type_cuda(); }

// torch's current stream on the device. Asked of the library by name: its symbols are not global.
inline void* current_stream(int device) {
  using Function = AOTITorchError (*)(int32_t, void**);
  static void* const library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  static const auto function = reinterpret_cast<Function>(
      dlsym(library != nullptr ? library : RTLD_DEFAULT, "aoti_torch_get_current_cuda_stream"));
  STD_TORCH_CHECK(function != nullptr,
                  "this build of torch has no CUDA: aoti_torch_get_current_cuda_stream is missing");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(function(device, &stream));
  return stream;
}

// Whether kernels may be registered. Where there is no driver at all nothing can call them, and whether they are there
// can be seen (and tested); with a driver too old for the runtime inside, the reference keeps its place. So it does in
// a torch for AMD's GPUs, whose tensors go by the same key.
inline bool driver_suffices() {
  if (dlopen("libtorch_hip.so", RTLD_LAZY | RTLD_NOLOAD) != nullptr) return false;
  const int driver = transformers4rec_ext_cuda_driver();
  return driver == 0 || driver / 1000 >= transformers4rec_ext_cuda_runtime() / 1000;
}

#endif

// From torch's caching allocator: safe under CUDA graphs.
inline Tensor empty_on(int device, torch::headeronly::IntHeaderOnlyArrayRef sizes, int32_t dtype_code) {
  return empty_of(sizes, dtype_code, device_type(), device);
}

inline int dtype_code(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return cuda::kFloat32;
    case ScalarType::Double:
      return cuda::kFloat64;
    case ScalarType::Half:
      return cuda::kFloat16;
    case ScalarType::BFloat16:
      return cuda::kBFloat16;
    default:
      STD_TORCH_CHECK(false, "a CUDA kernel takes float16, bfloat16, float32 or float64");
  }
}

// Whether an error is one that a kernel left as it ran, and that stays: an address, a timeout, an assertion, an
// instruction.
inline bool is_of_an_earlier_kernel(int status) {
  return status == 700 || status == 702 || status == 710 || (status >= 714 && status <= 719);
}

// `status` is what a launcher returned.
inline void check_launch(int status, const char* name) {
  constexpr int kInvalidDeviceFunction = 98, kNoKernelImageForDevice = 209;
  const char* why = "";
  if (status == kNoKernelImageForDevice || status == kInvalidDeviceFunction)
    why =
        ": the library has no code for this GPU. See `python -m transformers4rec_ext doctor`, or do without its "
        "kernels: T4R_EXT_BACKEND=reference";
  else if (is_of_an_earlier_kernel(status))
    why = ": an earlier one failed, and this process cannot use the GPU any more. CUDA_LAUNCH_BLOCKING=1 shows which";
  STD_TORCH_CHECK(status == 0, name, ": the CUDA kernel did not start (cudaError ", status, ")", why);
}

}  // namespace t4r::bind
