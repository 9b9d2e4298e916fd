// What the bind_*.cpp files share: the only files that include torch, and only its stable ABI, so that one binary
// serves many torch and Python versions. Shapes and dtypes are checked in Python.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <vector>

namespace t4r::bind {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kGrain = 2048;  // ids per thread at least

template <typename T>
const T* pointer(const std::optional<Tensor>& tensor) {
  STD_TORCH_CHECK(!tensor.has_value() || tensor->is_contiguous(), "a tile's vectors must be contiguous");
  return tensor.has_value() ? static_cast<const T*>(tensor->const_data_ptr()) : nullptr;
}

// An uninitialised contiguous tensor; the shim's own function, which skips the dispatcher (a third of a small call).
inline Tensor empty(torch::headeronly::IntHeaderOnlyArrayRef sizes, ScalarType dtype) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t i = sizes.size(); i-- > 0; stride *= sizes[i]) strides[i] = stride;
  AtenTensorHandle handle;
  const int32_t dtype_code = dtype == ScalarType::Long ? aoti_torch_dtype_int64() : aoti_torch_dtype_float32();
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
                                                  dtype_code, aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

inline Tensor scalar(int64_t value) {
  Tensor tensor = empty(std::initializer_list<int64_t>{}, ScalarType::Long);
  *static_cast<int64_t*>(tensor.mutable_data_ptr()) = value;
  return tensor;
}

}  // namespace t4r::bind
