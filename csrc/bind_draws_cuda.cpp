// Binds candidates and their expected counts on CUDA to the operators of ops/schemas. Nothing here waits for the
// device: the seed is read and the number of tries is left there.
#include <algorithm>
#include <tuple>

#include "bind_cuda.h"
#include "cuda/draws.h"

namespace {

using t4r::bind::check_launch;
using t4r::bind::current_stream;
using t4r::bind::device_of;
using t4r::bind::driver_suffices;
using t4r::bind::empty_on;
using t4r::bind::Tensor;

Tensor ids_on(int device, torch::headeronly::IntHeaderOnlyArrayRef sizes) {
  return empty_on(device, sizes, aoti_torch_dtype_int64());
}

Tensor log_q_on(int device, torch::headeronly::IntHeaderOnlyArrayRef sizes) {
  return empty_on(device, sizes, aoti_torch_dtype_float32());
}

Tensor number_on(int device) { return ids_on(device, std::initializer_list<int64_t>{}); }

// What a launcher works in: empty where it asks for nothing, and its pointer is then nullptr.
Tensor workspace_on(int device, int64_t bytes) { return empty_on(device, {bytes}, aoti_torch_dtype_uint8()); }

Tensor workspace_of_distinct(int device, int64_t num_samples) {
  int64_t bytes = 0;
  check_launch(t4r_draw_workspace_cuda(num_samples, &bytes, device), "t4r_draw_workspace_cuda");
  return workspace_on(device, bytes);
}

void* workspace_pointer(Tensor& workspace) { return workspace.numel() == 0 ? nullptr : workspace.mutable_data_ptr(); }

const int64_t* ints(const Tensor& tensor) { return static_cast<const int64_t*>(tensor.const_data_ptr()); }
int64_t* ints(Tensor& tensor) { return static_cast<int64_t*>(tensor.mutable_data_ptr()); }
const float* floats(const Tensor& tensor) { return static_cast<const float*>(tensor.const_data_ptr()); }
float* floats(Tensor& tensor) { return static_cast<float*>(tensor.mutable_data_ptr()); }

Tensor packed(const Tensor& tensor) { return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor); }

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> log_uniform_draw(const Tensor& seed, const Tensor& targets,
                                                                    int64_t num_samples, int64_t num_items,
                                                                    int64_t min_id, bool unique) {
  const int device = device_of(seed);
  const int64_t size = unique ? std::min(num_samples, num_items - min_id) : num_samples;
  const bool draws_until_distinct = unique && size < num_items - min_id;
  const Tensor given = packed(targets);
  Tensor ids = ids_on(device, {size});
  Tensor log_q = log_q_on(device, {size});
  Tensor num_tries = number_on(device);
  Tensor count = number_on(device);
  Tensor target_log_q = log_q_on(device, targets.sizes());
  Tensor workspace = draws_until_distinct ? workspace_of_distinct(device, size) : workspace_on(device, 0);
  check_launch(t4r_log_uniform_draw_cuda(ints(seed), ints(given), given.numel(), size, num_items, min_id, unique,
                                         workspace_pointer(workspace), ints(ids), floats(log_q), ints(num_tries),
                                         ints(count), floats(target_log_q), device, current_stream(device)),
               "log_uniform_draw");
  return {ids, log_q, num_tries, count, target_log_q};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> log_uniform_sample(const Tensor& seed, int64_t num_samples,
                                                              int64_t num_items, int64_t min_id, bool unique) {
  const Tensor no_targets = ids_on(device_of(seed), {0});
  auto [ids, log_q, num_tries, count, _] = log_uniform_draw(seed, no_targets, num_samples, num_items, min_id, unique);
  return {ids, log_q, num_tries, count};
}

Tensor log_uniform_log_q(const Tensor& ids, const Tensor& num_tries, int64_t num_items, int64_t min_id, bool unique) {
  const int device = device_of(ids);
  const Tensor given = packed(ids);
  Tensor log_q = log_q_on(device, ids.sizes());
  check_launch(t4r_log_uniform_log_q_cuda(ints(given), given.numel(), ints(num_tries), num_items, min_id, unique,
                                          floats(log_q), device, current_stream(device)),
               "log_uniform_log_q");
  return log_q;
}

Tensor log_expected_count(const Tensor& p, const Tensor& num_tries, bool unique) {
  const int device = device_of(p);
  const Tensor given = packed(p);
  Tensor log_q = log_q_on(device, p.sizes());
  check_launch(t4r_log_expected_count_cuda(floats(given), given.numel(), ints(num_tries), unique, floats(log_q), device,
                                           current_stream(device)),
               "log_expected_count");
  return log_q;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> uniform_sample(const Tensor& seed, int64_t num_samples, int64_t num_items,
                                                          int64_t min_id, bool unique) {
  const int device = device_of(seed);
  const int64_t num_classes = num_items - min_id;
  const int64_t size = unique ? std::min(num_samples, num_classes) : num_samples;
  Tensor ids = ids_on(device, {size});
  Tensor log_q = log_q_on(device, {size});
  Tensor num_tries = number_on(device);
  Tensor count = number_on(device);
  int64_t bytes = 0;
  check_launch(t4r_uniform_workspace_cuda(size, num_classes, unique, &bytes, device), "t4r_uniform_workspace_cuda");
  Tensor workspace = workspace_on(device, bytes);
  check_launch(
      t4r_uniform_sample_cuda(ints(seed), size, num_items, min_id, unique, workspace_pointer(workspace), ints(ids),
                              floats(log_q), ints(num_tries), ints(count), device, current_stream(device)),
      "uniform_sample");
  return {ids, log_q, num_tries, count};
}

std::tuple<Tensor, Tensor> alias_sample(const Tensor& seed, const Tensor& threshold, const Tensor& alias,
                                        int64_t num_samples, int64_t min_id, bool unique) {
  const int device = device_of(seed);
  const Tensor thresholds = packed(threshold);
  const Tensor aliases = packed(alias);
  Tensor ids = ids_on(device, {num_samples});
  Tensor num_tries = number_on(device);
  Tensor workspace = unique ? workspace_of_distinct(device, num_samples) : workspace_on(device, 0);
  check_launch(
      t4r_alias_sample_cuda(ints(seed), floats(thresholds), static_cast<const int32_t*>(aliases.const_data_ptr()),
                            thresholds.numel(), num_samples, min_id, unique, workspace_pointer(workspace), ints(ids),
                            ints(num_tries), device, current_stream(device)),
      "alias_sample");
  return {ids, num_tries};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(transformers4rec_ext, T4R_DEVICE_KEY, m) {
  if (!driver_suffices()) return;
  m.impl("log_uniform_sample", TORCH_BOX(&log_uniform_sample));
  m.impl("log_uniform_draw", TORCH_BOX(&log_uniform_draw));
  m.impl("log_uniform_log_q", TORCH_BOX(&log_uniform_log_q));
  m.impl("log_expected_count", TORCH_BOX(&log_expected_count));
  m.impl("uniform_sample", TORCH_BOX(&uniform_sample));
  m.impl("alias_sample", TORCH_BOX(&alias_sample));
}
