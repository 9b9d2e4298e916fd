// A thread of control with a stack of its own, which runs until it switches to another.
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace t4r::emulation {

struct Fiber {
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
};

// Makes `fiber` begin with entry(), which must not return, when it is switched to first.
void prepare(Fiber& fiber, char* stack, size_t bytes, void (*entry)());
void switch_fibers(Fiber& from, Fiber& to);

}  // namespace t4r::emulation
