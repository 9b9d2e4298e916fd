// Binds the lazy optimizers' updates of rows on the CPU to the operators of ops/schemas.
#include <memory>

#include "bind_rows.h"
#include "kernels.h"

namespace {

using t4r::Wide;
using t4r::bind::rows_data;
using t4r::bind::ScalarType;
using t4r::bind::Tensor;

template <typename Task, typename Pass>
void run(const Task& task, const Tensor& weight, const Tensor& ids, Pass pass) {
  const int64_t size = ids.numel();
  const std::unique_ptr<uint64_t[]> workspace(new uint64_t[2 * size]);
  const auto rows = t4r::sort_rows(rows_data<const int64_t>(ids), size, weight.size(0), workspace.get());
  STD_TORCH_CHECK(rows.keys != nullptr, "rows: an id is out of range");
  torch::stable::parallel_for(0, size, t4r::bind::row_grain(task.width), [&](int64_t begin, int64_t end) {
    const std::unique_ptr<Wide<typename Task::Storage>[]> scratch(new Wide<typename Task::Storage>[2 * task.width]);
    pass(task, rows, begin, end, scratch.get());
  });
}

template <typename S>
void adam(const Tensor& weight, const Tensor& exp_avg, const Tensor& exp_avg_sq, const Tensor& steps, const Tensor& ids,
          const Tensor& values, double lr, double beta1, double beta2, double eps, double weight_decay,
          t4r::RowPass<t4r::AdamRows, S> pass) {
  using T = Wide<S>;
  t4r::bind::check_rows_update(weight, exp_avg_sq, ids, values);
  t4r::bind::check_adam_state(weight, exp_avg, exp_avg_sq, steps);
  const auto task = t4r::adam_task(rows_data<S>(weight), rows_data<T>(exp_avg), rows_data<T>(exp_avg_sq),
                                   rows_data<int32_t>(steps), rows_data<const S>(values), weight.size(1),
                                   exp_avg_sq.dim() == 1, lr, beta1, beta2, eps, weight_decay);
  run(task, weight, ids, pass);
}

template <typename S>
void adagrad(const Tensor& weight, const Tensor& square_sum, const Tensor& ids, const Tensor& values, double lr,
             double eps, double weight_decay, t4r::RowPass<t4r::AdagradRows, S> pass) {
  t4r::bind::check_rows_update(weight, square_sum, ids, values);
  const auto task = t4r::adagrad_task(rows_data<S>(weight), rows_data<Wide<S>>(square_sum), rows_data<const S>(values),
                                      weight.size(1), square_sum.dim() == 1, lr, eps, weight_decay);
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
