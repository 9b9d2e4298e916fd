// Hears of each access of the checking builds: the compiler calls the functions of its thread or address sanitizer, of
// which these take the place, and those of its undefined behaviour sanitizer.
#include "memory.h"

#include <deque>

// Of this library, from the linker.
extern "C" const char __ehdr_start, _end;

namespace t4r::emulation {

namespace {

// An array that a launcher was given.
struct Array {
  std::string name;
  uintptr_t begin;
  size_t bytes;
  bool writable;
  Cells cells;

  bool holds(uintptr_t address, size_t size) const {
    return address >= begin && address - begin <= bytes && bytes - (address - begin) >= size;
  }
};

constexpr int kMostAtomics = 1 << 20;

std::deque<Array> arrays;
Cells shared_cells[kResidentBlocks];

uintptr_t address_of(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); }

bool within(uintptr_t address, size_t size, const void* begin, size_t bytes) {
  return address >= address_of(begin) && address - address_of(begin) + size <= bytes;
}

size_t slot_of(const Block& block) { return static_cast<size_t>(&block - machine.blocks); }

uint32_t offset_of(const void* code) { return static_cast<uint32_t>(address_of(code) - address_of(&__ehdr_start)) - 1; }

// The array that ends last before an address.
const Array* array_before(uintptr_t address) {
  const Array* nearest = nullptr;
  for (const Array& array : arrays) {
    if (array.begin <= address && (nearest == nullptr || array.begin > nearest->begin)) nearest = &array;
  }
  return nearest;
}

const char* verb(Kind kind) {
  return kind == Kind::kRead ? "reads" : kind == Kind::kWrite ? "writes" : "changes atomically";
}

// Whether every thread may read this: constants of this library, and the kernel's parameters.
bool constant(uintptr_t address, size_t size) {
  return within(address, size, &__ehdr_start, static_cast<size_t>(&_end - &__ehdr_start)) ||
         within(address, size, machine.launch.parameters, machine.launch.parameter_bytes);
}

[[noreturn]] void outside(uintptr_t address, size_t size, Kind kind, uint32_t place) {
  const Block& block = *machine.current->block;
  const auto shared = address_of(block.shared);
  if (address >= shared - kSharedGuard && address < shared + kMostShared + kSharedGuard) {
    fail("out of bounds: it %s %zu bytes at shared memory %+ld, which has %zu bytes, at [+%#x]", verb(kind), size,
         static_cast<long>(address - shared), machine.launch.shared_bytes, place);
  }
  for (const Block& other : machine.blocks) {
    if (other.stacks != nullptr && within(address, size, other.stacks, kMostThreads * kStack)) {
      fail("it %s the local memory of another thread, at [+%#x]", verb(kind), place);
    }
  }
  const Array* const array = array_before(address);
  if (array == nullptr) fail("out of bounds: it %s %zu bytes before any array, at [+%#x]", verb(kind), size, place);
  fail("out of bounds: it %s %zu bytes at %s + %zu, which has %zu bytes, at [+%#x]", verb(kind), size,
       array->name.c_str(), address - array->begin, array->bytes, place);
}

// The array that holds these bytes, which if it is written to must not be const; null if none does.
Array* array_of(uintptr_t address, size_t size, Kind kind, uint32_t place) {
  Array* first = nullptr;
  bool writable = false;
  for (Array& array : arrays) {
    if (!array.holds(address, size)) continue;
    if (first == nullptr) first = &array;
    writable |= array.writable;
  }
  if (first != nullptr && kind != Kind::kRead && !writable) {
    fail("it writes to %s, which is const, at [+%#x]", first->name.c_str(), place);
  }
  return first;
}

void check_race(Cells& cells, const char* name, size_t at, uint64_t stamp, size_t size, Kind kind, uint32_t place) {
  const Conflict conflict = record(&cells[at], stamp, size, kind, place);
  if (conflict.access == nullptr) return;
  const uint32_t threads = blockDim.x * blockDim.y * blockDim.z, thread = conflict.access->thread;
  fail("race: it %s %s + %zu at [+%#x], which thread %u of block %u %s at [+%#x], and nothing orders them", verb(kind),
       name, at, place, thread % threads, thread / threads, verb(conflict.kind), conflict.access->place);
}

void access_shared(size_t at, size_t size, Kind kind, uint32_t place) {
  if (machine.launch.build != Build::kRace) return;
  const Block& block = *machine.current->block;
  Cells& cells = shared_cells[slot_of(block)];
  if (cells.size() < machine.launch.shared_bytes) cells.resize(machine.launch.shared_bytes);
  if (kind != Kind::kWrite && !any_written(&cells[at], block.stamp, size)) {
    fail("it reads shared memory + %zu, which nobody has written, at [+%#x]", at, place);
  }
  check_race(cells, "shared memory", at, block.stamp, size, kind, place);
}

void access(const void* pointer, size_t size, Kind kind, const void* code) {
  if (machine.current == nullptr) return;  // the launcher itself
  const uintptr_t address = address_of(pointer);
  const Block& block = *machine.current->block;
  const uint32_t place = offset_of(code);
  if (within(address, size, block.stacks + static_cast<size_t>(machine.current->index) * kStack, kStack)) {
    if (machine.launch.build == Build::kBounds && !within_locals(address, size)) {
      fail("out of bounds: it %s %zu bytes beside a local array, at [+%#x]", verb(kind), size, place);
    }
    return;
  }
  if (kind != Kind::kAtomic) maybe_yield(32);
  if (within(address, size, block.shared, machine.launch.shared_bytes)) {
    access_shared(address - address_of(block.shared), size, kind, place);
  } else if (Array* const array = array_of(address, size, kind, place); array != nullptr) {
    if (machine.launch.build != Build::kRace) return;
    if (array->cells.empty()) array->cells.resize(array->bytes);
    check_race(array->cells, array->name.c_str(), address - array->begin, machine.stamp, size, kind, place);
  } else if (kind != Kind::kRead || !constant(address, size)) {
    outside(address, size, kind, place);
  }
}

void access_aligned(const void* pointer, size_t size, Kind kind, const void* code) {
  if (machine.current != nullptr && address_of(pointer) % size != 0) {
    fail("misaligned: it %s %zu bytes at %p, at [+%#x]", verb(kind), size, pointer, offset_of(code));
  }
  access(pointer, size, kind, code);
}

}  // namespace

