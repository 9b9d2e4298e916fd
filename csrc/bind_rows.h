// What the bindings of the lazy optimizers check on every device: what a pass relies on when it writes to memory. The
// messages that users see are made in Python.
#pragma once

#include "bind.h"

namespace t4r::bind {

template <typename T>
T* rows_data(const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.is_contiguous(), "rows: every tensor must be contiguous");
  return static_cast<T*>(tensor.mutable_data_ptr());
}

inline void check_rows_update(const Tensor& weight, const Tensor& second_moment, const Tensor& ids,
                              const Tensor& values) {
  const auto wide = weight.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const bool rowwise = second_moment.dim() == 1;
  STD_TORCH_CHECK(weight.dim() == 2 && values.dim() == 2 && ids.dim() == 1 && weight.size(1) == values.size(1) &&
                      ids.numel() == values.size(0) &&
                      second_moment.numel() == (rowwise ? weight.size(0) : weight.numel()),
                  "rows: shapes disagree");
  STD_TORCH_CHECK(values.scalar_type() == weight.scalar_type() && ids.scalar_type() == ScalarType::Long &&
                      second_moment.scalar_type() == wide,
                  "rows: dtypes disagree");
}

inline void check_adam_state(const Tensor& weight, const Tensor& exp_avg, const Tensor& exp_avg_sq,
                             const Tensor& steps) {
  STD_TORCH_CHECK(exp_avg.numel() == weight.numel() && exp_avg.scalar_type() == exp_avg_sq.scalar_type() &&
                      steps.numel() == weight.size(0) && steps.scalar_type() == ScalarType::Int,
                  "adam_rows: the state does not fit the weight");
}

}  // namespace t4r::bind
