// CUDA's types and functions for device code, as far as the kernels use them.
#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>

#include "runtime.h"

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(16) longlong2 {
  long long x, y;
};
struct alignas(16) ulonglong2 {
  unsigned long long x, y;
};

inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline longlong2 make_longlong2(long long x, long long y) { return {x, y}; }

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

T4R_UNCHECKED inline uint64_t same_value(const Lanes& lanes, unsigned mask, int lane) {
  uint64_t same = 0;
  for (int i = 0; i < 32; ++i) {
    if (mask >> i & 1 && lanes.value[i] == lanes.value[lane]) same |= uint64_t{1} << i;
  }
  return same;
}

T4R_UNCHECKED inline uint64_t sum(const Lanes& lanes, unsigned mask, int) {
  uint64_t total = 0;
  for (int i = 0; i < 32; ++i) total += mask >> i & 1 ? lanes.value[i] : 0;
  return total;
}

template <typename T>
T4R_UNCHECKED T shuffle(const char* name, unsigned mask, T value, int source, int width, Place place) {
  if (width < 1 || width > 32 || (width & (width - 1)) != 0)
    fail("%s: width must be a power of two; got %d", name, width);
  return from_bits<T>(warp_collective(name, mask, to_bits(value), source, source_value, place));
}

}  // namespace t4r::emulation

#define T4R_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

T4R_UNCHECKED inline void __syncthreads(T4R_HERE) {
  t4r::emulation::block_barrier("__syncthreads", false, {file, line});
}
T4R_UNCHECKED inline int __syncthreads_count(int predicate, T4R_HERE) {
  return t4r::emulation::block_barrier("__syncthreads_count", predicate != 0, {file, line});
}
T4R_UNCHECKED inline int __syncthreads_or(int predicate, T4R_HERE) {
  return t4r::emulation::block_barrier("__syncthreads_or", predicate != 0, {file, line}) != 0;
}
T4R_UNCHECKED inline int __syncthreads_and(int predicate, T4R_HERE) {
  return t4r::emulation::block_barrier("__syncthreads_and", predicate == 0, {file, line}) == 0;
}

T4R_UNCHECKED inline void __syncwarp(unsigned mask = 0xffffffffu, T4R_HERE) {
  t4r::emulation::warp_collective("__syncwarp", mask, 0, 0, nullptr, {file, line});
}
T4R_UNCHECKED inline unsigned __ballot_sync(unsigned mask, int predicate, T4R_HERE) {
  const auto votes =
      t4r::emulation::warp_collective("__ballot_sync", mask, predicate != 0, 0, t4r::emulation::ballot, {file, line});
  return static_cast<unsigned>(votes);
}
T4R_UNCHECKED inline int __any_sync(unsigned mask, int predicate, T4R_HERE) {
  return t4r::emulation::warp_collective("__any_sync", mask, predicate != 0, 0, t4r::emulation::ballot, {file, line}) !=
         0;
}
T4R_UNCHECKED inline int __all_sync(unsigned mask, int predicate, T4R_HERE) {
  return t4r::emulation::warp_collective("__all_sync", mask, predicate == 0, 0, t4r::emulation::ballot, {file, line}) ==
         0;
}
template <typename T>
T4R_UNCHECKED unsigned __match_any_sync(unsigned mask, T value, T4R_HERE) {
  const auto same = t4r::emulation::warp_collective("__match_any_sync", mask, t4r::emulation::to_bits(value), 0,
                                                    t4r::emulation::same_value, {file, line});
  return static_cast<unsigned>(same);
}
T4R_UNCHECKED inline unsigned __reduce_add_sync(unsigned mask, unsigned value, T4R_HERE) {
  const auto total =
      t4r::emulation::warp_collective("__reduce_add_sync", mask, value, 0, t4r::emulation::sum, {file, line});
  return static_cast<unsigned>(total);
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

// The order of memory between threads is that of their barriers alone.
inline void __threadfence() {}
inline void __threadfence_block() {}

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
T4R_ATOMIC T atomicAnd(T* address, std::type_identity_t<T> value) {
  static_assert(std::is_integral_v<T>, "CUDA has no such atomic");
  const T old = t4r::emulation::begin_atomic(address, __builtin_return_address(0));
  *address = old & value;
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
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x)); }
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1) << (31 - i);
  return reversed;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}

inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline float __uint_as_float(unsigned x) { return t4r::emulation::from_bits<float>(x); }
inline float __int_as_float(int x) { return t4r::emulation::from_bits<float>(static_cast<unsigned>(x)); }
inline unsigned __float_as_uint(float x) { return static_cast<unsigned>(t4r::emulation::to_bits(x)); }
inline int __float_as_int(float x) { return static_cast<int>(t4r::emulation::to_bits(x)); }
inline double __longlong_as_double(long long x) { return t4r::emulation::from_bits<double>(static_cast<uint64_t>(x)); }
inline long long __double_as_longlong(double x) { return static_cast<long long>(t4r::emulation::to_bits(x)); }

template <typename T>
__forceinline__ T __ldg(const T* address) {
  return *address;
}
template <typename T>
__forceinline__ T __ldcs(const T* address) {
  return *address;
}
template <typename T>
__forceinline__ void __stcs(T* address, std::type_identity_t<T> value) {
  *address = value;
}

template <typename T>
  requires std::is_arithmetic_v<T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
  requires std::is_arithmetic_v<T>
T max(T a, T b) {
  return a < b ? b : a;
}
