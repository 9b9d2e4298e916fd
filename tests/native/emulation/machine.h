// The state of the emulated device: one kernel runs at a time, on one thread of the host.
#pragma once

#include <string>
#include <vector>

#include "fiber.h"
#include "runtime.h"

namespace t4r::emulation {

constexpr int kMostThreads = 1024;
constexpr int kResidentBlocks = 3;
constexpr size_t kStack = 128 * 1024 + 4096 + 64;  // an odd number of cache lines: stacks share no set of the cache
constexpr size_t kMostShared = 227 * 1024;
constexpr size_t kSharedGuard = 64 * 1024;

enum class State { kReady, kAtBarrier, kInWarp, kEnded };
enum class Order { kForward, kReverse, kRandom, kPreempt };
enum class Kind { kRead, kWrite, kAtomic };

struct Block;

struct Thread {
  Fiber fiber;
  Block* block;
  int index;
  State state;
  // while it waits
  const char* name;
  Place place;
  unsigned mask;
  uint64_t value;
  int source;
  uint64_t result;
  int atomics;  // operations since it last waited
  // clock[l] is what this lane has seen of lane l of its warp through __syncwarp
  uint32_t clock[32];

  int lane() const { return index % 32; }
  void wait(State how, const char* what, Place where);
  void wake();
};

struct Block {
  uint64_t number = 0;  // in the grid
  uint64_t stamp = 0;   // of this block of this launch, unlike any other
  uint3 index{};
  std::vector<Thread> threads;
  int arrived = 0, ended = 0;           // at the barrier; altogether
  int count = 0, result = 0;            // of predicates: until now, of the last barrier
  uint32_t epoch = 0;                   // barriers passed
  Place barrier{};                      // where those wait that have arrived
  uint64_t ready[kMostThreads / 64]{};  // a bit for each thread
  unsigned in_warp[32]{};               // the lanes of each warp that wait in a collective
  char* shared = nullptr;
  char* stacks = nullptr;

  Thread* warp(const Thread& thread) { return &threads[static_cast<size_t>(thread.index - thread.lane())]; }
};

struct Machine {
  Launch launch{};
  Thread* current = nullptr;  // no kernel runs where it is null
  Block blocks[kResidentBlocks];
  Fiber scheduler;
  Order order = Order::kForward;
  uint64_t random = 0;
  uint64_t stamp = 0;   // of this launch
  uint64_t stamps = 0;  // given out
  bool failed = false;
  std::string report;
  int error = 0;
  int device = 0;
  size_t most_shared = kMostShared;

  uint64_t next_random();
};

inline void Thread::wait(State how, const char* what, Place where) {
  state = how;
  name = what;
  place = where;
  atomics = 0;
  block->ready[index / 64] &= ~(uint64_t{1} << index % 64);
}

inline void Thread::wake() {
  state = State::kReady;
  block->ready[index / 64] |= uint64_t{1} << index % 64;
}

extern Machine machine;

std::string name_of(const Block& block, int thread);
// Lets other threads go first now and then, if that is the schedule.
void maybe_yield(unsigned one_in);
// The shadow in which code compiled for bounds keeps what a stack's locals are: made for the host's stack, made or
// emptied for a block's, asked.
void shadow_host_stack();
void shadow_stacks(const Block& block);
bool within_locals(uintptr_t address, size_t size);

}  // namespace t4r::emulation
