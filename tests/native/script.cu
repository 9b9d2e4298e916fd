// A kernel that does what it is told: for test_emulation_races.py.
#include "cuda/launch.cuh"

namespace {

using namespace t4r::cuda;

enum Step { kNothing, kRead, kWrite, kAtomic, kSyncwarp, kBarrier };

template <typename T>
__device__ void touch(unsigned char* memory, int step, int at) {
  T* const place = reinterpret_cast<T*>(memory + at);
  if (step == kRead) {
    const T value = *place;
    if (value == 7) __syncwarp(1u << threadIdx.x % kWarp);  // never: so that the value is needed
  } else {
    *place = 1;
  }
}

// script [steps, grid, block, 3]: what to do, and where and how wide, or with which mask.
__global__ void script_kernel(const int* script, int steps, unsigned char* memory) {
  const int threads = static_cast<int>(blockDim.x * gridDim.x);
  for (int s = 0; s < steps; ++s) {
    const int* const line = script + 3 * (s * threads + static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x));
    const int step = line[0], at = line[1], width = line[2];
    if (step == kBarrier) __syncthreads();
    if (step == kSyncwarp) __syncwarp(static_cast<unsigned>(at));
    if (step == kAtomic) atomicExch(reinterpret_cast<unsigned*>(memory + at), 1u);
    if (step != kRead && step != kWrite) continue;
    if (width == 1) touch<uint8_t>(memory, step, at);
    if (width == 2) touch<uint16_t>(memory, step, at);
    if (width == 4) touch<uint32_t>(memory, step, at);
  }
}

}  // namespace

extern "C" int t4r_script_cuda(const int* script, int steps, int blocks, int threads, unsigned char* memory,
                               void* stream) {
  T4R_LAUNCH(script_kernel, blocks, threads, 0, static_cast<cudaStream_t>(stream), script, steps, memory);
  return static_cast<int>(cudaGetLastError());
}
