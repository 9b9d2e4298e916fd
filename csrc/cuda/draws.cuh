// Draws of any law, kept in the order drawn: the first of each class where they are to be distinct.
//
// One block draws in rounds, a draw for each thread, until it has S: how many are needed is seen on the device, no
// block waits for another, and nothing waits for the host. A round looks its classes up among those of earlier rounds
// (nobody writes then, so plain loads do), puts what is new into the set, where the round's earliest draw of a class
// wins by atomicMin, and gives the winners their places by a prefix sum: the result is the CPU's, whatever the order of
// the threads.
//
// The set is a hash table with linear probing, 8 bytes a slot, at most 3/4 full. It lies in shared memory up to S =
// 8192 where a block may have 129 KiB (8.0, 9.0, 10.0), up to 4096 with 65 KiB (8.6, 8.9, 12.0), up to 2048 with less
// (7.5), and else in global memory. Blocks of 1024 threads, since barriers cost the same for all of them; of 256 for
// small S, which need no more draws.
//
// Cost: what one SM can draw. A log-uniform draw takes 40 float64 operations, so a round at least 640 clocks of an H100
// (64 operations a clock), and with its searches and four barriers about 1 us: S = 1000 of 1M items take 2 rounds, S =
// 8192 of 10M take 14. Where an SM does 2 float64 operations a clock (7.5, 8.6, 8.9, 12.0) a round takes 12 us. With
// the set in global memory a round waits for the second-level cache three times or more, about 3 us: S = 100,000 of 10M
// take 230 rounds. Bytes: 12 S are written; the set stays in shared memory or the second-level cache.
#pragma once

#include "../core/draws.h"
#include "block.cuh"

namespace t4r::cuda {

constexpr int kMostDrawThreads = 1024;
constexpr int kTagBits = 10;                                       // of a thread of the block
constexpr int64_t kMostClasses = int64_t{1} << 53;                 // a class and a tag fit a slot
constexpr int kScratchBytes = 32 * static_cast<int>(sizeof(int));  // of the prefix sum

using Slot = unsigned long long;
constexpr Slot kEmptySlot = ~Slot{0};

// Where draws go.
struct Drawn {
  int64_t num_samples;
  int64_t min_id;
  int64_t* ids;
  float* log_q;        // nullptr: not asked for
  float log_q_of_all;  // what it is
  int64_t* num_tries;  // nullptr: not asked for
  int64_t tries;       // what it is; negative: the number of draws made
  int64_t* count;      // nullptr: not asked for
};

__device__ __forceinline__ void store(const Drawn& out, int64_t place, int64_t class_index) {
  out.ids[place] = class_index + out.min_id;
  if (out.log_q != nullptr) out.log_q[place] = out.log_q_of_all;
}

// Called by the thread that stores the last sample, its draw being the last of `draws`.
__device__ __forceinline__ void store_counts(const Drawn& out, int64_t draws) {
  if (out.num_tries != nullptr) *out.num_tries = out.tries < 0 ? draws : out.tries;
  if (out.count != nullptr) *out.count = out.num_samples;
}

// A slot holds class * 2^kTagBits + the thread that drew it.
struct ClassSet {
  Slot* slots;
  int bits;

  __device__ Slot next(Slot slot) const { return (slot + 1) & ((Slot{1} << bits) - 1); }

  // Whether the class is in the set; `slot` is where, or else the empty one at which the search ends.
  __device__ bool find(int64_t class_index, Slot& slot) const {
    slot = (static_cast<Slot>(class_index) * 0x9E3779B97F4A7C15ULL) >> (64 - bits);
    for (;; slot = next(slot)) {
      const Slot held = slots[slot];
      if (held == kEmptySlot) return false;
      if (held >> kTagBits == static_cast<Slot>(class_index)) return true;
    }
  }

