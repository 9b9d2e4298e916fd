// Binds full softmax, rank and top-k on the CPU to the operators of ops/schemas.
#include <algorithm>
#include <cmath>

#include "bind.h"
#include "kernels.h"

namespace {

using t4r::bind::pointer;
using t4r::bind::ScalarType;
using t4r::bind::Tensor;

template <typename T>
const t4r::ItemKernels<T>& kernels() {
  if constexpr (sizeof(T) == sizeof(float)) {
    return t4r::cpu_kernels().items_f32;
  } else {
    return t4r::cpu_kernels().items_f64;
  }
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

template <typename T>
T* output(Tensor& tensor) {
  STD_TORCH_CHECK(tensor.is_contiguous(), "a tile's outputs must be contiguous");
  return static_cast<T*>(tensor.mutable_data_ptr());
}

void check_rows(const Tensor& matrix) {
  STD_TORCH_CHECK(matrix.size(1) <= 1 || matrix.stride(1) == 1, "a matrix's rows must be contiguous");
}

// Rows per thread at least, so that a small tile is not worth a thread.
int64_t grain(int64_t columns) { return 1 + 16384 / (columns + 1); }

template <typename Tile, typename Kernel>
void over_rows(int64_t rows, int64_t columns, const Tile& tile, Kernel kernel) {
  torch::stable::parallel_for(0, rows, grain(columns), [&](int64_t begin, int64_t end) { kernel(tile, begin, end); });
}

constexpr double kLog2E = 1.4426950408889634;

void logsumexp_tile(Tensor scores, std::optional<Tensor> bias, double temperature, Tensor maximum, Tensor total) {
  check_rows(scores);
  for_dtype(scores, [&](auto zero) {
    using T = decltype(zero);
    const t4r::LogSumExpTile<T> tile{
        static_cast<const T*>(scores.const_data_ptr()), scores.stride(0),   scores.size(1),       pointer<T>(bias),
        static_cast<T>(kLog2E / temperature),           output<T>(maximum), output<double>(total)};
    over_rows(scores.size(0), scores.size(1), tile, kernels<T>().logsumexp);
  });
}

void softmax_grad_tile(Tensor scores, std::optional<Tensor> bias, Tensor targets, int64_t begin, double temperature,
                       double smoothing, double target_weight, Tensor maximum, Tensor total, Tensor row_grad,
                       Tensor grad) {
  check_rows(scores);
  check_rows(grad);
  for_dtype(scores, [&](auto zero) {
    using T = decltype(zero);
    const t4r::SoftmaxGradTile<T> tile{static_cast<const T*>(scores.const_data_ptr()),
                                       scores.stride(0),
                                       static_cast<T*>(grad.mutable_data_ptr()),
                                       grad.stride(0),
                                       scores.size(1),
                                       begin,
                                       pointer<T>(bias),
                                       static_cast<T>(kLog2E / temperature),
                                       pointer<int64_t>(targets),
                                       pointer<T>(maximum),
                                       pointer<double>(total),
                                       pointer<T>(row_grad),
                                       static_cast<T>(smoothing),
                                       static_cast<T>(target_weight)};
    over_rows(scores.size(0), scores.size(1), tile, kernels<T>().softmax_grad);
  });
}

template <typename T>
double largest_magnitude(const T* values, int64_t size) {
  T largest = 0;
  for (int64_t i = 0; values != nullptr && i < size; ++i) largest = std::max(largest, std::abs(values[i]));
  return static_cast<double>(largest);
}

void rank_tile(Tensor scores, Tensor hidden, Tensor weight, std::optional<Tensor> bias, Tensor target_scores,
               Tensor hidden_norms, Tensor above, Tensor not_a_number) {
  check_rows(scores);
  check_rows(weight);
  for_dtype(scores, [&](auto zero) {
    using T = decltype(zero);
    const auto* rows = static_cast<const T*>(weight.const_data_ptr());
    const t4r::RankTile<T> tile{static_cast<const T*>(scores.const_data_ptr()),
                                scores.stride(0),
                                scores.size(1),
                                pointer<T>(hidden),
                                rows,
                                weight.stride(0),
                                weight.size(1),
                                pointer<T>(bias),
                                pointer<double>(target_scores),
                                pointer<double>(hidden_norms),
                                kernels<T>().largest_norm(rows, weight.size(0), weight.size(1), weight.stride(0)),
                                largest_magnitude(pointer<T>(bias), weight.size(0)),
                                output<int64_t>(above),
                                output<int64_t>(not_a_number)};
    over_rows(scores.size(0), scores.size(1), tile, kernels<T>().rank);
  });
}

void pair_scores(Tensor hidden, Tensor weight, std::optional<Tensor> bias, Tensor ids, Tensor out) {
  check_rows(weight);
  for_dtype(hidden, [&](auto zero) {
    using T = decltype(zero);
    const t4r::PairScores<T> pairs{pointer<T>(hidden), static_cast<const T*>(weight.const_data_ptr()),
                                   weight.stride(0),   weight.size(1),
                                   pointer<T>(bias),   pointer<int64_t>(ids),
                                   ids.size(1),        output<double>(out)};
    over_rows(ids.numel(), weight.size(1), pairs, kernels<T>().pair_scores);
  });
}

void topk_tile(Tensor scores, std::optional<Tensor> bias, int64_t begin, std::optional<Tensor> excluded, int64_t k,
               Tensor best, Tensor ids, Tensor fill, Tensor threshold) {
  check_rows(scores);
  for_dtype(scores, [&](auto zero) {
    using T = decltype(zero);
    const t4r::TopKTile<T> tile{static_cast<const T*>(scores.const_data_ptr()),
                                scores.stride(0),
                                scores.size(1),
                                begin,
                                pointer<T>(bias),
                                pointer<int64_t>(excluded),
                                excluded.has_value() ? excluded->size(1) : 0,
                                k,
                                best.size(1),
                                output<T>(best),
                                output<int64_t>(ids),
                                output<int64_t>(fill),
                                output<T>(threshold)};
    over_rows(scores.size(0), scores.size(1), tile, kernels<T>().topk);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(transformers4rec_ext, CPU, m) {
  m.impl("logsumexp_tile", TORCH_BOX(&logsumexp_tile));
  m.impl("softmax_grad_tile", TORCH_BOX(&softmax_grad_tile));
  m.impl("rank_tile", TORCH_BOX(&rank_tile));
  m.impl("pair_scores", TORCH_BOX(&pair_scores));
  m.impl("topk_tile", TORCH_BOX(&topk_tile));
}
