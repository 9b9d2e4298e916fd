// On x86-64 only the registers that a function must preserve are switched: ucontext makes a system call each time.
#include "fiber.h"

#include <cstdint>

#if defined(__x86_64__)
extern "C" void t4r_switch_stacks(void** save, void* load) __attribute__((visibility("hidden")));

asm(R"(
.text
.globl t4r_switch_stacks
.hidden t4r_switch_stacks
.type t4r_switch_stacks, @function
t4r_switch_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size t4r_switch_stacks, . - t4r_switch_stacks
.section .note.GNU-stack, "", @progbits
.text
)");
#endif

namespace t4r::emulation {

#if defined(__x86_64__)

void prepare(Fiber& fiber, char* stack, size_t bytes, void (*entry)()) {
  constexpr int kSaved = 6;
  const auto top = (reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t{15};
  auto* frame = reinterpret_cast<void**>(top) - (kSaved + 2);
  for (int i = 0; i < kSaved; ++i) frame[i] = nullptr;
  frame[kSaved] = reinterpret_cast<void*>(entry);
  frame[kSaved + 1] = nullptr;  // where entry would return to
  fiber.stack_pointer = frame;
}

void switch_fibers(Fiber& from, Fiber& to) { t4r_switch_stacks(&from.stack_pointer, to.stack_pointer); }

#else

void prepare(Fiber& fiber, char* stack, size_t bytes, void (*entry)()) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = bytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
}

void switch_fibers(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }

#endif

}  // namespace t4r::emulation
