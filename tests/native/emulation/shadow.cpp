// Code compiled for bounds marks what lies beside its local arrays: a byte at T4R_SHADOW + address / 8 says how many of
// 8 bytes are good, if not all (0), as the address sanitizer has it. Here only stacks have a shadow.
#include <sys/mman.h>

#include <cerrno>
#include <cstdlib>

#include "machine.h"

namespace t4r::emulation {

namespace {

constexpr uintptr_t kWindow = 8 << 20;  // its shadow is made at once
constexpr uintptr_t kAround = 1 << 20;  // of the host's stack, from where this is called

int8_t* shadow_of(uintptr_t address) { return reinterpret_cast<int8_t*>(T4R_SHADOW + address / 8); }

void make_shadow(uintptr_t begin, uintptr_t end) {
  for (uintptr_t window = begin / kWindow * kWindow; window < end; window += kWindow) {
    void* const made = mmap(shadow_of(window), kWindow / 8, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (made == MAP_FAILED && errno != EEXIST) abort();  // what exists was made here, or by another library of ours
  }
}

}  // namespace

void shadow_host_stack() {
  const auto here = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
  make_shadow(here - kAround, here + kAround);
}

void shadow_stacks(const Block& block) {
  const auto begin = reinterpret_cast<uintptr_t>(block.stacks);
  make_shadow(begin, begin + kMostThreads * kStack);
}

bool within_locals(uintptr_t address, size_t size) {
  for (size_t i = 0; i < size; ++i) {
    const int8_t good = *shadow_of(address + i);
    if (good != 0 && static_cast<int8_t>((address + i) % 8) >= good) return false;
  }
  return true;
}

}  // namespace t4r::emulation
