// The types that a launcher takes by code, since it is extern "C".
#pragma once

#include "../core/half.h"

namespace t4r::cuda {

enum DType : int { kFloat32 = 0, kFloat64 = 1, kFloat16 = 2, kBFloat16 = 3 };

constexpr int kBadArgument = 1;  // cudaErrorInvalidValue

// Returns body(S{}) for the storage type of the code, kBadArgument for an unknown one.
template <typename Body>
int with_type(int dtype, Body body) {
  switch (dtype) {
    case kFloat32:
      return body(float{});
    case kFloat64:
      return body(double{});
    case kFloat16:
      return body(Float16{});
    case kBFloat16:
      return body(BFloat16{});
    default:
      return kBadArgument;
  }
}

// The same for scores, which are float32, or float64 where the table is: GEMMs of narrower types are made in float32.
template <typename Body>
int with_wide_type(int dtype, Body body) {
  switch (dtype) {
    case kFloat32:
      return body(float{});
    case kFloat64:
      return body(double{});
    default:
      return kBadArgument;
  }
}

}  // namespace t4r::cuda
