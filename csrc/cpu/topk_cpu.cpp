// What top-k does seldom: cut a full buffer down to the k best. O(size).
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "../kernels.h"

namespace t4r {
namespace {

template <typename T>
T keep_best_of(T* scores, int64_t* ids, int64_t size, int64_t k) {
  std::vector<std::pair<T, int64_t>> entries(static_cast<size_t>(size));
  for (int64_t i = 0; i < size; ++i) entries[i] = {scores[i], ids[i]};
  const auto better = [](const auto& a, const auto& b) {
    return a.first > b.first || (a.first == b.first && a.second < b.second);
  };
  std::nth_element(entries.begin(), entries.begin() + (k - 1), entries.end(), better);
  for (int64_t i = 0; i < size; ++i) {
    scores[i] = i < k ? entries[i].first : -static_cast<T>(INFINITY);
    ids[i] = i < k ? entries[i].second : -1;
  }
  return entries[k - 1].first;
}

}  // namespace

float keep_best(float* scores, int64_t* ids, int64_t size, int64_t k) { return keep_best_of(scores, ids, size, k); }
double keep_best(double* scores, int64_t* ids, int64_t size, int64_t k) { return keep_best_of(scores, ids, size, k); }

}  // namespace t4r
