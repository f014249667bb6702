// Symmetric eigenvalues (LAPACK) and average-linkage clustering.
#include <algorithm>
#include <limits>
#include <vector>

#include "tensor/cpu/blas.h"
#include "tensor/cpu/cpu_backend.h"

namespace facet {
namespace {

// Position of the largest entry of row + penalty, the first of equals. The penalty is 0 for a
// cluster that lives and -inf for one that was merged away.
template <typename T>
int64_t largest(const T* row, const T* penalty, int64_t n) {
  T best = -std::numeric_limits<T>::infinity();
#pragma omp simd reduction(max : best)
  for (int64_t i = 0; i < n; ++i) best = row[i] + penalty[i] > best ? row[i] + penalty[i] : best;
  int64_t at = 0;
  while (at < n && row[at] + penalty[at] != best) ++at;
  return at;
}

// Nearest-neighbour chain (Murtagh 1983): follow nearest neighbours until two clusters are each
// other's; merge them. Average linkage is reducible, so the chain before them stays valid and the
// merges are those of the greedy algorithm, in another order. O(n^2) time, in place in the (n, n)
// matrix s. Lance-Williams: s(a+b, c) = (|a| s(a,c) + |b| s(b,c)) / (|a| + |b|).
template <typename T>
void nearest_neighbour_chain(T* s, int64_t n, T* merges) {
  constexpr T kRemoved = -std::numeric_limits<T>::infinity();
  std::vector<T> size(static_cast<size_t>(n), T(1)), penalty(static_cast<size_t>(n), T(0));
  std::vector<int64_t> chain;
  for (int64_t i = 0; i < n; ++i) s[i * n + i] = kRemoved;
  int64_t first_alive = 0;
  for (int64_t merged = 0; merged < n - 1;) {
    if (chain.empty()) {
      while (size[static_cast<size_t>(first_alive)] == T(0)) ++first_alive;
      chain.push_back(first_alive);
    }
    const int64_t a = chain.back();
    T* row_a = s + a * n;
    int64_t b = largest(row_a, penalty.data(), n);
    // Prefer the cluster we came from among equals, or the chain could run in a circle.
    if (chain.size() > 1 && row_a[chain[chain.size() - 2]] == row_a[b]) b = chain[chain.size() - 2];
    if (chain.size() < 2 || b != chain[chain.size() - 2]) {
      chain.push_back(b);
      continue;
    }
    chain.resize(chain.size() - 2);
    merges[merged++] = row_a[b];
    T* row_b = s + b * n;
    const T wa = size[static_cast<size_t>(a)], wb = size[static_cast<size_t>(b)];
    const T share_a = wa / (wa + wb), share_b = wb / (wa + wb);
    // The union lives on in row and column b; the diagonal stays -inf.
#pragma omp simd
    for (int64_t c = 0; c < n; ++c) row_b[c] = share_a * row_a[c] + share_b * row_b[c];
    row_b[b] = kRemoved;
    for (int64_t c = 0; c < n; ++c) s[c * n + b] = row_b[c];
    penalty[static_cast<size_t>(a)] = kRemoved;
    size[static_cast<size_t>(b)] = wa + wb;
    size[static_cast<size_t>(a)] = T(0);
  }
  std::sort(merges, merges + (n - 1), [](T x, T y) { return x > y; });
}

}  // namespace

void CpuBackend::eigvalsh(const Tensor& matrix, Tensor& values) {
  Tensor scratch = matrix.clone();  // LAPACK overwrites it
  if (matrix.dtype() == DType::f64)
    blas::symmetric_eigenvalues(matrix.dim(0), scratch.data<double>(), values.data<double>());
  else
    blas::symmetric_eigenvalues(matrix.dim(0), scratch.data<float>(), values.data<float>());
}

void CpuBackend::average_linkage(Tensor& similarity, Tensor& merges) {
  const int64_t n = similarity.dim(0);
  if (similarity.dtype() == DType::f64)
    nearest_neighbour_chain(similarity.data<double>(), n, merges.data<double>());
  else
    nearest_neighbour_chain(similarity.data<float>(), n, merges.data<float>());
}

}  // namespace facet