void atomic_access(const void* address, size_t bytes, const void* code) {
  maybe_yield(4);
  if (++machine.current->atomics > kMostAtomics) {
    fail("it waits for another thread in a loop: %d atomic operations without a barrier", kMostAtomics);
  }
  if (address_of(address) % bytes != 0) fail("misaligned: an atomic operation on %zu bytes at %p", bytes, address);
  if (machine.launch.build != Build::kPlain) access(address, bytes, Kind::kAtomic, code);
}

bool device_memory(const void* address, size_t bytes) {
  if (arrays.empty()) return true;  // called by a binding, of whose tensors nobody has told
  for (const Array& array : arrays) {
    if (array.writable && array.holds(address_of(address), bytes)) return true;
  }
  return bytes == 0;
}

}  // namespace t4r::emulation

using t4r::emulation::access;
using t4r::emulation::access_aligned;
using t4r::emulation::Kind;

extern "C" {

#define T4R_ACCESS(size)                                                      \
  void __tsan_read##size(const void* address) {                               \
    access_aligned(address, size, Kind::kRead, __builtin_return_address(0));  \
  }                                                                           \
  void __tsan_write##size(const void* address) {                              \
    access_aligned(address, size, Kind::kWrite, __builtin_return_address(0)); \
  }                                                                           \
  void __tsan_unaligned_read##size(const void* address) {                     \
    access(address, size, Kind::kRead, __builtin_return_address(0));          \
  }                                                                           \
  void __tsan_unaligned_write##size(const void* address) {                    \
    access(address, size, Kind::kWrite, __builtin_return_address(0));         \
  }

T4R_ACCESS(1)
T4R_ACCESS(2)
T4R_ACCESS(4)
T4R_ACCESS(8)
T4R_ACCESS(16)

void __tsan_read_range(const void* address, size_t size) {
  access(address, size, Kind::kRead, __builtin_return_address(0));
}
void __tsan_write_range(const void* address, size_t size) {
  access(address, size, Kind::kWrite, __builtin_return_address(0));
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

#define T4R_KERNEL_ACCESS(size)                                       \
  void __asan_load##size##_noabort(const void* address) {             \
    access(address, size, Kind::kRead, __builtin_return_address(0));  \
  }                                                                   \
  void __asan_store##size##_noabort(const void* address) {            \
    access(address, size, Kind::kWrite, __builtin_return_address(0)); \
  }

T4R_KERNEL_ACCESS(1)
T4R_KERNEL_ACCESS(2)
T4R_KERNEL_ACCESS(4)
T4R_KERNEL_ACCESS(8)
T4R_KERNEL_ACCESS(16)

void __asan_loadN_noabort(const void* address, size_t size) {
  access(address, size, Kind::kRead, __builtin_return_address(0));
}
void __asan_storeN_noabort(const void* address, size_t size) {
  access(address, size, Kind::kWrite, __builtin_return_address(0));
}
void __asan_handle_no_return() {}

// Each begins with where it is: a file, a line and a column.
#define T4R_UNDEFINED(name, what)                                                                                   \
  void __ubsan_handle_##name(const t4r::emulation::Place* place, uintptr_t, uintptr_t) {                            \
    if (t4r::emulation::machine.current != nullptr) t4r::emulation::fail(what ", %s:%d", place->file, place->line); \
  }

T4R_UNDEFINED(type_mismatch_v1, "misaligned: a pointer lacks its type's alignment")
T4R_UNDEFINED(out_of_bounds, "out of bounds: an index exceeds a local array")
T4R_UNDEFINED(shift_out_of_bounds, "undefined: a shift by more than the type's bits")
T4R_UNDEFINED(add_overflow, "undefined: a signed sum overflows")
T4R_UNDEFINED(sub_overflow, "undefined: a signed difference overflows")
T4R_UNDEFINED(mul_overflow, "undefined: a signed product overflows")
T4R_UNDEFINED(negate_overflow, "undefined: a negation overflows")
T4R_UNDEFINED(divrem_overflow, "undefined: a division by zero, or one that overflows")
T4R_UNDEFINED(float_cast_overflow, "undefined: a number is out of the range of the integer type")

// The driver's side.

void t4r_emulation_add_array(const char* name, void* begin, size_t bytes, int writable) {
  t4r::emulation::arrays.push_back({name, t4r::emulation::address_of(begin), bytes, writable != 0, {}});
}
void t4r_emulation_forget_arrays() { t4r::emulation::arrays.clear(); }
}
