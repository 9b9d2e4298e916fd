// Runs a grid: chooses which thread goes on, and lets threads meet at barriers and warp collectives.
#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <map>
#include <numeric>
#include <utility>

#include "machine.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace t4r::emulation {

Machine machine;

namespace {

constexpr uint16_t kPoison = 0x7fe7;  // NaN in every type, and no small integer
constexpr uint64_t kCanary = 0x5afe57acc0ffee11u;
std::map<const void*, int> allowed_shared;  // by kernel

// The memory of the blocks, made once: their stacks, and their shared memory between guard zones.
void reserve(Block& block) {
  if (block.stacks != nullptr) return;
  const auto pages = [](size_t bytes) {
    return static_cast<char*>(
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  };
  block.stacks = pages(kMostThreads * kStack);
  block.shared = pages(kMostShared + 2 * kSharedGuard) + kSharedGuard;
}

char* stack_of(const Block& block, int thread) { return block.stacks + static_cast<size_t>(thread) * kStack; }

void leave() {
  Thread* const thread = machine.current;
  switch_fibers(thread->fiber, machine.scheduler);
}

void thread_main() {
  machine.launch.run(machine.launch.parameters);
  machine.current->wait(State::kEnded, "the end", {});
  ++machine.current->block->ended;
  leave();
}

void begin(Block& block, uint64_t number) {
  const Launch& launch = machine.launch;
  const auto x = launch.grid.x, y = launch.grid.y;
  block.number = number;
  block.stamp = ++machine.stamps;
  block.index = {static_cast<unsigned>(number % x), static_cast<unsigned>(number / x % y),
                 static_cast<unsigned>(number / x / y)};
  block.arrived = block.ended = block.count = 0;
  block.epoch = 0;
  memset(block.in_warp, 0, sizeof(block.in_warp));
  memset(block.ready, 0, sizeof(block.ready));
  auto* const words = reinterpret_cast<uint16_t*>(block.shared - kSharedGuard);
  std::fill(words, words + (2 * kSharedGuard + launch.shared_bytes) / sizeof(uint16_t) + 1, kPoison);
  const auto size = static_cast<size_t>(launch.block.x) * launch.block.y * launch.block.z;
  block.threads.resize(size);
  for (size_t i = 0; i < size; ++i) {
    Thread& thread = block.threads[i];
    thread.block = &block;
    thread.index = static_cast<int>(i);
    thread.wake();
    memset(thread.clock, 0, sizeof(thread.clock));
    thread.clock[thread.lane()] = 1;
    memcpy(stack_of(block, thread.index), &kCanary, sizeof(kCanary));
    thread.atomics = 0;
    prepare(thread.fiber, stack_of(block, thread.index), kStack, thread_main);
  }
}

void run_until_it_waits(Thread& thread) {
  const auto x = blockDim.x, y = blockDim.y;
  const auto i = static_cast<unsigned>(thread.index);
  threadIdx = {i % x, i / x % y, i / x / y};
  blockIdx = thread.block->index;
  machine.current = &thread;
  switch_fibers(machine.scheduler, thread.fiber);
  machine.current = nullptr;
  if (memcmp(stack_of(*thread.block, thread.index), &kCanary, sizeof(kCanary)) != 0 && !machine.failed) {
    machine.failed = true;
    machine.report =
        name_of(*thread.block, thread.index) + " needs more than " + std::to_string(kStack) + " bytes of local memory";
  }
}

// The first ready thread from `start` on, or the last one if `backwards`; null if there is none.
Thread* ready_thread(Block& block, size_t start, bool backwards) {
  const size_t size = block.threads.size(), words = (size + 63) / 64;
  if (backwards) {
    for (size_t word = words; word-- > 0;) {
      if (block.ready[word] != 0) return &block.threads[word * 64 + 63 - __builtin_clzll(block.ready[word])];
    }
    return nullptr;
  }
  for (size_t i = 0; i <= words; ++i) {  // the first word twice: from `start`, and at last up to it
    const size_t word = (start / 64 + i) % words;
    const uint64_t bits = block.ready[word] & (i == 0 ? ~uint64_t{0} << start % 64 : ~uint64_t{0});
    if (bits != 0) return &block.threads[word * 64 + __builtin_ctzll(bits)];
  }
  return nullptr;
}

// Which thread of these blocks goes on; null if none can.
Thread* next_thread(const std::vector<Block*>& blocks) {
  const bool random = machine.order == Order::kRandom || machine.order == Order::kPreempt;
  const size_t first = random ? machine.next_random() % blocks.size() : 0;
  for (size_t i = 0; i < blocks.size(); ++i) {
    Block& block = *blocks[(first + i) % blocks.size()];
    const size_t start = random ? machine.next_random() % block.threads.size() : 0;
    Thread* const thread = ready_thread(block, start, machine.order == Order::kReverse);
    if (thread != nullptr) return thread;
  }
  return nullptr;
}

std::string ranges(const std::vector<int>& numbers) {
  std::string text;
  for (size_t i = 0; i < numbers.size();) {
    size_t last = i;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    text += (text.empty() ? "" : ",") + std::to_string(numbers[i]);
    if (last > i) text += "-" + std::to_string(numbers[last]);
    i = last + 1;
  }
  return text;
}

std::string waiting(const Block& block) {
  std::map<std::string, std::vector<int>> groups;
  for (const Thread& thread : block.threads) {
    std::string what = "ended";
    if (thread.state != State::kEnded) {
      char text[512];
      snprintf(text, sizeof(text), "wait at %s, %s:%d", thread.name, thread.place.file, thread.place.line);
      what = text;
      if (thread.state == State::kInWarp) {
        snprintf(text, sizeof(text), " (mask %#x)", thread.mask);
        what += text;
      }
    }
    groups[what].push_back(thread.index);
  }
  std::string text;
  for (const auto& [what, threads] : groups) text += "\n  threads " + ranges(threads) + " " + what;
  return text;
}

void report_deadlock(const Block& block) {
  machine.failed = true;
  machine.report = std::string("deadlock in ") + machine.launch.kernel + ", block " + std::to_string(block.number) +
                   ": not all the threads come to where some wait" + waiting(block);
}

std::vector<uint64_t> order_of_blocks(uint64_t size) {
  std::vector<uint64_t> numbers(size);
  std::iota(numbers.begin(), numbers.end(), uint64_t{0});
  if (machine.order == Order::kReverse) std::reverse(numbers.begin(), numbers.end());
  if (machine.order == Order::kRandom || machine.order == Order::kPreempt) {
    for (uint64_t i = size; i > 1; --i) std::swap(numbers[i - 1], numbers[machine.next_random() % i]);
  }
  return numbers;
}

void run_grid() {
  const dim3& grid = machine.launch.grid;
  const auto numbers = order_of_blocks(uint64_t{grid.x} * grid.y * grid.z);
  const size_t together = machine.order == Order::kPreempt ? kResidentBlocks : 1;
  std::vector<Block*> running, idle;
  for (size_t i = 0; i < together; ++i) idle.push_back(&machine.blocks[i]);
  size_t next = 0;
  while (!machine.failed) {
    for (; !idle.empty() && next < numbers.size(); ++next) {
      reserve(*idle.back());
      if (machine.launch.build == Build::kBounds) shadow_stacks(*idle.back());
      begin(*idle.back(), numbers[next]);
      running.push_back(idle.back());
      idle.pop_back();
    }
    if (running.empty()) return;
    Thread* const thread = next_thread(running);
    if (thread == nullptr) return report_deadlock(*running.front());
    run_until_it_waits(*thread);
    Block* const block = thread->block;
    if (block->ended == static_cast<int>(block->threads.size())) {
      running.erase(std::find(running.begin(), running.end(), block));
      idle.push_back(block);
    }
  }
}

bool can_start(const Launch& launch) {
  const dim3 &grid = launch.grid, &block = launch.block;
  const bool grid_fits =
      grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.x <= 0x7fffffffu && grid.y <= 65535 && grid.z <= 65535;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  const bool block_fits = threads > 0 && threads <= kMostThreads && block.x <= 1024 && block.y <= 1024 && block.z <= 64;
  const auto allowed = allowed_shared.find(launch.function);
  const size_t shared = allowed == allowed_shared.end() ? 48 * 1024 : static_cast<size_t>(allowed->second);
  return grid_fits && block_fits && launch.shared_bytes <= std::max(shared, size_t{48} * 1024);
}

// Sleeps until all lanes of the mask are in the same collective; the last of them wakes the others.
void meet(Thread& thread, LaneResult result) {
  Block& block = *thread.block;
  Thread* const warp = block.warp(thread);
  unsigned& here = block.in_warp[thread.index / 32];
  here |= 1u << thread.lane();
  bool all = (here & thread.mask) == thread.mask;
  for (int lane = 0; all && lane < 32; ++lane) {
    if ((thread.mask >> lane & 1) == 0) continue;
    const Thread& other = warp[lane];
    all = other.mask == thread.mask && strcmp(other.name, thread.name) == 0 && other.place == thread.place;
  }
  if (!all) return leave();
  Lanes lanes;
  uint32_t joined[32]{};
  for (int lane = 0; lane < 32; ++lane) {
    if ((thread.mask >> lane & 1) == 0) continue;
    lanes.value[lane] = warp[lane].value;
    lanes.source[lane] = warp[lane].source;
    for (int i = 0; result == nullptr && i < 32; ++i) joined[i] = std::max(joined[i], warp[lane].clock[i]);
  }
  for (int lane = 0; lane < 32; ++lane) {
    if ((thread.mask >> lane & 1) == 0) continue;
    Thread& other = warp[lane];
    if (result != nullptr) {
      other.result = result(lanes, thread.mask, lane);
    } else {  // __syncwarp: the only collective that orders memory
      memcpy(other.clock, joined, sizeof(joined));
      ++other.clock[lane];
    }
    other.wake();
  }
  here &= ~thread.mask;
  leave();
}

}  // namespace

uint64_t Machine::next_random() {  // splitmix64
  random += 0x9e3779b97f4a7c15u;
  uint64_t z = random;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

std::string name_of(const Block& block, int thread) {
  return "thread " + std::to_string(thread) + " of block " + std::to_string(block.number);
}

void launch(const Launch& launch) {
  if (!can_start(launch)) {
    machine.error = 9;  // cudaErrorInvalidConfiguration
    return;
  }
  machine.launch = launch;
  machine.stamp = ++machine.stamps;
  blockDim = launch.block;
  gridDim = launch.grid;
  run_grid();
  if (machine.failed) {
    machine.error = 719;  // cudaErrorLaunchFailure
    machine.failed = false;
  }
}

int last_error() { return std::exchange(machine.error, 0); }

void set_last_error(int error) { machine.error = error; }

void* dynamic_shared() { return machine.current->block->shared; }

void global_store(const void* address) {
  const char* const shared = machine.current->block->shared;
  if (address >= shared && address < shared + machine.launch.shared_bytes)
    fail("it stores to global memory at shared memory + %td", static_cast<const char*>(address) - shared);
}
int lane() { return machine.current->lane(); }

int block_barrier(const char* name, bool predicate, Place place) {
  maybe_yield(8);
  Thread& thread = *machine.current;
  Block& block = *thread.block;
  thread.wait(State::kAtBarrier, name, place);
  if (block.arrived > 0 && !(block.barrier == place)) {
    machine.failed = true;
    machine.report = std::string("divergent barrier in ") + machine.launch.kernel + ", block " +
                     std::to_string(block.number) + ": threads wait at different barriers" + waiting(block);
  } else {
    block.barrier = place;
    ++block.arrived;
    block.count += predicate;
    if (block.arrived == static_cast<int>(block.threads.size())) {
      for (Thread& other : block.threads) other.wake();
      block.result = std::exchange(block.count, 0);
      block.arrived = 0;
      ++block.epoch;
    }
  }
  leave();
  return block.result;
}

uint64_t warp_collective(const char* name, unsigned mask, uint64_t value, int source, LaneResult result, Place place) {
  maybe_yield(8);
  Thread& thread = *machine.current;
  if ((mask >> thread.lane() & 1) == 0)
    fail("%s at %s:%d: the mask %#x lacks the lane itself", name, place.file, place.line, mask);
  thread.wait(State::kInWarp, name, place);
  thread.mask = mask;
  thread.value = value;
  thread.source = source;
  meet(thread, result);
  return thread.result;
}

void maybe_yield(unsigned one_in) {
  if (machine.order == Order::kPreempt && machine.next_random() % one_in == 0) leave();
}

void fail(const char* format, ...) {
  char text[2048];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  const Thread& thread = *machine.current;
  machine.report =
      std::string("error in ") + machine.launch.kernel + ", " + name_of(*thread.block, thread.index) + ": " + text;
  machine.failed = true;
  leave();
  __builtin_unreachable();
}

int allow_shared(const void* function, int bytes) {
  if (bytes < 0 || static_cast<size_t>(bytes) > machine.most_shared) return 1;  // cudaErrorInvalidValue
  allowed_shared[function] = bytes;
  return 0;
}

size_t most_shared() { return machine.most_shared; }

}  // namespace t4r::emulation
