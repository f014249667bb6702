// Symmetric eigenvalues and average-linkage clustering.
#include <functional>
#include <numeric>

#include "tensor/cpu/blas.h"
#include "tensor/cpu/cpu_backend.h"
#include "tensor/cpu/loops.h"

namespace facet {

using namespace cpu;

namespace {

template <typename F>
void dispatch_solver(const Tensor& x, const char* op, F&& f) {
  if (x.dtype() == DType::f32) return f(float{});
  FACET_CHECK(x.dtype() == DType::f64, op, "expected f32 or f64, got {}", name(x.dtype()));
  f(double{});
}

// Agglomerative clustering by the nearest-neighbour chain (Murtagh 1983): follow nearest
// neighbours until two clusters are each other's, merge them, go on from what is left of the
// chain. Average linkage is reducible, so the chain stays valid and the merges are those of the
// greedy algorithm in another order. O(n^2) time, in place.
template <typename T>
class NearestNeighbourChain {
 public:
  NearestNeighbourChain(T* similarity, int64_t n)
      : matrix_(similarity),
        n_(n),
        stride_(n),
        alive_(n),
        size_(static_cast<size_t>(n), T(1)),
        dead_(static_cast<size_t>(n), T(0)) {}

  // The similarities of the n - 1 merges, as they are found.
  void run(T* merges) {
    std::vector<int64_t> chain;
    while (alive_ > 1) {
      if (chain.empty())
        chain.push_back(std::find(dead_.begin(), dead_.end(), T(0)) - dead_.begin());
      const int64_t a = chain.back();
      const int64_t before = chain.size() > 1 ? chain[chain.size() - 2] : -1;
      const int64_t b = nearest(a, before);
      if (b != before) {
        chain.push_back(b);
        continue;
      }
      chain.resize(chain.size() - 2);
      *merges++ = matrix_[a * stride_ + b];
      merge(std::min(a, b), std::max(a, b));
      if (4 * alive_ <= 3 * n_ && n_ > 64) compact(chain);
    }
  }

 private:
  // The cluster most similar to a. Of equals: `before`, or the chain could run in a circle; else
  // the first.
  int64_t nearest(int64_t a, int64_t before) {
    T* row = matrix_ + a * stride_;
    const T* dead = dead_.data();
    row[a] = -std::numeric_limits<T>::infinity();
    const T best = max_term<T>(n_, [=](int64_t i) { return row[i] + dead[i]; });
    if (before >= 0 && row[before] == best && std::isfinite(best)) return before;
    int64_t first = 0;  // clang's maximum of NaNs is any number
    while (first < n_ && row[first] + dead[first] != best) ++first;
    FACET_CHECK(std::isfinite(best) && first < n_, "average_linkage",
                "expected finite similarities, got a NaN or an infinity");
    return first;
  }

  // The union takes b's place: s(a + b, c) = (|a| s(a, c) + |b| s(b, c)) / (|a| + |b|).
  void merge(int64_t a, int64_t b) {
    T &size_a = size_[static_cast<size_t>(a)], &size_b = size_[static_cast<size_t>(b)];
    const T share_a = size_a / (size_a + size_b), share_b = size_b / (size_a + size_b);
    size_b += size_a;
    dead_[static_cast<size_t>(a)] = -std::numeric_limits<T>::infinity();
    --alive_;
    const T* row_a = matrix_ + a * stride_;
    T *row_b = matrix_ + b * stride_, *column_b = matrix_ + b;
#pragma omp simd
    for (int64_t c = 0; c < n_; ++c) row_b[c] = share_a * row_a[c] + share_b * row_b[c];
    for (int64_t c = 0; c < n_; ++c)
      if (dead_[static_cast<size_t>(c)] == T(0)) column_b[c * stride_] = row_b[c];
  }

  // Drops the rows and columns of the dead; the living keep their order. Every element moves
  // towards the front, past those that have moved, so this works in place.
  void compact(std::vector<int64_t>& chain) {
    std::vector<int64_t> kept, position;
    for (int64_t i = 0; i < n_; ++i) {
      position.push_back(static_cast<int64_t>(kept.size()));
      if (dead_[static_cast<size_t>(i)] == T(0)) kept.push_back(i);
    }
    // An odd number of cache lines a row: a column would fall into few sets of the cache else.
    constexpr int64_t kLine = 64 / sizeof(T);
    const int64_t stride = std::min(stride_, ((alive_ + kLine - 1) / kLine | 1) * kLine);
    for (int64_t i = 0; i < alive_; ++i) {
      const int64_t source = kept[static_cast<size_t>(i)];
      const T* from = matrix_ + source * stride_;
      T* to = matrix_ + i * stride;
      for (int64_t j = 0; j < alive_; ++j) to[j] = from[kept[static_cast<size_t>(j)]];
      size_[static_cast<size_t>(i)] = size_[static_cast<size_t>(source)];
    }
    for (int64_t& link : chain) link = position[static_cast<size_t>(link)];
    n_ = alive_;
    stride_ = stride;
    dead_.assign(static_cast<size_t>(n_), T(0));
  }

  T* matrix_;
  int64_t n_;       // clusters in the matrix, the dead ones too
  int64_t stride_;  // elements from a row to the next
  int64_t alive_;
  std::vector<T> size_;
  std::vector<T> dead_;  // 0, or -infinity for the dead: added to similarities
};

}  // namespace

void CpuBackend::eigvalsh(const Tensor& matrix, Tensor& values) {
  Tensor work = matrix.clone();  // LAPACK overwrites it
  dispatch_solver(matrix, "eigvalsh", [&](auto tag) {
    using T = decltype(tag);
    blas::symmetric_eigenvalues(matrix.dim(0), work.data<T>(), values.data<T>());
  });
}

void CpuBackend::average_linkage(std::span<Tensor> similarities, std::span<Tensor> merges) {
  // A thread a matrix, the largest first: thread p takes p, p + threads, ... in that order.
  const auto count = static_cast<int64_t>(similarities.size());
  std::vector<size_t> order(similarities.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return similarities[a].numel() > similarities[b].numel();
  });
  const int64_t threads = std::min<int64_t>(num_threads(), count);
  dispatch_solver(similarities[0], "average_linkage", [&](auto tag) {
    using T = decltype(tag);
    parallel_for(threads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p)
        for (int64_t k = p; k < count; k += threads) {
          const size_t i = order[static_cast<size_t>(k)];
          T* found = merges[i].data<T>();
          NearestNeighbourChain<T>(similarities[i].data<T>(), similarities[i].dim(0)).run(found);
          std::sort(found, found + merges[i].numel(), std::greater<T>());
        }
    });
  });
}

}  // namespace facet
