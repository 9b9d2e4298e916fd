// Binds full softmax, rank and top-k on the CPU to the operators of ops/schemas.
#include <algorithm>
#include <atomic>
#include <cmath>

#include "bind_softmax.h"
#include "kernels.h"

namespace {

using t4r::bind::check_rows;
using t4r::bind::for_dtype;
using t4r::bind::output;
using t4r::bind::over_rows;
using t4r::bind::pointer;
using t4r::bind::Tensor;

template <typename T>
const t4r::ItemKernels<T>& kernels() {
  if constexpr (sizeof(T) == sizeof(float)) {
    return t4r::cpu_kernels().items_f32;
  } else {
    return t4r::cpu_kernels().items_f64;
  }
}

struct OnCpu {
  template <typename T>
  static void logsumexp(const t4r::LogSumExpTile<T>& tile, const Tensor& scores) {
    over_rows(scores.size(0), tile.size, tile, kernels<T>().logsumexp);
  }
  template <typename T>
  static void softmax_grad(const t4r::SoftmaxGradTile<T>& tile, const Tensor& scores) {
    over_rows(scores.size(0), tile.size, tile, kernels<T>().softmax_grad);
  }
};

// The largest |w| of a tile's rows: they are as many numbers as the GEMM read, so all threads share them.
template <typename T>
double largest_norm(const T* rows, const Tensor& weight) {
  const int64_t width = weight.size(1), stride = weight.stride(0);
  std::atomic<double> largest = 0.0;
  torch::stable::parallel_for(0, weight.size(0), t4r::bind::row_grain(width), [&](int64_t begin, int64_t end) {
    const double found = kernels<T>().largest_norm(rows + begin * stride, end - begin, width, stride);
    double seen = largest.load();
    while (found > seen && !largest.compare_exchange_weak(seen, found)) {
    }
  });
  return largest.load();
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
                                largest_norm(rows, weight),
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
    const t4r::PairScores<T> pairs{pointer<T>(hidden),    static_cast<const T*>(weight.const_data_ptr()),
                                   weight.stride(0),      weight.size(0),
                                   weight.size(1),        pointer<T>(bias),
                                   pointer<int64_t>(ids), ids.size(1),
                                   output<double>(out)};
    over_rows(ids.numel(), weight.size(1), pairs, kernels<T>().pair_scores);
  });
}

void topk_tile(Tensor scores, std::optional<Tensor> bias, int64_t begin, std::optional<Tensor> excluded, int64_t k,
               Tensor best, Tensor ids, Tensor fill, Tensor threshold) {
  check_rows(scores);
  const int64_t pieces = t4r::bind::pieces_of(scores, best);
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
                                pieces,
                                t4r::piece_size(scores.size(1), pieces),
                                best.size(1),
                                output<T>(best),
                                output<int64_t>(ids),
                                output<int64_t>(fill),
                                output<T>(threshold)};
    over_rows(best.size(0), tile.piece_size, tile, kernels<T>().topk);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(transformers4rec_ext, CPU, m) {
  m.impl("logsumexp_tile", TORCH_BOX(&t4r::bind::logsumexp_tile<OnCpu>));
  m.impl("softmax_grad_tile", TORCH_BOX(&t4r::bind::softmax_grad_tile<OnCpu>));
  m.impl("rank_tile", TORCH_BOX(&rank_tile));
  m.impl("pair_scores", TORCH_BOX(&pair_scores));
  m.impl("topk_tile", TORCH_BOX(&topk_tile));
}
