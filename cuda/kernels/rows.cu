// Kernels over rows x C: normalisation to unit length, softmax, cross entropy and contrastive
// losses. A block takes rows in strides; sums are kept in acc precision.
#include "cuda/kernels/common.cuh"

namespace facet {

using namespace cuda;

namespace {

// sum of term(i) over the row's columns, in every thread
template <typename A, typename Term>
__device__ A row_sum(int64_t cols, A* scratch, Term term) {
  A sum = 0;
  for (int64_t i = threadIdx.x; i < cols; i += blockDim.x) sum += term(i);
  return block_sum(sum, scratch);
}

// log sum_k exp(x_k) = largest + log(sum)
template <typename A>
struct LogSumExp {
  A largest, sum;
};
template <typename T, typename A = acc_t<T>>
__device__ LogSumExp<A> log_sum_exp(const T* x, int64_t cols, A* scratch, A scale = 1) {
  const A lowest = -std::numeric_limits<A>::infinity();
  A largest = lowest;
  for (int64_t i = threadIdx.x; i < cols; i += blockDim.x) largest = Max{}(largest, widen(x[i]));
  largest = block_reduce(largest, Max{}, lowest, scratch);
  const A sum = row_sum<A>(cols, scratch,
                           [=](int64_t i) { return std::exp(scale * (widen(x[i]) - largest)); });
  return {largest, sum};
}

// y = x / max(|x|, eps); norm (rows)
template <typename T>
__global__ void l2_normalize_kernel(const T* x, int64_t rows, int64_t cols, acc_t<T> eps, T* y,
                                    acc_t<T>* norm) {
  using A = acc_t<T>;
  SHARED_ARRAY(A, scratch, 32);
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* const from = x + row * cols;
    const A length = std::sqrt(
        row_sum<A>(cols, scratch, [=](int64_t i) { return widen(from[i]) * widen(from[i]); }));
    const A factor = A(1) / (length > eps ? length : eps);
    for (int64_t i = threadIdx.x; i < cols; i += blockDim.x)
      y[row * cols + i] = static_cast<T>(widen(from[i]) * factor);
    if (threadIdx.x == 0) norm[row] = length;
  }
}

// With r = max(|x|, eps): dx = (dy - y (y . dy)) / r, and dy / r where eps decided.
template <typename T>
__global__ void l2_normalize_backward_kernel(const T* y, const acc_t<T>* norm, const T* dy,
                                             int64_t rows, int64_t cols, acc_t<T> eps, T* dx) {
  using A = acc_t<T>;
  SHARED_ARRAY(A, scratch, 32);
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T *const unit = y + row * cols, *const grad = dy + row * cols;
    const A length = norm[row], factor = A(1) / (length > eps ? length : eps);
    A dot = row_sum<A>(cols, scratch, [=](int64_t i) { return widen(unit[i]) * widen(grad[i]); });
    if (!(length > eps)) dot = 0;
    for (int64_t i = threadIdx.x; i < cols; i += blockDim.x)
      dx[row * cols + i] = static_cast<T>((widen(grad[i]) - widen(unit[i]) * dot) * factor);
  }
}

template <typename T>
__global__ void softmax_kernel(const T* x, int64_t rows, int64_t cols, bool log, T* y) {
  using A = acc_t<T>;
  SHARED_ARRAY(A, scratch, 32);
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* const from = x + row * cols;
    const LogSumExp<A> lse = log_sum_exp(from, cols, scratch);
    const A log_sum = std::log(lse.sum), factor = A(1) / lse.sum;
    for (int64_t i = threadIdx.x; i < cols; i += blockDim.x) {
      const A shifted = widen(from[i]) - lse.largest;
      y[row * cols + i] = static_cast<T>(log ? shifted - log_sum : std::exp(shifted) * factor);
    }
  }
}

// dx = y (dy - sum y dy); of the logarithm: dx = dy - exp(y) sum dy.
template <typename T>
__global__ void softmax_backward_kernel(const T* y, const T* dy, int64_t rows, int64_t cols,
                                        bool log, T* dx) {
  using A = acc_t<T>;
  SHARED_ARRAY(A, scratch, 32);
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T *const out = y + row * cols, *const grad = dy + row * cols;
    const A sum = row_sum<A>(cols, scratch, [=](int64_t i) {
      return log ? widen(grad[i]) : widen(out[i]) * widen(grad[i]);
    });
    for (int64_t i = threadIdx.x; i < cols; i += blockDim.x) {
      const A g = widen(grad[i]), o = widen(out[i]);
      dx[row * cols + i] = static_cast<T>(log ? g - std::exp(o) * sum : o * (g - sum));
    }
  }
}

