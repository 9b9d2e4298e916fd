// The contract between the kernels and whoever calls them: raw pointers and sizes, no torch.
#pragma once

#include <cstdint>

#include "core/item_row.h"
#include "core/row_update.h"
#include "core/softmax_row.h"

namespace t4r {

// Each works on rows [begin, end) of its tile.
template <typename T>
struct SampledKernels {
  void (*softmax)(const SampledTile<T>& tile, int64_t begin, int64_t end);
  void (*bce)(const SampledTile<T>& tile, int64_t begin, int64_t end);
  void (*logits)(const SampledTile<T>& tile, int64_t begin, int64_t end);
};

template <typename T>
struct ItemKernels {
  void (*logsumexp)(const LogSumExpTile<T>& tile, int64_t begin, int64_t end);
  void (*softmax_grad)(const SoftmaxGradTile<T>& tile, int64_t begin, int64_t end);
  void (*rank)(const RankTile<T>& tile, int64_t begin, int64_t end);
  double (*largest_norm)(const T* weight, int64_t rows, int64_t width, int64_t stride);
  void (*pair_scores)(const PairScores<T>& pairs, int64_t begin, int64_t end);  // of pairs, not rows
  void (*topk)(const TopKTile<T>& tile, int64_t begin, int64_t end);
};

// A pass over the runs of sorted rows that begin in [begin, end), with two scratch rows of width D.
template <template <typename> class Rows, typename S>
using RowPass = void (*)(const Rows<S>& task, const SortedRows& rows, int64_t begin, int64_t end, Wide<S>* scratch);

// The pass of an optimizer for every type that a table may have.
template <template <typename> class Rows>
struct RowPasses {
  RowPass<Rows, float> f32;
  RowPass<Rows, double> f64;
  RowPass<Rows, Float16> f16;
  RowPass<Rows, BFloat16> bf16;
};

// One set per instruction set; each is the same source, compiled for it.
struct CpuKernels {
  const char* name;
  // out[i] = class + 1 before flooring, for draws start .. start + count
  void (*draw)(uint64_t seed, uint64_t start, int64_t count, double log_range, double* out);
  void (*log_q)(const int64_t* ids, int64_t size, int64_t min_id, double tries, double log_range, bool unique,
                float* out);
  // p [size <= 256], 0 < p <= 1/2, is overwritten
  void (*log_counts)(double* p, int64_t size, double tries, bool unique, float* out);
  SampledKernels<float> sampled_f32;
  SampledKernels<double> sampled_f64;
  ItemKernels<float> items_f32;
  ItemKernels<double> items_f64;
  RowPasses<AdamRows> adam_rows;
  RowPasses<AdagradRows> adagrad_rows;
};

extern const CpuKernels kBaselineKernels;
#if defined(__x86_64__)
extern const CpuKernels kAvx2Kernels;
extern const CpuKernels kAvx512Kernels;
#endif

// The widest set this processor runs, or the one T4R_EXT_ISA names (baseline, avx2, avx512) if it runs that.
const CpuKernels& cpu_kernels();

// Moves the k best of `size` > k entries to the front (larger first in doubt, ties to the lower id), empties the rest
// (-inf, -1) and returns the worst score kept.
float keep_best(float* scores, int64_t* ids, int64_t size, int64_t k);
double keep_best(double* scores, int64_t* ids, int64_t size, int64_t k);

// Candidates as classes [num_samples], in the order drawn; distinct ones (of which there must be as many) if `unique`.
// Return the number of draws, where it decides the expected counts.
int64_t draw_log_uniform(const CpuKernels& kernels, uint64_t seed, int64_t num_samples, int64_t num_classes,
                         bool unique, int64_t* classes);
// Ascending where they are more than half of the range.
void draw_uniform(uint64_t seed, int64_t num_samples, int64_t num_classes, bool unique, int64_t* classes);
int64_t draw_weighted(uint64_t seed, int64_t num_samples, int64_t num_classes, const float* threshold,
                      const int32_t* alias, bool unique, int64_t* classes);

// log of the expected count among the candidates: of each id under the log-uniform law over R = num_classes >= 1, and
// of items of probability 0 <= p <= 1.
void log_uniform_log_q(const CpuKernels& kernels, const int64_t* ids, int64_t size, int64_t num_classes, int64_t min_id,
                       double tries, bool unique, float* out);
void log_expected_count(const CpuKernels& kernels, const float* p, int64_t size, double tries, bool unique, float* out);

// Sorts the rows of a gradient by id, stably, in `workspace` of 2 * size words, which the result points into.
// keys == nullptr if an id is outside [0, num_rows).
SortedRows sort_rows(const int64_t* ids, int64_t size, int64_t num_rows, uint64_t* workspace);

}  // namespace t4r
