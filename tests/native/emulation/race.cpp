// Two accesses of one byte race unless a barrier of their block, or for lanes of a warp __syncwarp, lies between them,
// or both read, or both are atomic. Nothing orders two blocks.
#include "memory.h"

namespace t4r::emulation {

namespace {

uint32_t block_size() { return blockDim.x * blockDim.y * blockDim.z; }
uint32_t block_of(const Access& access) { return access.thread / block_size(); }
uint32_t warp_of(const Access& access) { return access.thread % block_size() / 32; }
uint32_t number_of(const Thread& thread) {
  return static_cast<uint32_t>(thread.block->number) * block_size() + static_cast<uint32_t>(thread.index);
}

bool ordered(const Access& before, const Thread& thread) {
  const uint32_t number = number_of(thread);
  if (before.thread == number) return true;
  if (block_of(before) != thread.block->number) return false;
  if (before.epoch != thread.block->epoch) return true;
  const uint32_t index = before.thread % block_size();
  return index / 32 == static_cast<uint32_t>(thread.index) / 32 && thread.clock[index % 32] >= before.clock;
}

}  // namespace

void Accesses::clear() {
  any_ = false;
  others_.clear();
}

const Access* Accesses::conflict(const Thread& thread) const {
  if (!any_) return nullptr;
  if (!ordered(first_, thread)) return &first_;
  for (const Access& other : others_) {
    if (!ordered(other, thread)) return &other;
  }
  return nullptr;
}

// Kept are: of two blocks, one access each (what any thread does next conflicts with either); of one block, those of
// its latest epoch: of two warps one each, else of each lane the latest.
void Accesses::add(const Access& access) {
  if (!any_) {
    any_ = true;
    first_ = access;
    return;
  }
  if (!others_.empty() && block_of(others_[0]) != block_of(first_)) return;
  if (block_of(access) != block_of(first_)) {
    others_.assign(1, access);
  } else if (access.epoch != first_.epoch) {
    first_ = access;
    others_.clear();
  } else if (!others_.empty() && warp_of(others_[0]) != warp_of(first_)) {
    return;
  } else if (warp_of(access) != warp_of(first_)) {
    others_.assign(1, access);
  } else if (access.thread == first_.thread) {
    first_ = access;
  } else {
    for (Access& other : others_) {
      if (other.thread == access.thread) {
        other = access;
        return;
      }
    }
    others_.push_back(access);
  }
}

bool any_written(const Cell* cells, uint64_t stamp, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) {
    if (cells[i].stamp == stamp && cells[i].written) return true;
  }
  return false;
}

Conflict record(Cell* cells, uint64_t stamp, size_t bytes, Kind kind, uint32_t place) {
  const Thread& thread = *machine.current;
  const Access access{number_of(thread), thread.block->epoch, thread.clock[thread.lane()], place};
  for (size_t i = 0; i < bytes; ++i) {
    Cell& cell = cells[i];
    if (cell.stamp != stamp) {
      cell.stamp = stamp;
      cell.written = false;
      cell.reads.clear();
      cell.atomics.clear();
    }
    if (cell.written && !ordered(cell.write, thread)) return {&cell.write, Kind::kWrite};
    if (kind != Kind::kRead) {
      if (const Access* read = cell.reads.conflict(thread)) return {read, Kind::kRead};
    }
    if (kind != Kind::kAtomic) {
      if (const Access* atomic = cell.atomics.conflict(thread)) return {atomic, Kind::kAtomic};
    }
    if (kind == Kind::kWrite) {
      cell.written = true;
      cell.write = access;
      cell.reads.clear();
      cell.atomics.clear();
    } else {
      (kind == Kind::kRead ? cell.reads : cell.atomics).add(access);
    }
  }
  return {nullptr, kind};
}

}  // namespace t4r::emulation
