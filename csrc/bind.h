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
inline Tensor empty_of(torch::headeronly::IntHeaderOnlyArrayRef sizes, int32_t dtype_code, int32_t device_type,
                       int device) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t i = sizes.size(); i-- > 0; stride *= sizes[i]) strides[i] = stride;
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
                                                  dtype_code, device_type, device, &handle));
  return Tensor(handle);
}

// int64 or float32, on the CPU.
inline Tensor empty(torch::headeronly::IntHeaderOnlyArrayRef sizes, ScalarType dtype) {
  const int32_t dtype_code = dtype == ScalarType::Long ? aoti_torch_dtype_int64() : aoti_torch_dtype_float32();
  return empty_of(sizes, dtype_code, aoti_torch_device_type_cpu(), 0);
}

// A contiguous tensor that a kernel writes.
template <typename T>
T* output(Tensor& tensor) {
  STD_TORCH_CHECK(tensor.is_contiguous(), "a tile's outputs must be contiguous");
  return static_cast<T*>(tensor.mutable_data_ptr());
}

inline void check_rows(const Tensor& matrix) {
  STD_TORCH_CHECK(matrix.size(1) <= 1 || matrix.stride(1) == 1, "a matrix's rows must be contiguous");
}

// Calls body(T{}) for the tensor's dtype, float or double.
template <typename Body>
void for_dtype(const Tensor& tensor, Body body) {
  if (tensor.scalar_type() == ScalarType::Double) {
    body(double{});
  } else {
    body(float{});
  }
}

// Rows per thread of the CPU at least, so that a small tile is not worth a thread.
inline int64_t row_grain(int64_t columns) { return 1 + 16384 / (columns + 1); }

// Calls a kernel of the CPU for the rows of a tile, shared by the threads.
template <typename Tile, typename Kernel>
void over_rows(int64_t rows, int64_t columns, const Tile& tile, Kernel kernel) {
  torch::stable::parallel_for(0, rows, row_grain(columns),
                              [&](int64_t begin, int64_t end) { kernel(tile, begin, end); });
}

// The pieces of a row's tiles, each with a buffer of its own.
inline int64_t pieces_of(const Tensor& scores, const Tensor& buffers) {
  const int64_t rows = scores.size(0), pieces = rows > 0 ? buffers.size(0) / rows : 1;
  STD_TORCH_CHECK(pieces >= 1 && rows * pieces == buffers.size(0), "topk_tile: as many buffers for each row");
  return pieces;
}

inline Tensor scalar(int64_t value) {
  Tensor tensor = empty(std::initializer_list<int64_t>{}, ScalarType::Long);
  *static_cast<int64_t*>(tensor.mutable_data_ptr()) = value;
  return tensor;
}

}  // namespace t4r::bind
