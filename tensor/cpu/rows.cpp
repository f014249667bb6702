// Row-wise kernels: L2 normalisation, softmax and cross entropy.
#include <algorithm>
#include <cmath>
#include <limits>

#include "tensor/cpu/cpu_backend.h"
#include "tensor/parallel.h"

namespace facet {
namespace {

constexpr int64_t kGrain = 1 << 13;

// Calls body(row) for every row of x in parallel.
template <typename Body>
void for_rows(const Tensor& x, Body body) {
  parallel_for(x.rows(), std::max<int64_t>(1, kGrain / std::max<int64_t>(1, x.cols())),
               [&](int64_t begin, int64_t end) {
                 for (int64_t r = begin; r < end; ++r) body(r);
               });
}

// Sum of f(i) over a row in 16 lanes: accurate to a few ulps and vectorisable.
template <typename A, typename F>
A row_sum(int64_t n, F f) {
  constexpr int kLanes = 16;
  A lane[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) lane[l] += f(i + l);
  for (int l = 0; i < n; ++i, ++l) lane[l] += f(i);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int l = 0; l < width; ++l) lane[l] += lane[l + width];
  return lane[0];
}

template <typename A, typename T>
A row_max(const T* x, int64_t n) {
  A best = -std::numeric_limits<A>::infinity();
#pragma omp simd reduction(max : best)
  for (int64_t i = 0; i < n; ++i) best = A(x[i]) > best ? A(x[i]) : best;
  return best;
}

template <typename A, typename T>
A log_sum_exp(const T* x, int64_t n) {
  const A high = row_max<A>(x, n);
  // All -inf: the sum is empty. +inf or NaN come out as they should from the arithmetic.
  if (high == -std::numeric_limits<A>::infinity()) return high;
  return high + std::log(row_sum<A>(n, [=](int64_t i) { return std::exp(A(x[i]) - high); }));
}

}  // namespace

void CpuBackend::l2_normalize(const Tensor& x, double eps, Tensor& y, Tensor& norm) {
  dispatch_floating(x.dtype(), "l2_normalize", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const int64_t cols = x.cols();
    const T* from = x.data<T>();
    T* to = y.data<T>();
    A* norms = norm.data<A>();
    for_rows(x, [=](int64_t r) {
      const T* row = from + r * cols;
      const A length = std::sqrt(row_sum<A>(cols, [=](int64_t i) { return A(row[i]) * A(row[i]); }));
      norms[r] = length;
      const A scale = A(1) / std::max(length, static_cast<A>(eps));
#pragma omp simd
      for (int64_t i = 0; i < cols; ++i) to[r * cols + i] = T(A(row[i]) * scale);
    });
  });
}

// y = x / max(|x|, eps): dx = (dy - y <y, dy>) / |x| above eps, dy / eps below it.
void CpuBackend::l2_normalize_backward(const Tensor& y, const Tensor& norm, const Tensor& dy,
                                       double eps, Tensor& dx) {
  dispatch_floating(y.dtype(), "l2_normalize_backward", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const int64_t cols = y.cols();
    const T *py = y.data<T>(), *pg = dy.data<T>();
    const A* norms = norm.data<A>();
    T* to = dx.data<T>();
    for_rows(y, [=](int64_t r) {
      const T *u = py + r * cols, *g = pg + r * cols;
      const bool clipped = norms[r] <= static_cast<A>(eps);
      const A scale = A(1) / std::max(norms[r], static_cast<A>(eps));
      const A dot =
          clipped ? A(0) : row_sum<A>(cols, [=](int64_t i) { return A(u[i]) * A(g[i]); });
#pragma omp simd
      for (int64_t i = 0; i < cols; ++i) to[r * cols + i] = T((A(g[i]) - A(u[i]) * dot) * scale);
    });
  });
}

void CpuBackend::softmax(const Tensor& x, bool log, Tensor& y) {
  dispatch_floating(x.dtype(), "softmax", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const int64_t cols = x.cols();
    const T* from = x.data<T>();
    T* to = y.data<T>();
    for_rows(x, [=](int64_t r) {
      const T* row = from + r * cols;
      const A lse = log_sum_exp<A>(row, cols);
      for (int64_t i = 0; i < cols; ++i) {
        const A v = A(row[i]) - lse;
        to[r * cols + i] = T(log ? v : std::exp(v));
      }
    });
  });
}