  // Puts `word` at the end of the search for its class, or lowers what other threads put there, and returns the slot.
  __device__ Slot insert(Slot slot, Slot word) {
    for (;; slot = next(slot)) {
      const Slot held = atomicCAS(slots + slot, kEmptySlot, word);
      if (held == kEmptySlot) return slot;
      if (held >> kTagBits == word >> kTagBits) {
        atomicMin(slots + slot, word);
        return slot;
      }
    }
  }
};

// A law is called as law(seed, index) and returns a class; below zero: a draw that is rejected. `workspace` is an empty
// set; without one it lies in shared memory.
template <typename Law, bool kDistinct>
__global__ void __launch_bounds__(kMostDrawThreads)
    draw_in_order(const Law law, const int64_t* seed_at, const Drawn out, Slot* workspace, int bits) {
  T4R_DYNAMIC_SHARED(unsigned char, shared);
  int* const scratch = reinterpret_cast<int*>(shared);
  const bool in_shared = workspace == nullptr;
  ClassSet set{in_shared ? reinterpret_cast<Slot*>(shared + kScratchBytes) : workspace, bits};
  if (kDistinct && in_shared) {
    for (int i = static_cast<int>(threadIdx.x); i < 1 << bits; i += static_cast<int>(blockDim.x)) {
      set.slots[i] = kEmptySlot;
    }
    __syncthreads();
  }
  const auto seed = static_cast<uint64_t>(*seed_at);
  int64_t found = 0;
  for (uint64_t start = 0; found < out.num_samples; start += blockDim.x) {
    const uint64_t index = start + threadIdx.x;
    const int64_t class_index = law(seed, index);
    bool keep = class_index >= 0;
    if constexpr (kDistinct) {
      Slot slot = 0;
      const Slot word = static_cast<Slot>(class_index) << kTagBits | threadIdx.x;
      keep = keep && !set.find(class_index, slot);
      __syncthreads();
      if (keep) slot = set.insert(slot, word);
      __syncthreads();
      keep = keep && set.slots[slot] == word;
    }
    int kept = 0;
    const int64_t place = found + block_exclusive_sum(static_cast<int>(keep), scratch, kept);
    if (keep && place < out.num_samples) store(out, place, class_index);
    if (keep && place == out.num_samples - 1) store_counts(out, static_cast<int64_t>(index + 1));
    found += kept;
  }
}

// Every draw is kept, by as many blocks as there are: for laws that reject nothing.
template <typename Law>
__global__ void draw_each(const Law law, const int64_t* seed_at, const Drawn out) {
  const auto seed = static_cast<uint64_t>(*seed_at);
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < out.num_samples; i += stride) {
    store(out, i, law(seed, static_cast<uint64_t>(i)));
    if (i == out.num_samples - 1) store_counts(out, out.num_samples);
  }
}

// The law that names every class once.
struct WholeRange {
  __device__ int64_t operator()(uint64_t, uint64_t index) const { return static_cast<int64_t>(index); }
};

inline int draw_threads(int64_t num_samples) { return num_samples > 512 ? kMostDrawThreads : 256; }

// Slots for `num_samples` classes and a last round that may find more of them than are kept.
inline int set_bits(int64_t num_samples) {
  const int64_t most = num_samples + 2 * draw_threads(num_samples);
  int bits = 9;
  while ((int64_t{1} << bits) < 2 * num_samples || (int64_t{1} << bits) < most) ++bits;
  return bits;
}

inline size_t set_bytes(int64_t num_samples) { return sizeof(Slot) << set_bits(num_samples); }

// 0 where these bytes fit the shared memory of a block, beside the scratch of its sums.
inline int64_t workspace_for(size_t bytes, int device) {
  return kScratchBytes + bytes <= most_shared(device) ? 0 : static_cast<int64_t>(bytes);
}

template <bool kDistinct, typename Law>
int launch_in_order(const Law& law, const int64_t* seed, const Drawn& out, void* workspace, cudaStream_t stream) {
  const auto kernel = draw_in_order<Law, kDistinct>;
  const int bits = kDistinct ? set_bits(out.num_samples) : 0;
  const size_t set = kDistinct ? sizeof(Slot) << bits : 0;
  const size_t shared = kScratchBytes + (workspace == nullptr ? set : 0);
  if (workspace != nullptr) {
    const cudaError_t status = taken(cudaMemsetAsync(workspace, 0xff, set, stream));
    if (status != cudaSuccess) return static_cast<int>(status);
  }
  const cudaError_t status = allow_shared(kernel, shared);
  if (status != cudaSuccess) return static_cast<int>(status);
  T4R_LAUNCH(kernel, 1, draw_threads(out.num_samples), shared, stream, law, seed, out, static_cast<Slot*>(workspace),
             bits);
  return static_cast<int>(cudaGetLastError());
}

template <typename Law>
int launch_each(const Law& law, const int64_t* seed, const Drawn& out, cudaStream_t stream) {
  const auto kernel = draw_each<Law>;
  T4R_LAUNCH(kernel, blocks_for(out.num_samples, 256), 256, 0, stream, law, seed, out);
  return static_cast<int>(cudaGetLastError());
}

}  // namespace t4r::cuda
