// Launchers of the kernels that draw candidates and find their expected counts: raw pointers on the device, neither
// torch nor CUDA headers, so that any harness can call them. Each returns a cudaError_t, 0 for success; none waits for
// the device. `seed` and `num_tries` are int64 [] on the device.
#pragma once

#include <cstdint>

extern "C" {

// The bytes of workspace that drawing `num_samples` distinct classes needs, in the host's `bytes`: 0 where shared
// memory holds the set, and `workspace` is then nullptr.
int t4r_draw_workspace_cuda(int64_t num_samples, int64_t* bytes, int device);
// The same for t4r_uniform_sample_cuda, and 0 of draws with repetitions and of the whole range.
int t4r_uniform_workspace_cuda(int64_t num_samples, int64_t num_classes, int unique, int64_t* bytes, int device);

// Candidates of the log-uniform law over [min_id, num_items): ids and log_q [num_samples], num_tries [], count []; also
// log q [num_targets] of the targets under the same number of tries. If `unique` and num_samples is the whole range,
// that range.
int t4r_log_uniform_draw_cuda(const int64_t* seed, const int64_t* targets, int64_t num_targets, int64_t num_samples,
                              int64_t num_items, int64_t min_id, int unique, void* workspace, int64_t* ids,
                              float* log_q, int64_t* num_tries, int64_t* count, float* target_log_q, int device,
                              void* stream);

// log q [size] of ids; NaN of an id outside the range, which is not looked for.
int t4r_log_uniform_log_q_cuda(const int64_t* ids, int64_t size, const int64_t* num_tries, int64_t num_items,
                               int64_t min_id, int unique, float* out, int device, void* stream);

// log q [size] of items of probability p.
int t4r_log_expected_count_cuda(const float* p, int64_t size, const int64_t* num_tries, int unique, float* out,
                                int device, void* stream);

// Candidates of the uniform law; at most the whole range if `unique`.
int t4r_uniform_sample_cuda(const int64_t* seed, int64_t num_samples, int64_t num_items, int64_t min_id, int unique,
                            void* workspace, int64_t* ids, float* log_q, int64_t* num_tries, int64_t* count, int device,
                            void* stream);

// Candidates by an alias table over `num_classes` (core/draws.h): ids [num_samples], num_tries [].
int t4r_alias_sample_cuda(const int64_t* seed, const float* threshold, const int32_t* alias, int64_t num_classes,
                          int64_t num_samples, int64_t min_id, int unique, void* workspace, int64_t* ids,
                          int64_t* num_tries, int device, void* stream);

}  // extern "C"
