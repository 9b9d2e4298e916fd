// Uniform candidates, and candidates by an alias table, on the device. Laws: core/draws.h; how they are kept:
// draws.cuh.
//
// Uniform with repetitions: one block, since a rejected draw moves all later ones: S/1024 rounds of about 1 us.
// Distinct: the same with the set; of more than half of the range the classes to leave out are drawn and a second
// kernel writes the rest, ascending. Its block reads a bit for each class, from shared memory up to 1.8M classes
// (H100), and writes 12 bytes a sample: 32,768 classes a round. Alias table: 16 bytes read at random and two uniforms a
// draw; with repetitions as many blocks as there are draws for.
#include <cmath>

#include "draws.cuh"
#include "draws.h"
#include "dtype.h"

namespace t4r::cuda {
namespace {

struct UniformLaw {
  uint64_t num_classes;
  uint64_t last;

  __device__ int64_t operator()(uint64_t seed, uint64_t index) const {
    return uniform_class(seed, index, num_classes, last);
  }
};

struct AliasLaw {
  int64_t num_classes;
  const float* threshold;
  const int32_t* alias;

  __device__ int64_t operator()(uint64_t seed, uint64_t index) const {
    const int64_t bucket = alias_bucket(seed, index, num_classes);
    return alias_class(seed, index, bucket, threshold[bucket], alias[bucket]);
  }
};

constexpr int kBitsPerWord = 32;

T4R_HD int64_t words_of(int64_t num_classes) { return (num_classes + kBitsPerWord - 1) / kBitsPerWord; }

// Replaces the classes to leave out, which are the first of out.ids, by all others. `workspace`: a bit for each class,
// 0; without it they lie in shared memory.
__global__ void __launch_bounds__(kMostDrawThreads)
    keep_the_rest(int64_t num_classes, const Drawn out, unsigned* workspace) {
  T4R_DYNAMIC_SHARED(unsigned char, shared);
  int* const scratch = reinterpret_cast<int*>(shared);
  unsigned* const left_out = workspace == nullptr ? reinterpret_cast<unsigned*>(shared + kScratchBytes) : workspace;
  const int64_t words = words_of(num_classes);
  const auto thread = static_cast<int64_t>(threadIdx.x);
  if (workspace == nullptr) {
    for (int64_t w = thread; w < words; w += blockDim.x) left_out[w] = 0;
    __syncthreads();
  }
  for (int64_t i = thread; i < num_classes - out.num_samples; i += blockDim.x) {
    const int64_t class_index = out.ids[i];
    atomicOr(left_out + class_index / kBitsPerWord, 1u << (class_index % kBitsPerWord));
  }
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  int64_t found = 0;
  for (int64_t first = 0; first < words; first += blockDim.x) {
    const int64_t w = first + thread;
    unsigned keep = w < words ? ~left_out[w] : 0;
    if (w == words - 1 && num_classes % kBitsPerWord != 0) keep &= (1u << (num_classes % kBitsPerWord)) - 1;
    int kept = 0;
    const int before = block_exclusive_sum(__popc(keep), scratch, kept);
    // a warp writes the classes of one word after the other, so that its stores lie together
    for (int k = 0; k < kWarp; ++k) {
      const unsigned of_word = __shfl_sync(kAllLanes, keep, k);
      const int place = __shfl_sync(kAllLanes, before, k) + __popc(of_word & ((1u << lane) - 1));
      if ((of_word >> lane & 1) != 0) store(out, found + place, (w - lane + k) * kBitsPerWord + lane);
    }
    found += kept;
  }
  if (thread == 0) store_counts(out, out.tries);
}

int launch_the_rest(int64_t num_classes, const Drawn& out, void* workspace, cudaStream_t stream) {
  const size_t bytes = static_cast<size_t>(words_of(num_classes)) * sizeof(unsigned);
  const size_t shared = kScratchBytes + (workspace == nullptr ? bytes : 0);
  cudaError_t status = cudaSuccess;
  if (workspace != nullptr) status = taken(cudaMemsetAsync(workspace, 0, bytes, stream));
  if (status == cudaSuccess) status = allow_shared(keep_the_rest, shared);
  if (status != cudaSuccess) return static_cast<int>(status);
  T4R_LAUNCH(keep_the_rest, 1, kMostDrawThreads, shared, stream, num_classes, out, static_cast<unsigned*>(workspace));
  return static_cast<int>(cudaGetLastError());
}

// Whether it is the classes to leave out that are drawn, as on the CPU.
bool leaves_out(int64_t num_samples, int64_t num_classes) { return 2 * num_samples > num_classes; }

UniformLaw uniform_law(int64_t num_classes) {
  const auto range = static_cast<uint64_t>(num_classes);
  return {range, last_of_whole_runs(range)};
}

int launch_distinct_uniform(const int64_t* seed, int64_t num_classes, const Drawn& out, void* workspace,
                            cudaStream_t stream) {
  const UniformLaw law = uniform_law(num_classes);
  if (out.num_samples == num_classes) return launch_each(WholeRange{}, seed, out, stream);
  if (!leaves_out(out.num_samples, num_classes)) return launch_in_order<true>(law, seed, out, workspace, stream);
  // there is room for them where the candidates go, since they are fewer
  const Drawn left_out{num_classes - out.num_samples, 0, out.ids, nullptr, 0.0f, nullptr, 0, nullptr};
  const int status = launch_in_order<true>(law, seed, left_out, workspace, stream);
  return status != 0 ? status : launch_the_rest(num_classes, out, workspace, stream);
}

}  // namespace
}  // namespace t4r::cuda

