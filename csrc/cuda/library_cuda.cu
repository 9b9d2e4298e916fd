// What the library says of its CUDA part, and whether this machine's driver can run it. No kernel is here.
#include "library.h"

#include <cuda_runtime.h>
#include <dlfcn.h>

extern "C" {

const char* transformers4rec_ext_cuda_archs() { return T4R_CUDA_ARCHS; }

int transformers4rec_ext_cuda_runtime() { return CUDART_VERSION; }

// Asked of the driver itself: the runtime's own question would start the driver, and a process that has done so cannot
// fork workers that use the device. The runtime works with every driver of its own major version and later ones.
int transformers4rec_ext_cuda_driver() {
  void* const driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (driver == nullptr) return 0;
  using Function = int (*)(int*);
  const auto get_version = reinterpret_cast<Function>(dlsym(driver, "cuDriverGetVersion"));
  int version = 0;
  return get_version != nullptr && get_version(&version) == 0 ? version : 0;
}

}  // extern "C"
