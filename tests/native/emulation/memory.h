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
  uint64_t stamp = 0;  // of the launch, or for shared memory the block, of which the rest is told
  bool written = false;
  Access write;
  Accesses reads, atomics;
};

using Cells = std::vector<Cell>;

struct Conflict {
  const Access* access;  // null if there is none
  Kind kind;
};

// Records an access by the current thread, and returns an earlier one that it races with.
Conflict record(Cell* cells, uint64_t stamp, size_t bytes, Kind kind, uint32_t place);
// Whether anybody has written to any of these bytes.
bool any_written(const Cell* cells, uint64_t stamp, size_t bytes);

}  // namespace t4r::emulation
