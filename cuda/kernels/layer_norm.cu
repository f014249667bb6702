// Layer normalisation of rows x C, fused with the residual add before it. Bound by memory: a row is
// read once from memory and twice more from the caches.
#include "cuda/kernels/columns.cuh"

namespace facet {

using namespace cuda;

namespace {

template <typename T>
struct Rows {
  const T *x, *residual;  // residual: nullptr without
  const acc_t<T>*gamma, *beta;
  int64_t rows, cols;
  acc_t<T> eps;
  T *sum, *y;
  acc_t<T>*mean, *rstd;
};

// The naive twin: a thread a row.
template <typename T>
struct NaiveLayerNorm {
  Rows<T> a;
  __device__ void operator()(int64_t row) const {
    using A = acc_t<T>;
    const T* x = a.x + row * a.cols;
    if (a.residual) {
      for (int64_t i = 0; i < a.cols; ++i)
        a.sum[row * a.cols + i] = static_cast<T>(widen(x[i]) + widen(a.residual[row * a.cols + i]));
      x = a.sum + row * a.cols;
    }
    A m = 0, v = 0;
    for (int64_t i = 0; i < a.cols; ++i) m += widen(x[i]);
    m /= static_cast<A>(a.cols);
    for (int64_t i = 0; i < a.cols; ++i) v += (widen(x[i]) - m) * (widen(x[i]) - m);
    const A r = A(1) / std::sqrt(v / static_cast<A>(a.cols) + a.eps);
    for (int64_t i = 0; i < a.cols; ++i)
      a.y[row * a.cols + i] = static_cast<T>((widen(x[i]) - m) * r * a.gamma[i] + a.beta[i]);
    a.mean[row] = m;
    a.rstd[row] = r;
  }
};

// Rows in strides, a block each; grid blocks_for_rows, block up to 256.
template <typename T>
__global__ void layer_norm_kernel(const __grid_constant__ Rows<T> a) {
  using A = acc_t<T>;
  SHARED_ARRAY(A, scratch, 32);
  const A share = A(1) / static_cast<A>(a.cols);
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const T* x = a.x + row * a.cols;
    if (a.residual) {
      const T* const other = a.residual + row * a.cols;
      T* const to = a.sum + row * a.cols;
      // Each thread reads again only what it wrote itself.
      for (int64_t i = threadIdx.x; i < a.cols; i += blockDim.x)
        to[i] = static_cast<T>(widen(x[i]) + widen(other[i]));
      x = to;
    }
    A m = 0, v = 0;
    for (int64_t i = threadIdx.x; i < a.cols; i += blockDim.x) m += widen(x[i]);
    m = block_sum(m, scratch) * share;
    for (int64_t i = threadIdx.x; i < a.cols; i += blockDim.x)
      v += (widen(x[i]) - m) * (widen(x[i]) - m);
    const A r = A(1) / std::sqrt(block_sum(v, scratch) * share + a.eps);
    for (int64_t i = threadIdx.x; i < a.cols; i += blockDim.x)
      a.y[row * a.cols + i] = static_cast<T>((widen(x[i]) - m) * r * a.gamma[i] + a.beta[i]);
    if (threadIdx.x == 0) {
      a.mean[row] = m;
      a.rstd[row] = r;
    }
  }
}

template <typename T>
struct Gradients {
  const T *x, *dy;
  const acc_t<T>*gamma, *mean, *rstd;
  int64_t rows, cols;
  T* dx;

