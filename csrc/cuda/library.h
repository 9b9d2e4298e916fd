// What the library says of its CUDA part; Python reads what is exported through ctypes.
#pragma once

#define T4R_EXPORTED __attribute__((visibility("default")))

extern "C" {

// The architectures that the kernels were compiled for, as "8.0;9.0+PTX".
T4R_EXPORTED const char* transformers4rec_ext_cuda_archs();

// The version of the CUDA runtime inside, and of CUDA that the driver supports (0: there is none): 1000 major + 10
// minor.
T4R_EXPORTED int transformers4rec_ext_cuda_runtime();
int transformers4rec_ext_cuda_driver();

}  // extern "C"
