// What the kernels' side of the emulation (cuda_runtime.h) asks of its machine (scheduler.cpp, memory.cpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// Those of the thread that runs.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace t4r::emulation {

struct Place {
  const char* file = "";
  int line = 0;
  bool operator==(const Place& other) const { return line == other.line && strcmp(file, other.file) == 0; }
};

// What the lanes of a warp bring to a collective.
struct Lanes {
  uint64_t value[32];
  int source[32];  // the lane to read from, in a shuffle
};

// A lane's result, once all lanes of the mask have come.
using LaneResult = uint64_t (*)(const Lanes& lanes, unsigned mask, int lane);

// How the kernel was compiled: whether memory.cpp hears of each access, and which of its checks can be made.
enum class Build { kPlain, kRace, kBounds };

struct Launch {
  const char* kernel;
  const void* function;
  dim3 grid, block;
  size_t shared_bytes;
  const void* parameters;
  size_t parameter_bytes;
  void (*run)(const void* parameters);  // the kernel, as one thread
  Build build;
};

// Runs a grid to its end; what is wrong with it is kept for last_error and the report.
void launch(const Launch& launch);
int last_error();
void set_last_error(int error);

void* dynamic_shared();
// To be called before a store that names global memory.
void global_store(const void* address);
int lane();
// Returns for how many threads of the block `predicate` holds.
int block_barrier(const char* name, bool predicate, Place place);
uint64_t warp_collective(const char* name, unsigned mask, uint64_t value, int source, LaneResult result, Place place);
// To be called before the atomic operation itself, which `code` asks for.
void atomic_access(const void* address, size_t bytes, const void* code);
// Whether the host may write these bytes of device memory.
bool device_memory(const void* address, size_t bytes);

int allow_shared(const void* function, int bytes);
size_t most_shared();
// Ends the kernel with a report.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace t4r::emulation
