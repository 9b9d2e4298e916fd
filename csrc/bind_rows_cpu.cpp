// Binds the lazy optimizers' updates of rows on the CPU to the operators of ops/schemas.
#include <cmath>
#include <memory>

#include "bind.h"
#include "kernels.h"

namespace {

using t4r::Wide;
using t4r::bind::ScalarType;
using t4r::bind::Tensor;

template <typename T>
T* data(const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.is_contiguous(), "rows: every tensor must be contiguous");
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// What the pass relies on when it writes to memory; the messages that users see are made in Python.
template <typename S>
void check(const Tensor& weight, const Tensor& second_moment, const Tensor& ids, const Tensor& values) {
  const auto wide = sizeof(Wide<S>) == 8 ? ScalarType::Double : ScalarType::Float;
  const bool rowwise = second_moment.dim() == 1;
  STD_TORCH_CHECK(weight.dim() == 2 && values.dim() == 2 && ids.dim() == 1 && weight.size(1) == values.size(1) &&
                      ids.numel() == values.size(0) &&
                      second_moment.numel() == (rowwise ? weight.size(0) : weight.numel()),
                  "rows: shapes disagree");
  STD_TORCH_CHECK(values.scalar_type() == weight.scalar_type() && ids.scalar_type() == ScalarType::Long &&
                      second_moment.scalar_type() == wide,
                  "rows: dtypes disagree");
}

template <typename Task, typename Pass>
void run(const Task& task, const Tensor& weight, const Tensor& ids, Pass pass) {
  const int64_t size = ids.numel();
  const std::unique_ptr<uint64_t[]> workspace(new uint64_t[2 * size]);
  const auto rows = t4r::sort_rows(data<const int64_t>(ids), size, weight.size(0), workspace.get());
  STD_TORCH_CHECK(rows.keys != nullptr, "rows: an id is out of range");
  const int64_t grain = 1 + 16384 / (task.width + 1);
  torch::stable::parallel_for(0, size, grain, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<Wide<typename Task::Storage>[]> scratch(new Wide<typename Task::Storage>[task.width]);
    pass(task, rows, begin, end, scratch.get());
  });
}

template <typename S>
void adam(const Tensor& weight, const Tensor& exp_avg, const Tensor& exp_avg_sq, const Tensor& steps, const Tensor& ids,
          const Tensor& values, double lr, double beta1, double beta2, double eps, double weight_decay,
          t4r::RowPass<t4r::AdamRows, S> pass) {
  using T = Wide<S>;
  check<S>(weight, exp_avg_sq, ids, values);
  STD_TORCH_CHECK(exp_avg.numel() == weight.numel() && exp_avg.scalar_type() == exp_avg_sq.scalar_type() &&
                      steps.numel() == weight.size(0) && steps.scalar_type() == ScalarType::Int,
                  "adam_rows: the state does not fit the weight");
  const t4r::AdamRows<S> task{data<S>(weight),
                              data<T>(exp_avg),
                              data<T>(exp_avg_sq),
                              data<int32_t>(steps),
                              data<const S>(values),
                              weight.size(1),
                              exp_avg_sq.dim() == 1,
                              lr,
                              std::log(beta1),
                              std::log(beta2),
                              static_cast<T>(1.0 - lr * weight_decay),
                              static_cast<T>(1.0 - beta1),
                              static_cast<T>(beta2),
                              static_cast<T>(1.0 - beta2),
                              static_cast<T>(eps)};
  run(task, weight, ids, pass);
}

template <typename S>
void adagrad(const Tensor& weight, const Tensor& square_sum, const Tensor& ids, const Tensor& values, double lr,
             double eps, double weight_decay, t4r::RowPass<t4r::AdagradRows, S> pass) {
  using T = Wide<S>;
  check<S>(weight, square_sum, ids, values);
  const t4r::AdagradRows<S> task{
      data<S>(weight),       data<T>(square_sum), data<const S>(values),        weight.size(1),
      square_sum.dim() == 1, static_cast<T>(lr),  static_cast<T>(weight_decay), static_cast<T>(eps)};
  run(task, weight, ids, pass);
}

// Calls `function` with the pass for the dtype; its parameter's type tells which storage that is.
template <typename Passes, typename Function>
void by_dtype(ScalarType dtype, const Passes& passes, Function function) {
  switch (dtype) {
    case ScalarType::Float:
      return function(passes.f32);
    case ScalarType::Double:
      return function(passes.f64);
    case ScalarType::Half:
      return function(passes.f16);
    case ScalarType::BFloat16:
      return function(passes.bf16);
    default:
      STD_TORCH_CHECK(false, "rows: the weight must be float16, bfloat16, float32 or float64");
  }
}

void adam_rows(Tensor weight, Tensor exp_avg, Tensor exp_avg_sq, Tensor steps, Tensor ids, Tensor values, double lr,
               double beta1, double beta2, double eps, double weight_decay) {
  by_dtype(weight.scalar_type(), t4r::cpu_kernels().adam_rows, [&]<typename S>(t4r::RowPass<t4r::AdamRows, S> pass) {
    adam<S>(weight, exp_avg, exp_avg_sq, steps, ids, values, lr, beta1, beta2, eps, weight_decay, pass);
  });
}

void adagrad_rows(Tensor weight, Tensor square_sum, Tensor ids, Tensor values, double lr, double eps,
                  double weight_decay) {
  by_dtype(weight.scalar_type(), t4r::cpu_kernels().adagrad_rows,
           [&]<typename S>(t4r::RowPass<t4r::AdagradRows, S> pass) {
             adagrad<S>(weight, square_sum, ids, values, lr, eps, weight_decay, pass);
           });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(transformers4rec_ext, CPU, m) {
  m.impl("adam_rows", TORCH_BOX(&adam_rows));
  m.impl("adagrad_rows", TORCH_BOX(&adagrad_rows));
}