// loss, lse (rows); see backend.def
template <typename T>
__global__ void cross_entropy_kernel(const T* logits, const int64_t* labels, int64_t rows,
                                     int64_t cols, acc_t<T> smoothing, acc_t<T>* loss,
                                     acc_t<T>* lse) {
  using A = acc_t<T>;
  SHARED_ARRAY(A, scratch, 32);
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* const x = logits + row * cols;
    const LogSumExp<A> sums = log_sum_exp(x, cols, scratch);
    const A largest = sums.largest, log_sum = std::log(sums.sum);
    A rest = 0;
    if (smoothing > A(0))  // the same for all threads
      rest = smoothing / static_cast<A>(cols) *
             row_sum<A>(cols, scratch, [=](int64_t i) { return widen(x[i]) - largest; });
    if (threadIdx.x == 0) {
      const int64_t label = labels[row];
      // Shifted by the largest logit, so that nothing large cancels.
      loss[row] =
          label < 0 ? A(0) : log_sum - (A(1) - smoothing) * (widen(x[label]) - largest) - rest;
      lse[row] = largest + log_sum;
    }
  }
}

// d logits = dloss (softmax - target)
template <typename T>
__global__ void cross_entropy_backward_kernel(const T* logits, const int64_t* labels, int64_t rows,
                                              int64_t cols, acc_t<T> smoothing, const acc_t<T>* lse,
                                              const acc_t<T>* dloss, T* dlogits) {
  using A = acc_t<T>;
  const A uniform = smoothing / static_cast<A>(cols);
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const int64_t label = labels[row];
    const A shift = lse[row], factor = dloss[row];
    for (int64_t i = threadIdx.x; i < cols; i += blockDim.x) {
      A value = 0;
      if (label >= 0) {
        value = std::exp(widen(logits[row * cols + i]) - shift) - uniform;
        if (i == label) value -= A(1) - smoothing;
        value *= factor;
      }
      dlogits[row * cols + i] = static_cast<T>(value);
    }
  }
}

// What soft cross entropies read; see backend.def. target_rows: undefined is nullptr.
template <typename T>
struct SoftTargets {
  const T *logits, *targets;
  const int64_t* target_rows;
  int64_t rows, cols;
  acc_t<T> scale;

  __device__ const T* target_of(int64_t row) const {
    return targets + (target_rows ? target_rows[row] : row) * cols;
  }
};

template <typename T>
__global__ void soft_cross_entropy_kernel(const __grid_constant__ SoftTargets<T> p, acc_t<T>* loss,
                                          acc_t<T>* lse) {
  using A = acc_t<T>;
  SHARED_ARRAY(A, scratch, 32);
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const T *const x = p.logits + row * p.cols, *const target = p.target_of(row);
    const LogSumExp<A> sums = log_sum_exp(x, p.cols, scratch, p.scale);
    const A largest = sums.largest, log_sum = std::log(sums.sum), scale = p.scale;
    const A value = row_sum<A>(p.cols, scratch, [=](int64_t i) {
      return widen(target[i]) * (log_sum - scale * (widen(x[i]) - largest));
    });
    if (threadIdx.x == 0) {
      loss[row] = value;
      lse[row] = scale * largest + log_sum;
    }
  }
}

// d logits = dloss scale (softmax sum(target) - target)
template <typename T>
__global__ void soft_cross_entropy_backward_kernel(const __grid_constant__ SoftTargets<T> p,
                                                   const acc_t<T>* lse, const acc_t<T>* dloss,
                                                   T* dlogits) {
  using A = acc_t<T>;
  SHARED_ARRAY(A, scratch, 32);
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const T *const x = p.logits + row * p.cols, *const target = p.target_of(row);
    const A total = row_sum<A>(p.cols, scratch, [=](int64_t i) { return widen(target[i]); });
    const A shift = lse[row], factor = p.scale * dloss[row];
    for (int64_t i = threadIdx.x; i < p.cols; i += blockDim.x)
      dlogits[row * p.cols + i] = static_cast<T>(
          factor * (std::exp(p.scale * widen(x[i]) - shift) * total - widen(target[i])));
  }
}

// What contrastive losses know of their columns; see backend.def. positive: undefined is nullptr.
template <typename T>
struct Contrast {
  const T *logits, *positive;
  const int64_t *row_labels, *column_labels;
  int64_t self, rows, cols;

  __device__ bool counts(int64_t row, int64_t i) const { return self < 0 || i != row + self; }
  __device__ bool is_positive(int64_t row, int64_t i) const {
    return column_labels[i] == row_labels[row] && counts(row, i);
  }
};

