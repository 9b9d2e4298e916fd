// What the driver in Python sets and asks.
#include "machine.h"

namespace t4r::emulation {

int current_device() { return machine.device; }
void set_device(int device) { machine.device = device; }

}  // namespace t4r::emulation

using t4r::emulation::machine;

extern "C" {

void t4r_emulation_schedule(int order, uint64_t seed) {
  machine.order = static_cast<t4r::emulation::Order>(order);
  machine.random = seed;
  t4r::emulation::shadow_host_stack();
}

void t4r_emulation_most_shared(size_t bytes) { machine.most_shared = bytes; }

int t4r_emulation_current_device() { return machine.device; }

// What went wrong since the last call; empty if nothing.
const char* t4r_emulation_report() {
  static std::string report;
  report.swap(machine.report);
  machine.report.clear();
  return report.c_str();
}

}  // extern "C"
