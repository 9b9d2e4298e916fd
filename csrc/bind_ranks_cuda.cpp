// Binds rank counting and top-k on CUDA to the operators of ops/schemas.
#include <initializer_list>

#include "bind_cuda.h"
#include "cuda/ranks.h"
#include "cuda/topk.h"

namespace {

using t4r::bind::check_launch;
using t4r::bind::check_rows;
using t4r::bind::current_stream;
using t4r::bind::device_of;
using t4r::bind::dtype_code;
using t4r::bind::output;
using t4r::bind::pointer;
using t4r::bind::ScalarType;
using t4r::bind::Tensor;

void rank_tile(Tensor scores, Tensor hidden, Tensor weight, std::optional<Tensor> bias, Tensor target_scores,
               Tensor hidden_norms, Tensor above, Tensor not_a_number) {
  check_rows(scores);
  check_rows(weight);
  const int device = device_of(scores);
  Tensor workspace = t4r::bind::empty_on(device, std::initializer_list<int64_t>{2}, aoti_torch_dtype_int64());
  const int status = t4r_rank_tile_cuda(
      scores.const_data_ptr(), scores.stride(0), scores.size(0), scores.size(1), pointer<void>(hidden),
      weight.const_data_ptr(), weight.stride(0), weight.size(1), pointer<void>(bias), pointer<double>(target_scores),
      pointer<double>(hidden_norms), output<int64_t>(above), output<int64_t>(not_a_number),
      workspace.mutable_data_ptr(), dtype_code(scores), device, current_stream(device));
  check_launch(status, "rank_tile");
}

void pair_scores(Tensor hidden, Tensor weight, std::optional<Tensor> bias, Tensor ids, Tensor out) {
  check_rows(weight);
  const int device = device_of(hidden);
  const int status =
      t4r_pair_scores_cuda(pointer<void>(hidden), weight.const_data_ptr(), weight.stride(0), weight.size(0),
                           weight.size(1), pointer<void>(bias), pointer<int64_t>(ids), ids.size(0), ids.size(1),
                           output<double>(out), dtype_code(hidden), device, current_stream(device));
  check_launch(status, "pair_scores");
}

void topk_tile(Tensor scores, std::optional<Tensor> bias, int64_t begin, std::optional<Tensor> excluded, int64_t k,
               Tensor best, Tensor ids, Tensor fill, Tensor threshold) {
  check_rows(scores);
  STD_TORCH_CHECK(k >= 1 && best.size(1) > k, "topk_tile: the buffer must hold more than k entries");
  const int64_t pieces = t4r::bind::pieces_of(scores, best);
  STD_TORCH_CHECK(pieces <= 65535, "topk_tile: too many pieces for a grid");
  const int device = device_of(scores);
  const int status =
      t4r_topk_tile_cuda(scores.const_data_ptr(), scores.stride(0), scores.size(0), scores.size(1), begin,
                         pointer<void>(bias), pointer<int64_t>(excluded), excluded.has_value() ? excluded->size(1) : 0,
                         k, pieces, best.size(1), output<void>(best), output<int64_t>(ids), output<int64_t>(fill),
                         output<void>(threshold), dtype_code(scores), device, current_stream(device));
  check_launch(status, "topk_tile");
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(transformers4rec_ext, T4R_DEVICE_KEY, m) {
  if (!t4r::bind::driver_suffices()) return;
  m.impl("rank_tile", TORCH_BOX(&rank_tile));
  m.impl("pair_scores", TORCH_BOX(&pair_scores));
  m.impl("topk_tile", TORCH_BOX(&topk_tile));
}
