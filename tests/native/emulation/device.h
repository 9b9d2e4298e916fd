// CUDA's types and functions for device code: those that the kernels use.
#pragma once

#include <cstring>
#include <type_traits>

#include "runtime.h"

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

// Not instrumented: what it touches is the machine's own.
#define T4R_UNCHECKED __attribute__((no_sanitize("thread,kernel-address")))

namespace t4r::emulation {

template <typename T>
__forceinline__ uint64_t to_bits(T value) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <typename T>
__forceinline__ T from_bits(uint64_t bits) {
  T value;
  memcpy(&value, &bits, sizeof(T));
  return value;
}

T4R_UNCHECKED inline uint64_t source_value(const Lanes& lanes, unsigned mask, int lane) {
  const int source = lanes.source[lane];
  if ((mask >> source & 1) == 0) fail("lane %d reads from lane %d, which is not in the mask %#x", lane, source, mask);
  return lanes.value[source];
}

T4R_UNCHECKED inline uint64_t ballot(const Lanes& lanes, unsigned mask, int) {
  uint64_t votes = 0;
  for (int i = 0; i < 32; ++i) {
    if (mask >> i & 1 && lanes.value[i]) votes |= uint64_t{1} << i;
  }
  return votes;
}

template <typename T>
T4R_UNCHECKED T shuffle(const char* name, unsigned mask, T value, int source, int width, Place place) {
  if (width < 1 || width > 32 || (width & (width - 1)) != 0)
    fail("%s: width must be a power of two; got %d", name, width);
  return from_bits<T>(warp_collective(name, mask, to_bits(value), source, source_value, place));
}

}  // namespace t4r::emulation

__forceinline__ void __stwb(uint4* address, uint4 value) {
  t4r::emulation::global_store(address);
  *address = value;
}

#define T4R_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

T4R_UNCHECKED inline void __syncthreads(T4R_HERE) {
  t4r::emulation::block_barrier("__syncthreads", false, {file, line});
}
T4R_UNCHECKED inline int __syncthreads_or(int predicate, T4R_HERE) {
  return t4r::emulation::block_barrier("__syncthreads_or", predicate != 0, {file, line}) != 0;
}
T4R_UNCHECKED inline int __syncthreads_count(int predicate, T4R_HERE) {
  return t4r::emulation::block_barrier("__syncthreads_count", predicate != 0, {file, line});
}
T4R_UNCHECKED inline void __syncwarp(unsigned mask = 0xffffffffu, T4R_HERE) {
  t4r::emulation::warp_collective("__syncwarp", mask, 0, 0, nullptr, {file, line});
}
T4R_UNCHECKED inline unsigned __ballot_sync(unsigned mask, int predicate, T4R_HERE) {
  const auto votes =
      t4r::emulation::warp_collective("__ballot_sync", mask, predicate != 0, 0, t4r::emulation::ballot, {file, line});
  return static_cast<unsigned>(votes);
}
// Out of its group of `width` lanes a lane reads itself.
template <typename T>
T4R_UNCHECKED T __shfl_sync(unsigned mask, T value, int source, int width = 32, T4R_HERE) {
  const int group = t4r::emulation::lane() & ~(width - 1);
  return t4r::emulation::shuffle("__shfl_sync", mask, value, group + (source & (width - 1)), width, {file, line});
}
template <typename T>
T4R_UNCHECKED T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, T4R_HERE) {
  const int lane = t4r::emulation::lane();
  const int source = lane ^ bits;
  const bool outside = source >= (lane & ~(width - 1)) + width;
  return t4r::emulation::shuffle("__shfl_xor_sync", mask, value, outside ? lane : source, width, {file, line});
}
template <typename T>
T4R_UNCHECKED T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32, T4R_HERE) {
  const int lane = t4r::emulation::lane();
  const int source = lane - static_cast<int>(distance);
  const bool outside = source < (lane & ~(width - 1));
  return t4r::emulation::shuffle("__shfl_up_sync", mask, value, outside ? lane : source, width, {file, line});
}
template <typename T>
T4R_UNCHECKED T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32, T4R_HERE) {
  const int lane = t4r::emulation::lane();
  const int source = lane + static_cast<int>(distance);
  const bool outside = source >= (lane & ~(width - 1)) + width;
  return t4r::emulation::shuffle("__shfl_down_sync", mask, value, outside ? lane : source, width, {file, line});
}

#undef T4R_HERE

namespace t4r::emulation {

// Tells the machine that what follows is atomic, and returns what is there.
template <typename T>
T4R_UNCHECKED T begin_atomic(const T* address, const void* code) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "CUDA has no such atomic");
  atomic_access(address, sizeof(T), code);
  return *address;
}

}  // namespace t4r::emulation

// Calls, not instrumented: between reading and writing no other thread comes. The operand's type must not choose T:
// atomicAdd(&total, 1) means what total is.
#define T4R_ATOMIC __attribute__((noinline)) T4R_UNCHECKED
template <typename T>
T4R_ATOMIC T atomicAdd(T* address, std::type_identity_t<T> value) {
  const T old = t4r::emulation::begin_atomic(address, __builtin_return_address(0));
  *address = static_cast<T>(old + value);
  return old;
}
template <typename T>
T4R_ATOMIC T atomicMin(T* address, std::type_identity_t<T> value) {
  static_assert(std::is_integral_v<T>, "CUDA has no such atomic");
  const T old = t4r::emulation::begin_atomic(address, __builtin_return_address(0));
  *address = value < old ? value : old;
  return old;
}
template <typename T>
T4R_ATOMIC T atomicMax(T* address, std::type_identity_t<T> value) {
  static_assert(std::is_integral_v<T>, "CUDA has no such atomic");
  const T old = t4r::emulation::begin_atomic(address, __builtin_return_address(0));
  *address = old < value ? value : old;
  return old;
}
template <typename T>
T4R_ATOMIC T atomicOr(T* address, std::type_identity_t<T> value) {
  static_assert(std::is_integral_v<T>, "CUDA has no such atomic");
  const T old = t4r::emulation::begin_atomic(address, __builtin_return_address(0));
  *address = old | value;
  return old;
}
template <typename T>
T4R_ATOMIC T atomicExch(T* address, std::type_identity_t<T> value) {
  const T old = t4r::emulation::begin_atomic(address, __builtin_return_address(0));
  *address = value;
  return old;
}
template <typename T>
T4R_ATOMIC T atomicCAS(T* address, std::type_identity_t<T> compare, std::type_identity_t<T> value) {
  static_assert(std::is_integral_v<T>, "CUDA has no such atomic");
  const T old = t4r::emulation::begin_atomic(address, __builtin_return_address(0));
  *address = old == compare ? value : old;
  return old;
}
#undef T4R_ATOMIC

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