template <typename T>
__global__ void contrastive_loss_kernel(const __grid_constant__ Contrast<T> c, acc_t<T>* loss,
                                        acc_t<T>* lse) {
  using A = acc_t<T>;
  SHARED_ARRAY(A, scratch, 32);
  for (int64_t row = blockIdx.x; row < c.rows; row += gridDim.x) {
    const T* const x = c.logits + row * c.cols;
    const A lowest = -std::numeric_limits<A>::infinity();
    const A beside = c.positive ? widen(c.positive[row]) : lowest;
    A largest = beside;
    for (int64_t i = threadIdx.x; i < c.cols; i += blockDim.x)
      if (c.counts(row, i)) largest = Max{}(largest, widen(x[i]));
    largest = block_reduce(largest, Max{}, lowest, scratch);
    A sum = row_sum<A>(c.cols, scratch, [&](int64_t i) {
      return c.counts(row, i) ? std::exp(widen(x[i]) - largest) : A(0);
    });
    A positives = row_sum<A>(c.cols, scratch, [&](int64_t i) {
      return c.is_positive(row, i) ? widen(x[i]) - largest : A(0);
    });
    A count =
        row_sum<A>(c.cols, scratch, [&](int64_t i) { return A(c.is_positive(row, i) ? 1 : 0); });
    if (c.positive) {
      sum += std::exp(beside - largest);
      positives += beside - largest;
      count += A(1);
    }
    if (threadIdx.x == 0) {
      const A log_sum = std::log(sum);
      loss[row] = count > A(0) ? log_sum - positives / count : A(0);
      lse[row] = largest + log_sum;
    }
  }
}

// d logits = dloss (softmax - [positive] / |P|)
template <typename T>
__global__ void contrastive_loss_backward_kernel(const __grid_constant__ Contrast<T> c,
                                                 const acc_t<T>* lse, const acc_t<T>* dloss,
                                                 T* dlogits, T* dpositive) {
  using A = acc_t<T>;
  SHARED_ARRAY(A, scratch, 32);
  for (int64_t row = blockIdx.x; row < c.rows; row += gridDim.x) {
    const A count =
        row_sum<A>(c.cols, scratch, [&](int64_t i) { return A(c.is_positive(row, i) ? 1 : 0); }) +
        (c.positive ? A(1) : A(0));
    const A factor = count > A(0) ? dloss[row] : A(0), shift = lse[row];
    const A share = count > A(0) ? A(1) / count : A(0);
    for (int64_t i = threadIdx.x; i < c.cols; i += blockDim.x) {
      const A softmax =
          c.counts(row, i) ? std::exp(widen(c.logits[row * c.cols + i]) - shift) : A(0);
      dlogits[row * c.cols + i] =
          static_cast<T>(factor * (softmax - (c.is_positive(row, i) ? share : A(0))));
    }
    if (c.positive && threadIdx.x == 0)
      dpositive[row] = static_cast<T>(factor * (std::exp(widen(c.positive[row]) - shift) - share));
  }
}

template <typename T>
Contrast<T> contrast(const Tensor& logits, const Tensor& positive, const Tensor& row_labels,
                     const Tensor& column_labels, int64_t self) {
  return {logits.data<T>(),
          positive.defined() ? positive.data<T>() : nullptr,
          row_labels.data<int64_t>(),
          column_labels.data<int64_t>(),
          self,
          logits.rows(),
          logits.cols()};
}

// A block for every row of t, with as many threads as the row keeps busy.
template <auto Kernel, typename... Arguments>
void launch_rows(const Tensor& t, Arguments&&... arguments) {
  const int64_t warps = std::clamp<int64_t>((t.cols() + kWarp - 1) / kWarp, 1, kThreads / kWarp);
  launch_for<Kernel>(t, blocks_for_rows(t.rows()), static_cast<int>(warps) * kWarp, 0,
                     std::forward<Arguments>(arguments)...);
}

}  // namespace

void CudaBackend::l2_normalize(const Tensor& x, double eps, Tensor& y, Tensor& norm) {
  dispatch_floating(x.dtype(), "l2_normalize", [&](auto tag) {
    using T = decltype(tag);
    launch_rows<l2_normalize_kernel<T>>(x, x.data<T>(), x.rows(), x.cols(),
                                        static_cast<acc_t<T>>(eps), y.data<T>(),
                                        norm.data<acc_t<T>>());
  });
}

void CudaBackend::l2_normalize_backward(const Tensor& y, const Tensor& norm, const Tensor& dy,
                                        double eps, Tensor& dx) {
  dispatch_floating(y.dtype(), "l2_normalize_backward", [&](auto tag) {
    using T = decltype(tag);
    launch_rows<l2_normalize_backward_kernel<T>>(y, y.data<T>(), norm.data<acc_t<T>>(),
                                                 dy.data<T>(), y.rows(), y.cols(),
                                                 static_cast<acc_t<T>>(eps), dx.data<T>());
  });
}