// softmax: dx = y (dy - <y, dy>); log softmax: dx = dy - exp(y) sum(dy).
void CpuBackend::softmax_backward(const Tensor& y, const Tensor& dy, bool log, Tensor& dx) {
  dispatch_floating(y.dtype(), "softmax_backward", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const int64_t cols = y.cols();
    const T *py = y.data<T>(), *pg = dy.data<T>();
    T* to = dx.data<T>();
    for_rows(y, [=](int64_t r) {
      const T *p = py + r * cols, *g = pg + r * cols;
      T* out = to + r * cols;
      if (log) {
        const A sum = row_sum<A>(cols, [=](int64_t i) { return A(g[i]); });
        for (int64_t i = 0; i < cols; ++i) out[i] = T(A(g[i]) - std::exp(A(p[i])) * sum);
      } else {
        const A dot = row_sum<A>(cols, [=](int64_t i) { return A(p[i]) * A(g[i]); });
        for (int64_t i = 0; i < cols; ++i) out[i] = T(A(p[i]) * (A(g[i]) - dot));
      }
    });
  });
}

// With t = (1-s) onehot + s/C:  loss = lse - (1-s) x_label - s/C sum(x).
void CpuBackend::cross_entropy(const Tensor& logits, const Tensor& labels, double smoothing,
                               Tensor& loss, Tensor& lse) {
  dispatch_floating(logits.dtype(), "cross_entropy", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const int64_t cols = logits.cols();
    const T* x = logits.data<T>();
    const int64_t* label = labels.data<int64_t>();
    A *out = loss.data<A>(), *kept = lse.data<A>();
    const A s = static_cast<A>(smoothing);
    for_rows(logits, [=](int64_t r) {
      const T* row = x + r * cols;
      kept[r] = log_sum_exp<A>(row, cols);
      if (label[r] < 0) {
        out[r] = A(0);
        return;
      }
      // As differences from lse, so that large logits do not cancel.
      const A hit = kept[r] - A(row[label[r]]);
      const A rest = s == A(0) ? A(0)
                               : row_sum<A>(cols, [=](int64_t i) { return kept[r] - A(row[i]); }) /
                                     static_cast<A>(cols);
      out[r] = (A(1) - s) * hit + s * rest;
    });
  });
}

void CpuBackend::cross_entropy_backward(const Tensor& logits, const Tensor& labels,
                                        double smoothing, const Tensor& lse, const Tensor& dloss,
                                        Tensor& dlogits) {
  dispatch_floating(logits.dtype(), "cross_entropy_backward", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const int64_t cols = logits.cols();
    const T* x = logits.data<T>();
    const int64_t* label = labels.data<int64_t>();
    const A *kept = lse.data<A>(), *g = dloss.data<A>();
    T* to = dlogits.data<T>();
    const A on = static_cast<A>(1.0 - smoothing), off = static_cast<A>(smoothing) / static_cast<A>(cols);
    for_rows(logits, [=](int64_t r) {
      T* out = to + r * cols;
      if (label[r] < 0) {
        std::fill(out, out + cols, T(0.0f));
        return;
      }
      for (int64_t i = 0; i < cols; ++i) {
        const A target = off + (i == label[r] ? on : A(0));
        out[i] = T(g[r] * (std::exp(A(x[r * cols + i]) - kept[r]) - target));
      }
    });
  });
}

// loss = sum_k t_k (lse - x_k)
void CpuBackend::soft_cross_entropy(const Tensor& logits, const Tensor& targets, Tensor& loss,
                                    Tensor& lse) {
  dispatch_floating(logits.dtype(), "soft_cross_entropy", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const int64_t cols = logits.cols();
    const T *x = logits.data<T>(), *t = targets.data<T>();
    A *out = loss.data<A>(), *kept = lse.data<A>();
    for_rows(logits, [=](int64_t r) {
      const T *row = x + r * cols, *target = t + r * cols;
      const A high = log_sum_exp<A>(row, cols);
      kept[r] = high;
      out[r] = row_sum<A>(cols, [=](int64_t i) { return A(target[i]) * (high - A(row[i])); });
    });
  });
}

void CpuBackend::soft_cross_entropy_backward(const Tensor& logits, const Tensor& targets,
                                             const Tensor& lse, const Tensor& dloss,
                                             Tensor& dlogits) {
  dispatch_floating(logits.dtype(), "soft_cross_entropy_backward", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const int64_t cols = logits.cols();
    const T *x = logits.data<T>(), *t = targets.data<T>();
    const A *kept = lse.data<A>(), *g = dloss.data<A>();
    T* to = dlogits.data<T>();
    for_rows(logits, [=](int64_t r) {
      const T *row = x + r * cols, *target = t + r * cols;
      const A mass = row_sum<A>(cols, [=](int64_t i) { return A(target[i]); });
      for (int64_t i = 0; i < cols; ++i)
        to[r * cols + i] = T(g[r] * (std::exp(A(row[i]) - kept[r]) * mass - A(target[i])));
    });
  });
}

}  // namespace facet
