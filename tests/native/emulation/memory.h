// What the threads of a launch did to each byte of shared and global memory, and whether any two of them disagree.
#pragma once

#include <cstdint>
#include <vector>

#include "machine.h"

namespace t4r::emulation {

struct Access {
  uint32_t thread;  // in the grid
  uint32_t epoch;   // of its block: barriers passed
  uint32_t clock;   // of its lane: how often it passed __syncwarp
  uint32_t place;   // the offset of the code in this library
};

// Accesses of one kind since the last write; as few of them as any later conflict needs.
class Accesses {
 public:
  void add(const Access& access);
  // One that is not ordered before what `thread` does now; null if there is none.
  const Access* conflict(const Thread& thread) const;
  bool empty() const { return !any_; }
  void clear();

 private:
  bool any_ = false;
  Access first_;
  std::vector<Access> others_;
};

// A byte.
struct Cell {
  uint32_t launch = 0;  // in which the rest was recorded
  bool written = false;
  Access write;
  Accesses reads, atomics;
};

using Cells = std::vector<Cell>;

// Records an access by the current thread; an error where it races with an earlier one, or reads shared memory that
// nobody has written.
void record(Cell* cells, size_t bytes, Kind kind, uint32_t place, const char* what);

}  // namespace t4r::emulation