void CudaBackend::softmax(const Tensor& x, bool log, Tensor& y) {
  dispatch_floating(x.dtype(), "softmax", [&](auto tag) {
    using T = decltype(tag);
    launch_rows<softmax_kernel<T>>(x, x.data<T>(), x.rows(), x.cols(), log, y.data<T>());
  });
}

void CudaBackend::softmax_backward(const Tensor& y, const Tensor& dy, bool log, Tensor& dx) {
  dispatch_floating(y.dtype(), "softmax_backward", [&](auto tag) {
    using T = decltype(tag);
    launch_rows<softmax_backward_kernel<T>>(y, y.data<T>(), dy.data<T>(), y.rows(), y.cols(), log,
                                            dx.data<T>());
  });
}

void CudaBackend::cross_entropy(const Tensor& logits, const Tensor& labels, double smoothing,
                                Tensor& loss, Tensor& lse) {
  dispatch_floating(logits.dtype(), "cross_entropy", [&](auto tag) {
    using T = decltype(tag);
    launch_rows<cross_entropy_kernel<T>>(
        logits, logits.data<T>(), labels.data<int64_t>(), logits.rows(), logits.cols(),
        static_cast<acc_t<T>>(smoothing), loss.data<acc_t<T>>(), lse.data<acc_t<T>>());
  });
}

void CudaBackend::cross_entropy_backward(const Tensor& logits, const Tensor& labels,
                                         double smoothing, const Tensor& lse, const Tensor& dloss,
                                         Tensor& dlogits) {
  dispatch_floating(logits.dtype(), "cross_entropy_backward", [&](auto tag) {
    using T = decltype(tag);
    launch_rows<cross_entropy_backward_kernel<T>>(
        logits, logits.data<T>(), labels.data<int64_t>(), logits.rows(), logits.cols(),
        static_cast<acc_t<T>>(smoothing), lse.data<acc_t<T>>(), dloss.data<acc_t<T>>(),
        dlogits.data<T>());
  });
}

namespace {
template <typename T>
SoftTargets<T> soft_targets(const Tensor& logits, double scale, const Tensor& targets,
                            const Tensor& target_rows) {
  return {logits.data<T>(),
          targets.data<T>(),
          target_rows.defined() ? target_rows.data<int64_t>() : nullptr,
          logits.rows(),
          logits.cols(),
          static_cast<acc_t<T>>(scale)};
}
}  // namespace

void CudaBackend::soft_cross_entropy(const Tensor& logits, double scale, const Tensor& targets,
                                     const Tensor& target_rows, Tensor& loss, Tensor& lse) {
  dispatch_floating(logits.dtype(), "soft_cross_entropy", [&](auto tag) {
    using T = decltype(tag);
    launch_rows<soft_cross_entropy_kernel<T>>(logits,
                                              soft_targets<T>(logits, scale, targets, target_rows),
                                              loss.data<acc_t<T>>(), lse.data<acc_t<T>>());
  });
}

void CudaBackend::soft_cross_entropy_backward(const Tensor& logits, double scale,
                                              const Tensor& targets, const Tensor& target_rows,
                                              const Tensor& lse, const Tensor& dloss,
                                              Tensor& dlogits) {
  dispatch_floating(logits.dtype(), "soft_cross_entropy_backward", [&](auto tag) {
    using T = decltype(tag);
    launch_rows<soft_cross_entropy_backward_kernel<T>>(
        logits, soft_targets<T>(logits, scale, targets, target_rows), lse.data<acc_t<T>>(),
        dloss.data<acc_t<T>>(), dlogits.data<T>());
  });
}

void CudaBackend::contrastive_loss(const Tensor& logits, const Tensor& positive,
                                   const Tensor& row_labels, const Tensor& column_labels,
                                   int64_t self, Tensor& loss, Tensor& lse) {
  dispatch_floating(logits.dtype(), "contrastive_loss", [&](auto tag) {
    using T = decltype(tag);
    launch_rows<contrastive_loss_kernel<T>>(
        logits, contrast<T>(logits, positive, row_labels, column_labels, self),
        loss.data<acc_t<T>>(), lse.data<acc_t<T>>());
  });
}

void CudaBackend::contrastive_loss_backward(const Tensor& logits, const Tensor& positive,
                                            const Tensor& row_labels, const Tensor& column_labels,
                                            int64_t self, const Tensor& lse, const Tensor& dloss,
                                            Tensor& dlogits, Tensor& dpositive) {
  dispatch_floating(logits.dtype(), "contrastive_loss_backward", [&](auto tag) {
    using T = decltype(tag);
    launch_rows<contrastive_loss_backward_kernel<T>>(
        logits, contrast<T>(logits, positive, row_labels, column_labels, self),
        lse.data<acc_t<T>>(), dloss.data<acc_t<T>>(), dlogits.data<T>(),
        positive.defined() ? dpositive.data<T>() : nullptr);
  });
}

}  // namespace facet
