// Binds the lazy optimizers' updates of rows on CUDA to the operators of ops/schemas. Ids are sorted by aten::sort,
// which waits for nothing; the pass finds the runs by itself.
#include <array>
#include <initializer_list>
#include <utility>

#include "bind_cuda.h"
#include "bind_rows.h"
#include "core/row_update.h"
#include "cuda/rows.h"

namespace {

using t4r::bind::rows_data;
using t4r::bind::ScalarType;
using t4r::bind::Tensor;

// ids in ascending order, equal ones in the order in which they came, and where each was.
std::pair<Tensor, Tensor> sorted(const Tensor& ids) {
  const std::optional<bool> stable = true;
  std::array<StableIValue, 4> stack{torch::stable::detail::from(ids), torch::stable::detail::from(stable),
                                    torch::stable::detail::from(int64_t{0}), torch::stable::detail::from(false)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

// Where the pass keeps its sums of parts of long runs.
Tensor parts_of(const Tensor& weight, int64_t size, int device) {
  const bool is_double = weight.scalar_type() == ScalarType::Double;
  return t4r::bind::empty_on(device, std::initializer_list<int64_t>{t4r::most_parts(size), weight.size(1)},
                             is_double ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32());
}

void adam_rows(Tensor weight, Tensor exp_avg, Tensor exp_avg_sq, Tensor steps, Tensor ids, Tensor values, double lr,
               double beta1, double beta2, double eps, double weight_decay) {
  t4r::bind::check_rows_update(weight, exp_avg_sq, ids, values);
  t4r::bind::check_adam_state(weight, exp_avg, exp_avg_sq, steps);
  const int device = t4r::bind::device_of(weight);
  const auto [order, positions] = sorted(ids);
  const Tensor parts = parts_of(weight, ids.numel(), device);
  const int status = t4r_adam_rows_cuda(
      rows_data<void>(weight), rows_data<void>(exp_avg), rows_data<void>(exp_avg_sq), rows_data<int32_t>(steps),
      rows_data<const int64_t>(order), rows_data<const int64_t>(positions), rows_data<const void>(values),
      rows_data<void>(parts), ids.numel(), weight.size(0), weight.size(1), exp_avg_sq.dim() == 1, lr, beta1, beta2, eps,
      weight_decay, t4r::bind::dtype_code(weight), device, t4r::bind::current_stream(device));
  t4r::bind::check_launch(status, "adam_rows");
}

void adagrad_rows(Tensor weight, Tensor square_sum, Tensor ids, Tensor values, double lr, double eps,
                  double weight_decay) {
  t4r::bind::check_rows_update(weight, square_sum, ids, values);
  const int device = t4r::bind::device_of(weight);
  const auto [order, positions] = sorted(ids);
  const Tensor parts = parts_of(weight, ids.numel(), device);
  const int status =
      t4r_adagrad_rows_cuda(rows_data<void>(weight), rows_data<void>(square_sum), rows_data<const int64_t>(order),
                            rows_data<const int64_t>(positions), rows_data<const void>(values), rows_data<void>(parts),
                            ids.numel(), weight.size(0), weight.size(1), square_sum.dim() == 1, lr, eps, weight_decay,
                            t4r::bind::dtype_code(weight), device, t4r::bind::current_stream(device));
  t4r::bind::check_launch(status, "adagrad_rows");
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(transformers4rec_ext, T4R_DEVICE_KEY, m) {
  if (!t4r::bind::driver_suffices()) return;
  m.impl("adam_rows", TORCH_BOX(&adam_rows));
  m.impl("adagrad_rows", TORCH_BOX(&adagrad_rows));
}