using namespace t4r::cuda;

int t4r_uniform_workspace_cuda(int64_t num_samples, int64_t num_classes, int unique, int64_t* bytes, int device) {
  *bytes = 0;
  if (unique == 0 || num_samples == num_classes) return 0;
  if (!leaves_out(num_samples, num_classes)) return t4r_draw_workspace_cuda(num_samples, bytes, device);
  // one after the other
  const size_t set = set_bytes(num_classes - num_samples);
  const size_t bits = static_cast<size_t>(words_of(num_classes)) * sizeof(unsigned);
  *bytes = workspace_for(set > bits ? set : bits, device);
  return 0;
}

int t4r_uniform_sample_cuda(const int64_t* seed, int64_t num_samples, int64_t num_items, int64_t min_id, int unique,
                            void* workspace, int64_t* ids, float* log_q, int64_t* num_tries, int64_t* count, int device,
                            void* stream) {
  const DeviceScope scope(device);
  if (scope.failed()) return scope.status();
  const int64_t num_classes = num_items - min_id;
  if (num_classes > kMostClasses) return kBadArgument;
  const bool whole = unique != 0 && num_samples == num_classes;
  const auto q = std::log(static_cast<double>(num_samples) / static_cast<double>(num_classes));
  const int64_t tries = whole ? INT64_MAX : num_samples;
  const Drawn out{num_samples, min_id, ids, log_q, static_cast<float>(q), num_tries, tries, count};
  const auto on = static_cast<cudaStream_t>(stream);
  if (unique != 0) return launch_distinct_uniform(seed, num_classes, out, workspace, on);
  return launch_in_order<false>(uniform_law(num_classes), seed, out, nullptr, on);
}

int t4r_alias_sample_cuda(const int64_t* seed, const float* threshold, const int32_t* alias, int64_t num_classes,
                          int64_t num_samples, int64_t min_id, int unique, void* workspace, int64_t* ids,
                          int64_t* num_tries, int device, void* stream) {
  const DeviceScope scope(device);
  if (scope.failed()) return scope.status();
  const AliasLaw law{num_classes, threshold, alias};
  const Drawn out{num_samples, min_id, ids, nullptr, 0.0f, num_tries, unique != 0 ? -1 : num_samples, nullptr};
  const auto on = static_cast<cudaStream_t>(stream);
  return unique != 0 ? launch_in_order<true>(law, seed, out, workspace, on) : launch_each(law, seed, out, on);
}
