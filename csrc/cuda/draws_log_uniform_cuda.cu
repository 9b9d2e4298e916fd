// The log-uniform law on the device: candidates, and log of expected counts. Formulas: core/log_uniform.h.
//
// Candidates take one block's kernel (draws.cuh) where they are distinct and one over all of them and the targets,
// which reads the number of tries where the first left it; with repetitions that number is known and one kernel does
// both. log q: about 120 float64 operations (3 divisions) for 12 bytes, so float64 arithmetic is the floor: 10,000 ids
// are 1.2 Mflop, 40 ns of an H100, less than any launch. Hence plain 8-byte loads. Blocks of 256 threads: enough of
// them for all SMs at 10,000 ids.
#include "../core/log_uniform.h"
#include "draws.cuh"
#include "draws.h"
#include "dtype.h"

namespace t4r::cuda {
namespace {

constexpr int kThreads = 256;

struct LogUniformLaw {
  int64_t num_classes;
  double log_range;

  __device__ int64_t operator()(uint64_t seed, uint64_t index) const {
    return clamp_class(one_plus_class(uniform(seed, index), log_range), num_classes);
  }
};

struct LogUniformCount {
  int64_t num_classes;
  int64_t min_id;
  double inverse_log_range;
  bool unique;

  __device__ float operator()(int64_t id, double tries) const {
    const uint64_t class_index = static_cast<uint64_t>(id) - static_cast<uint64_t>(min_id);
    if (class_index >= static_cast<uint64_t>(num_classes)) return NAN;
    const auto c = static_cast<double>(class_index);
    if (num_classes >= 3) return log_count(probability(c, inverse_log_range), tries, unique);
    return log_count_elsewhere(probability_of_few(c, num_classes, inverse_log_range), tries, unique);
  }
};

// Ids that are there already, and the number of tries that found them.
struct GivenIds {
  const int64_t* ids;
  const int64_t* num_tries;

  __device__ double tries() const { return static_cast<double>(*num_tries); }
  __device__ int64_t operator()(int64_t i) const { return ids[i]; }
};

// Ids that are drawn now, each on its own.
template <typename Law>
struct DrawnIds {
  Law law;
  const int64_t* seed;
  Drawn out;

  __device__ double tries() const { return static_cast<double>(out.tries); }
  __device__ int64_t operator()(int64_t i) const {
    const int64_t class_index = law(static_cast<uint64_t>(*seed), static_cast<uint64_t>(i));
    store(out, i, class_index);
    if (i == out.num_samples - 1) store_counts(out, out.tries);
    return class_index + out.min_id;
  }
};

// log q of `size` ids and of `num_targets` targets.
template <typename Ids>
__global__ void log_q_kernel(const Ids ids, const LogUniformCount count, int64_t size, float* log_q,
                             const int64_t* targets, int64_t num_targets, float* target_log_q) {
  const double tries = ids.tries();
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < size + num_targets; i += stride) {
    if (i < size) {
      log_q[i] = count(ids(i), tries);
    } else {
      target_log_q[i - size] = count(targets[i - size], tries);
    }
  }
}

__global__ void expected_count_kernel(const float* p, int64_t size, const int64_t* num_tries, bool unique, float* out) {
  const auto tries = static_cast<double>(*num_tries);
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += stride) {
    const auto value = static_cast<double>(p[i]);
    out[i] = value > 0.0 && value <= 0.5 ? log_count(value, tries, unique) : log_count_elsewhere(value, tries, unique);
  }
}

struct LogQ {
  LogUniformCount count;
  int64_t size;
  float* log_q;
  const int64_t* targets;
  int64_t num_targets;
  float* target_log_q;
};

template <typename Ids>
int launch_log_q(const Ids& ids, const LogQ& arguments, cudaStream_t stream) {
  const auto kernel = log_q_kernel<Ids>;
  T4R_LAUNCH(kernel, blocks_for(arguments.size + arguments.num_targets, kThreads), kThreads, 0, stream, ids,
             arguments.count, arguments.size, arguments.log_q, arguments.targets, arguments.num_targets,
             arguments.target_log_q);
  return static_cast<int>(cudaGetLastError());
}

double log_range_of(int64_t num_classes) { return std::log1p(static_cast<double>(num_classes)); }

LogUniformCount count_of(int64_t num_items, int64_t min_id, int unique) {
  const int64_t num_classes = num_items - min_id;
  return {num_classes, min_id, 1.0 / log_range_of(num_classes), unique != 0};
}

}  // namespace
}  // namespace t4r::cuda

using namespace t4r::cuda;

int t4r_draw_workspace_cuda(int64_t num_samples, int64_t* bytes, int device) {
  *bytes = workspace_for(set_bytes(num_samples), device);
  return 0;
}

int t4r_log_uniform_draw_cuda(const int64_t* seed, const int64_t* targets, int64_t num_targets, int64_t num_samples,
                              int64_t num_items, int64_t min_id, int unique, void* workspace, int64_t* ids,
                              float* log_q, int64_t* num_tries, int64_t* count, float* target_log_q, int device,
                              void* stream) {
  const DeviceScope scope(device);
  if (scope.failed()) return scope.status();
  const auto on = static_cast<cudaStream_t>(stream);
  const int64_t num_classes = num_items - min_id;
  if (num_classes > kMostClasses) return kBadArgument;
  const LogUniformLaw law{num_classes, log_range_of(num_classes)};
  const LogQ of_all{count_of(num_items, min_id, unique), num_samples, log_q, targets, num_targets, target_log_q};
  Drawn out{num_samples, min_id, ids, nullptr, 0.0f, num_tries, num_samples, count};
  if (unique == 0) return launch_log_q(DrawnIds<LogUniformLaw>{law, seed, out}, of_all, on);
  if (num_samples == num_classes) {
    out.tries = INT64_MAX;
    return launch_log_q(DrawnIds<WholeRange>{{}, seed, out}, of_all, on);
  }
  out.tries = -1;
  const int status = launch_in_order<true>(law, seed, out, workspace, on);
  return status != 0 ? status : launch_log_q(GivenIds{ids, num_tries}, of_all, on);
}

int t4r_log_uniform_log_q_cuda(const int64_t* ids, int64_t size, const int64_t* num_tries, int64_t num_items,
                               int64_t min_id, int unique, float* out, int device, void* stream) {
  const DeviceScope scope(device);
  if (scope.failed()) return scope.status();
  if (size == 0) return 0;
  const LogQ of_ids{count_of(num_items, min_id, unique), size, out, nullptr, 0, nullptr};
  return launch_log_q(GivenIds{ids, num_tries}, of_ids, static_cast<cudaStream_t>(stream));
}

int t4r_log_expected_count_cuda(const float* p, int64_t size, const int64_t* num_tries, int unique, float* out,
                                int device, void* stream) {
  const DeviceScope scope(device);
  if (scope.failed()) return scope.status();
  if (size == 0) return 0;
  T4R_LAUNCH(expected_count_kernel, blocks_for(size, kThreads), kThreads, 0, static_cast<cudaStream_t>(stream), p, size,
             num_tries, unique != 0, out);
  return static_cast<int>(cudaGetLastError());
}