  __device__ acc_t<T> normal(int64_t row, int64_t i) const {
    return (widen(x[row * cols + i]) - mean[row]) * rstd[row];
  }
  __device__ acc_t<T> scaled(int64_t row, int64_t i) const {
    return gamma[i] * widen(dy[row * cols + i]);
  }
  // dx = rstd (g - mean(g) - n mean(g n)), see layer_norm.cpp
  __device__ void store(int64_t row, int64_t i, acc_t<T> plain, acc_t<T> along) const {
    dx[row * cols + i] =
        static_cast<T>(rstd[row] * (scaled(row, i) - plain - normal(row, i) * along));
  }
};

template <typename T>
struct NaiveLayerNormBackward {
  Gradients<T> a;
  __device__ void operator()(int64_t row) const {
    using A = acc_t<T>;
    A plain = 0, along = 0;
    for (int64_t i = 0; i < a.cols; ++i) {
      plain += a.scaled(row, i);
      along += a.scaled(row, i) * a.normal(row, i);
    }
    plain /= static_cast<A>(a.cols);
    along /= static_cast<A>(a.cols);
    for (int64_t i = 0; i < a.cols; ++i) a.store(row, i, plain, along);
  }
};

template <typename T>
__global__ void layer_norm_backward_kernel(const __grid_constant__ Gradients<T> a) {
  using A = acc_t<T>;
  SHARED_ARRAY(A, scratch, 32);
  const A share = A(1) / static_cast<A>(a.cols);
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    A plain = 0, along = 0;
    for (int64_t i = threadIdx.x; i < a.cols; i += blockDim.x) {
      plain += a.scaled(row, i);
      along += a.scaled(row, i) * a.normal(row, i);
    }
    plain = block_sum(plain, scratch) * share;
    along = block_sum(along, scratch) * share;
    for (int64_t i = threadIdx.x; i < a.cols; i += blockDim.x) a.store(row, i, plain, along);
  }
}

// d beta and d gamma as sums over rows.
template <typename T>
struct ParameterSums {
  Gradients<T> a;
  __device__ void operator()(int64_t row, int64_t col, acc_t<T>& shift, acc_t<T>& scale) const {
    const acc_t<T> g = widen(a.dy[row * a.cols + col]);
    shift += g;
    scale += g * a.normal(row, col);
  }
};
template <typename A>
struct FinishParameters {
  const double* sums;
  int64_t chunks, cols;
  A *dgamma, *dbeta;
  __device__ void operator()(int64_t c) const {
    double shift, scale;
    add_chunks(sums, chunks, cols, c, shift, scale);
    dbeta[c] = static_cast<A>(shift);
    dgamma[c] = static_cast<A>(scale);
  }
};

int threads_for(int64_t cols) {
  return static_cast<int>(std::clamp<int64_t>((cols + kWarp - 1) / kWarp, 1, kThreads / kWarp)) *
         kWarp;
}

}  // namespace

void CudaBackend::layer_norm(const Tensor& x, const Tensor& residual, const Tensor& gamma,
                             const Tensor& beta, double eps, Tensor& sum, Tensor& y, Tensor& mean,
                             Tensor& rstd) {
  dispatch_floating(x.dtype(), "layer_norm", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const Rows<T> rows{x.data<T>(),
                       residual.defined() ? residual.data<T>() : nullptr,
                       gamma.data<A>(),
                       beta.data<A>(),
                       x.rows(),
                       x.cols(),
                       static_cast<A>(eps),
                       sum.defined() ? sum.data<T>() : nullptr,
                       y.data<T>(),
                       mean.data<A>(),
                       rstd.data<A>()};
    if (kernel_choice() == KernelChoice::naive) return map(x, x.rows(), NaiveLayerNorm<T>{rows});
    launch_for<layer_norm_kernel<T>>(x, blocks_for_rows(x.rows()), threads_for(x.cols()), 0, rows);
  });
}

void CudaBackend::layer_norm_backward(const Tensor& x, const Tensor& dy, const Tensor& gamma,
                                      const Tensor& mean, const Tensor& rstd, Tensor& dx,
                                      Tensor& dgamma, Tensor& dbeta) {
  dispatch_floating(x.dtype(), "layer_norm_backward", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const Gradients<T> a{x.data<T>(),    dy.data<T>(), gamma.data<A>(), mean.data<A>(),
                         rstd.data<A>(), x.rows(),     x.cols(),        dx.data<T>()};
    if (kernel_choice() == KernelChoice::naive)
      map(x, x.rows(), NaiveLayerNormBackward<T>{a});
    else
      launch_for<layer_norm_backward_kernel<T>>(x, blocks_for_rows(x.rows()), threads_for(x.cols()),
                                                0, a);
    const Tensor sums = channel_sums<T>(x, ParameterSums<T>{a});
    map(x, x.cols(),
        FinishParameters<A>{sums.data<double>(), sums.dim(0), x.cols(), dgamma.data<A>(),
                            dbeta.data<A>()});
  });
}

}  // namespace facet
