// Kernels over rows x C: normalisation to unit length, softmax, cross entropy and contrastive
// losses.
#include "tensor/cpu/cpu_backend.h"
#include "tensor/cpu/loops.h"

namespace facet {

using namespace cpu;

namespace {

// log sum_k exp(x_k) = largest + log_sum.
template <typename A>
struct LogSumExp {
  A largest, sum, log_sum;
};

template <typename T, typename A = acc_t<T>>
LogSumExp<A> log_sum_exp(const T* x, int64_t cols, A scale = 1) {
  const A largest = max_term<A>(cols, [=](int64_t i) { return widen(x[i]); });
  const A sum =
      sum_terms<A>(0, cols, [=](int64_t i) { return std::exp(scale * (widen(x[i]) - largest)); });
  return {largest, sum, std::log(sum)};
}

int64_t target_row(const Tensor& target_rows, int64_t row) {
  return target_rows.defined() ? target_rows.data<int64_t>()[row] : row;
}

}  // namespace

void CpuBackend::l2_normalize(const Tensor& x, double eps, Tensor& y, Tensor& norm) {
  for_each_row(x, "l2_normalize", [&]<typename T>(T, int64_t row, int64_t cols) {
    using A = acc_t<T>;
    const T* from = x.data<T>() + row * cols;
    T* to = y.data<T>() + row * cols;
    const A length = std::sqrt(
        sum_terms<A>(0, cols, [=](int64_t i) { return widen(from[i]) * widen(from[i]); }));
    const A factor = A(1) / std::max(length, static_cast<A>(eps));
#pragma omp simd
    for (int64_t i = 0; i < cols; ++i) to[i] = static_cast<T>(widen(from[i]) * factor);
    norm.data<A>()[row] = length;
  });
}

// With r = max(|x|, eps): dx = (dy - y (y . dy)) / r, and dy / r where eps decided.
void CpuBackend::l2_normalize_backward(const Tensor& y, const Tensor& norm, const Tensor& dy,
                                       double eps, Tensor& dx) {
  for_each_row(y, "l2_normalize_backward", [&]<typename T>(T, int64_t row, int64_t cols) {
    using A = acc_t<T>;
    const T *unit = y.data<T>() + row * cols, *grad = dy.data<T>() + row * cols;
    T* to = dx.data<T>() + row * cols;
    const A length = norm.data<A>()[row], floor = static_cast<A>(eps);
    const A factor = A(1) / std::max(length, floor);
    A dot = 0;
    if (length > floor)
      dot = sum_terms<A>(0, cols, [=](int64_t i) { return widen(unit[i]) * widen(grad[i]); });
#pragma omp simd
    for (int64_t i = 0; i < cols; ++i)
      to[i] = static_cast<T>((widen(grad[i]) - widen(unit[i]) * dot) * factor);
  });
}

void CpuBackend::softmax(const Tensor& x, bool log, Tensor& y) {
  for_each_row(x, "softmax", [&]<typename T>(T, int64_t row, int64_t cols) {
    using A = acc_t<T>;
    const T* from = x.data<T>() + row * cols;
    T* to = y.data<T>() + row * cols;
    const LogSumExp<A> lse = log_sum_exp(from, cols);
    if (log) {
#pragma omp simd
      for (int64_t i = 0; i < cols; ++i)
        to[i] = static_cast<T>(widen(from[i]) - lse.largest - lse.log_sum);
    } else {
      const A factor = A(1) / lse.sum;
#pragma omp simd
      for (int64_t i = 0; i < cols; ++i)
        to[i] = static_cast<T>(std::exp(widen(from[i]) - lse.largest) * factor);
    }
  });
}

// dx = y (dy - sum y dy); of the logarithm: dx = dy - exp(y) sum dy.
void CpuBackend::softmax_backward(const Tensor& y, const Tensor& dy, bool log, Tensor& dx) {
  for_each_row(y, "softmax_backward", [&]<typename T>(T, int64_t row, int64_t cols) {
    using A = acc_t<T>;
    const T *out = y.data<T>() + row * cols, *grad = dy.data<T>() + row * cols;
    T* to = dx.data<T>() + row * cols;
    if (log) {
      const A sum = sum_terms<A>(0, cols, [=](int64_t i) { return widen(grad[i]); });
#pragma omp simd
      for (int64_t i = 0; i < cols; ++i)
        to[i] = static_cast<T>(widen(grad[i]) - std::exp(widen(out[i])) * sum);
    } else {
      const A dot =
          sum_terms<A>(0, cols, [=](int64_t i) { return widen(out[i]) * widen(grad[i]); });
#pragma omp simd
      for (int64_t i = 0; i < cols; ++i)
        to[i] = static_cast<T>(widen(out[i]) * (widen(grad[i]) - dot));
    }
  });
}

void CpuBackend::cross_entropy(const Tensor& logits, const Tensor& labels, double smoothing,
                               Tensor& loss, Tensor& lse) {
  for_each_row(logits, "cross_entropy", [&]<typename T>(T, int64_t row, int64_t cols) {
    using A = acc_t<T>;
    const A rest = static_cast<A>(smoothing);
    const T* x = logits.data<T>() + row * cols;
    const LogSumExp<A> sums = log_sum_exp(x, cols);
    const A largest = sums.largest;
    const int64_t label = labels.data<int64_t>()[row];
    A value = 0;
    if (label >= 0) {
      // Shifted by the largest logit, so that nothing large cancels.
      value = sums.log_sum - (A(1) - rest) * (widen(x[label]) - largest);
      if (smoothing > 0.0)
        value -= rest / static_cast<A>(cols) *
                 sum_terms<A>(0, cols, [=](int64_t i) { return widen(x[i]) - largest; });
    }
    loss.data<A>()[row] = value;
    lse.data<A>()[row] = largest + sums.log_sum;
  });
}

// d logits = dloss (softmax - target).
void CpuBackend::cross_entropy_backward(const Tensor& logits, const Tensor& labels,
                                        double smoothing, const Tensor& lse, const Tensor& dloss,
                                        Tensor& dlogits) {
  for_each_row(logits, "cross_entropy_backward", [&]<typename T>(T, int64_t row, int64_t cols) {
    using A = acc_t<T>;
    const A rest = static_cast<A>(smoothing), uniform = rest / static_cast<A>(cols);
    const T* x = logits.data<T>() + row * cols;
    T* to = dlogits.data<T>() + row * cols;
    const int64_t label = labels.data<int64_t>()[row];
    if (label < 0) {
      std::fill(to, to + cols, T(0.0f));
      return;
    }
    const A shift = lse.data<A>()[row], factor = dloss.data<A>()[row];
#pragma omp simd
    for (int64_t i = 0; i < cols; ++i)
      to[i] = static_cast<T>(factor * (std::exp(widen(x[i]) - shift) - uniform));
    const A likelihood = std::exp(widen(x[label]) - shift);
    to[label] = static_cast<T>(factor * (likelihood - uniform - (A(1) - rest)));
  });
}

void CpuBackend::soft_cross_entropy(const Tensor& logits, double scale, const Tensor& targets,
                                    const Tensor& target_rows, Tensor& loss, Tensor& lse) {
  for_each_row(logits, "soft_cross_entropy", [&]<typename T>(T, int64_t row, int64_t cols) {
    using A = acc_t<T>;
    const A s = static_cast<A>(scale);
    const T* x = logits.data<T>() + row * cols;
    const T* target = targets.data<T>() + target_row(target_rows, row) * cols;
    const LogSumExp<A> sums = log_sum_exp(x, cols, s);
    const A largest = sums.largest, log_sum = sums.log_sum;
    loss.data<A>()[row] = sum_terms<A>(0, cols, [=](int64_t i) {
      return widen(target[i]) * (log_sum - s * (widen(x[i]) - largest));
    });
    lse.data<A>()[row] = s * largest + log_sum;
  });
}

// d logits = dloss scale (softmax sum(target) - target).
void CpuBackend::soft_cross_entropy_backward(const Tensor& logits, double scale,
                                             const Tensor& targets, const Tensor& target_rows,
                                             const Tensor& lse, const Tensor& dloss,
                                             Tensor& dlogits) {
  for_each_row(
      logits, "soft_cross_entropy_backward", [&]<typename T>(T, int64_t row, int64_t cols) {
        using A = acc_t<T>;
        const A s = static_cast<A>(scale);
        const T* x = logits.data<T>() + row * cols;
        const T* target = targets.data<T>() + target_row(target_rows, row) * cols;
        T* to = dlogits.data<T>() + row * cols;
        const A shift = lse.data<A>()[row], factor = s * dloss.data<A>()[row];
        const A total = sum_terms<A>(0, cols, [=](int64_t i) { return widen(target[i]); });
#pragma omp simd
        for (int64_t i = 0; i < cols; ++i)
          to[i] = static_cast<T>(factor *
                                 (std::exp(s * widen(x[i]) - shift) * total - widen(target[i])));
      });
}

namespace {

// One anchor and its candidates: which columns count, and which are positives.
struct Candidates {
  const int64_t* labels;
  int64_t label, self;  // self: a column, or one that does not exist
  bool counts(int64_t i) const { return i != self; }
  bool is_positive(int64_t i) const { return labels[i] == label && i != self; }
};
Candidates candidates_of(const Tensor& row_labels, const Tensor& column_labels, int64_t self,
                         int64_t row) {
  return {column_labels.data<int64_t>(), row_labels.data<int64_t>()[row],
          self < 0 ? -1 : row + self};
}

}  // namespace

void CpuBackend::contrastive_loss(const Tensor& logits, const Tensor& positive,
                                  const Tensor& row_labels, const Tensor& column_labels,
                                  int64_t self, Tensor& loss, Tensor& lse) {
  for_each_row(logits, "contrastive_loss", [&]<typename T>(T, int64_t row, int64_t cols) {
    using A = acc_t<T>;
    const A lowest = -std::numeric_limits<A>::infinity();
    const T* x = logits.data<T>() + row * cols;
    const Candidates c = candidates_of(row_labels, column_labels, self, row);
    const A beside = positive.defined() ? widen(positive.data<T>()[row]) : lowest;
    const A largest = std::max(
        beside, max_term<A>(cols, [=](int64_t i) { return c.counts(i) ? widen(x[i]) : lowest; }));
    A sum = sum_terms<A>(
        0, cols, [=](int64_t i) { return c.counts(i) ? std::exp(widen(x[i]) - largest) : A(0); });
    A positives = sum_terms<A>(
        0, cols, [=](int64_t i) { return c.is_positive(i) ? widen(x[i]) - largest : A(0); });
    A count = sum_terms<A>(0, cols, [=](int64_t i) { return A(c.is_positive(i)); });
    if (positive.defined()) {
      sum += std::exp(beside - largest);
      positives += beside - largest;
      count += 1;
    }
    const A log_sum = std::log(sum);
    loss.data<A>()[row] = count > 0 ? log_sum - positives / count : A(0);
    lse.data<A>()[row] = largest + log_sum;
  });
}

// d logits = dloss (softmax - [positive] / |P|)
void CpuBackend::contrastive_loss_backward(const Tensor& logits, const Tensor& positive,
                                           const Tensor& row_labels, const Tensor& column_labels,
                                           int64_t self, const Tensor& lse, const Tensor& dloss,
                                           Tensor& dlogits, Tensor& dpositive) {
  for_each_row(logits, "contrastive_loss_backward", [&]<typename T>(T, int64_t row, int64_t cols) {
    using A = acc_t<T>;
    const T* x = logits.data<T>() + row * cols;
    T* to = dlogits.data<T>() + row * cols;
    const Candidates c = candidates_of(row_labels, column_labels, self, row);
    const A count = sum_terms<A>(0, cols, [=](int64_t i) { return A(c.is_positive(i)); }) +
                    (positive.defined() ? A(1) : A(0));
    const A factor = count > 0 ? dloss.data<A>()[row] : A(0);
    const A share = count > 0 ? A(1) / count : A(0), shift = lse.data<A>()[row];
#pragma omp simd
    for (int64_t i = 0; i < cols; ++i) {
      const A softmax = c.counts(i) ? std::exp(widen(x[i]) - shift) : A(0);
      to[i] = static_cast<T>(factor * (softmax - (c.is_positive(i) ? share : A(0))));
    }
    if (positive.defined())
      dpositive.data<T>()[row] =
          static_cast<T>(factor * (std::exp(widen(positive.data<T>()[row]) - shift) - share));
  });
}

}  // namespace facet
