// Batch normalisation of rows x C, fused with the residual add and the ReLU that follow. Bound by
// memory: the forward reads x twice and writes y, the backward reads x and dy twice and writes dx.
#include "cuda/kernels/columns.cuh"

namespace facet {

using namespace cuda;

namespace {

// Bit i of the mask: whether element i passed the ReLU.
__device__ __forceinline__ bool bit_of(const uint8_t* mask, int64_t i) {
  return mask[i / 8] >> (i % 8) & 1;
}

// What two sums a channel are taken of.
template <typename T>
struct Moments {  // of x - shift
  using A = acc_t<T>;
  const T* x;
  const T* shift;  // the first row: near enough to the mean that nothing cancels
  int64_t cols;
  template <int N>
  __device__ Vec<T, N> columns(int64_t col) const {
    return Vec<T, N>::load(shift + col);
  }
  template <int N>
  __device__ void add(const Vec<T, N>& origin, int64_t row, int64_t col, A (&s)[N],
                      A (&q)[N]) const {
    const auto values = Vec<T, N>::load(x + row * cols + col);
    for (int k = 0; k < N; ++k) {
      const A d = widen(values[k]) - widen(origin[k]);
      s[k] += d;
      q[k] += d * d;
    }
  }
};
template <typename T>
struct GradientSums {  // of g and g (x - mean), where g is dy behind the ReLU
  using A = acc_t<T>;
  const T *x, *dy;
  const A* mean;
  const uint8_t* mask;
  int64_t cols;
  template <int N>
  __device__ Vec<A, N> columns(int64_t col) const {
    return Vec<A, N>::load(mean + col);
  }
  template <int N>
  __device__ void add(const Vec<A, N>& origin, int64_t row, int64_t col, A (&s)[N],
                      A (&q)[N]) const {
    const int64_t i = row * cols + col;
    const auto values = Vec<T, N>::load(x + i), gradients = Vec<T, N>::load(dy + i);
    const unsigned bits = mask ? static_cast<unsigned>(mask[i / 8]) >> i % 8 : ~0u;
    for (int k = 0; k < N; ++k) {
      const A g = bits >> k & 1 ? widen(gradients[k]) : A(0);
      s[k] += g;
      q[k] += g * (widen(values[k]) - origin[k]);
    }
  }
};

// Statistics, running statistics and the factor of the second pass.
template <typename T>
struct FinishStatistics {
  using A = acc_t<T>;
  int64_t rows;
  const T* shift;
  const A* gamma;
  BatchNormArgs args;
  A *mean, *rstd, *running_mean, *running_var, *scale;
  __device__ void operator()(int64_t c, double s, double q) const {
    const double n = static_cast<double>(rows), distance = s / n;
    const double m2 = q - distance * s > 0 ? q - distance * s : 0.0;
    const double mu = static_cast<double>(widen(shift[c])) + distance;
    const double r = 1.0 / std::sqrt(m2 / n + args.eps);
    mean[c] = static_cast<A>(mu);
    rstd[c] = static_cast<A>(r);
    scale[c] = static_cast<A>(gamma[c] * r);
    if (!args.update_running) return;
    const double keep = 1.0 - args.momentum;
    running_mean[c] = static_cast<A>(keep * running_mean[c] + args.momentum * mu);
    running_var[c] =
        static_cast<A>(keep * running_var[c] + args.momentum * m2 / (n > 1 ? n - 1 : 1.0));
  }
};
template <typename A>
struct EvalScale {
  const A *gamma, *var;
  double eps;
  A* scale;
  __device__ void operator()(int64_t c) const {
    scale[c] = static_cast<A>(gamma[c] / std::sqrt(static_cast<double>(var[c]) + eps));
  }
};

// y = relu?((x - mean) scale + beta + residual?): the naive twin, and for what is not moved in wide
// columns. A warp takes 32 neighbours and makes 4 bytes of
// the mask; all its lanes go through the ballot. Grid: blocks_for(n).
template <typename T>
__global__ void normalize_kernel(const T* x, const T* residual, const acc_t<T>* mean,
                                 const acc_t<T>* scale, const acc_t<T>* beta, int64_t n,
                                 int64_t cols, T* y, uint8_t* mask) {
  const int lane = threadIdx.x % kWarp;
  for (int64_t base = first_element() - lane; base < n; base += element_stride()) {
    const int64_t i = base + lane;
    acc_t<T> value = 0;
    if (i < n) {
      const int64_t c = i % cols;
      value = (widen(x[i]) - mean[c]) * scale[c] + beta[c];
      if (residual) value += widen(residual[i]);
    }
    if (mask) {
      const bool passes = value > acc_t<T>(0);
      const unsigned bits = __ballot_sync(kAllLanes, i < n && passes);
      if (lane % 8 == 0 && i < n) mask[i / 8] = static_cast<uint8_t>(bits >> lane);
      // A NaN stays one.
      if (!passes && value == value) value = 0;
    }
    if (i < n) y[i] = static_cast<T>(value);
  }
}

// The same; a byte of the mask is made of the 8 columns of a thread.
template <typename T>
struct Normalize {
  using A = acc_t<T>;
  using Values = Vec<T, kWide>;
  const T *x, *residual;
  const A *mean, *scale, *beta;
  int64_t cols;
  T* y;
  uint8_t* mask;
  struct Columns {
    Vec<A, kWide> mean, scale, beta;
  };
  __device__ Columns columns(int64_t col) const {
    return {Vec<A, kWide>::load(mean + col), Vec<A, kWide>::load(scale + col),
            Vec<A, kWide>::load(beta + col)};
  }
  __device__ void operator()(const Columns& c, int64_t row, int64_t col) const {
    const int64_t i = row * cols + col;
    const Values values = Values::load(x + i);
    Values other;
    if (residual) other = Values::load(residual + i);
    Values out;
    unsigned bits = 0;
    for (int k = 0; k < kWide; ++k) {
      A value = (widen(values[k]) - c.mean[k]) * c.scale[k] + c.beta[k];
      if (residual) value += widen(other[k]);
      const bool passes = value > A(0);
      bits |= static_cast<unsigned>(passes) << k;
      if (mask && !passes && value == value) value = 0;  // a NaN stays one
      out[k] = static_cast<T>(value);
    }
    out.store(y + i);
    if (mask) mask[i / 8] = static_cast<uint8_t>(bits);
  }
};

// dbeta = sum g, dgamma = rstd sum g (x - mean); and the second pass's a, slope, offset:
// dx = a g - (x - mean) slope - offset
template <typename A>
struct FinishGradient {
  int64_t rows, cols;
  const A *gamma, *rstd;
  bool batch_statistics;
  A *dgamma, *dbeta, *factors;  // factors (3, C)
  __device__ void operator()(int64_t c, double s, double q) const {
    const double r = rstd[c], scale = gamma[c] * r, gradient = r * q;
    const double inverse = batch_statistics ? 1.0 / static_cast<double>(rows) : 0.0;
    dbeta[c] = static_cast<A>(s);
    dgamma[c] = static_cast<A>(gradient);
    factors[c] = static_cast<A>(scale);
    factors[cols + c] = static_cast<A>(scale * r * gradient * inverse);
    factors[2 * cols + c] = static_cast<A>(scale * s * inverse);
  }
};
template <typename T>
struct InputGradient {
  using A = acc_t<T>;
  const T *x, *dy;
  const A *mean, *factors;
  const uint8_t* mask;
  int64_t cols;
  T *dx, *dresidual;
  __device__ void operator()(int64_t i) const {
    const int64_t c = i % cols;
    const A g = mask && !bit_of(mask, i) ? A(0) : widen(dy[i]);
    if (dresidual) dresidual[i] = static_cast<T>(g);
    const A d = widen(x[i]) - mean[c];
    dx[i] = static_cast<T>(factors[c] * g - d * factors[cols + c] - factors[2 * cols + c]);
  }
};

// The same for 8 columns at once.
template <typename T>
struct InputGradientColumns {
  using A = acc_t<T>;
  using Values = Vec<T, kWide>;
  InputGradient<T> a;
  struct Columns {
    Vec<A, kWide> mean, scale, slope, offset;
  };
  __device__ Columns columns(int64_t col) const {
    const A* const f = a.factors + col;
    return {Vec<A, kWide>::load(a.mean + col), Vec<A, kWide>::load(f),
            Vec<A, kWide>::load(f + a.cols), Vec<A, kWide>::load(f + 2 * a.cols)};
  }
  __device__ void operator()(const Columns& c, int64_t row, int64_t col) const {
    const int64_t i = row * a.cols + col;
    const Values x = Values::load(a.x + i), dy = Values::load(a.dy + i);
    const unsigned bits = a.mask ? a.mask[i / 8] : 0xffu;
    Values dx, dresidual;
    for (int k = 0; k < kWide; ++k) {
      const A g = bits >> k & 1 ? widen(dy[k]) : A(0);
      dresidual[k] = static_cast<T>(g);
      const A d = widen(x[k]) - c.mean[k];
      dx[k] = static_cast<T>(c.scale[k] * g - d * c.slope[k] - c.offset[k]);
    }
    if (a.dresidual) dresidual.store(a.dresidual + i);
    dx.store(a.dx + i);
  }
};

template <typename T>
T* data_or_null(Tensor& t) {
  return t.defined() ? t.data<T>() : nullptr;
}
template <typename T>
const T* data_or_null(const Tensor& t) {
  return t.defined() ? t.data<T>() : nullptr;
}

template <typename T>
void normalize(const Tensor& x, const Tensor& residual, const Tensor& mean, const Tensor& scale,
               const Tensor& beta, Tensor& y, Tensor& mask) {
  using A = acc_t<T>;
  const Normalize<T> body{x.data<T>(),    data_or_null<T>(residual),
                          mean.data<A>(), scale.data<A>(),
                          beta.data<A>(), x.cols(),
                          y.data<T>(),    data_or_null<uint8_t>(mask)};
  if constexpr (!std::is_same_v<T, double>)
    if (in_wide_columns(x.cols(), body.x, body.residual, body.mean, body.scale, body.beta, body.y))
      return map_columns(x, body);
  launch_for<normalize_kernel<T>>(x, blocks_for(x.numel()), kThreads, 0, body.x, body.residual,
                                  body.mean, body.scale, body.beta, x.numel(), x.cols(), body.y,
                                  body.mask);
}

}  // namespace

void CudaBackend::batch_norm_train(const Tensor& x, const Tensor& residual, const Tensor& gamma,
                                   const Tensor& beta, const BatchNormArgs& args, Tensor& y,
                                   Tensor& mean, Tensor& rstd, Tensor& running_mean,
                                   Tensor& running_var, Tensor& mask) {
  dispatch_floating(x.dtype(), "batch_norm_train", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const int64_t cols = x.cols();
    Tensor scale = Tensor::empty_like(mean);
    channel_sums(x, in_wide_columns(cols, x.data<T>()), Moments<T>{x.data<T>(), x.data<T>(), cols},
                 FinishStatistics<T>{x.rows(), x.data<T>(), gamma.data<A>(), args, mean.data<A>(),
                                     rstd.data<A>(), data_or_null<A>(running_mean),
                                     data_or_null<A>(running_var), scale.data<A>()});
    normalize<T>(x, residual, mean, scale, beta, y, mask);
  });
}

void CudaBackend::batch_norm_eval(const Tensor& x, const Tensor& residual, const Tensor& gamma,
                                  const Tensor& beta, const Tensor& mean, const Tensor& var,
                                  const BatchNormArgs& args, Tensor& y, Tensor& mask) {
  dispatch_floating(x.dtype(), "batch_norm_eval", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    Tensor scale = Tensor::empty_like(var);
    map(x, x.cols(), EvalScale<A>{gamma.data<A>(), var.data<A>(), args.eps, scale.data<A>()});
    normalize<T>(x, residual, mean, scale, beta, y, mask);
  });
}

void CudaBackend::batch_norm_backward(const Tensor& x, const Tensor& dy, const Tensor& gamma,
                                      const Tensor& mean, const Tensor& rstd, const Tensor& mask,
                                      const BatchNormArgs& args, Tensor& dx, Tensor& dresidual,
                                      Tensor& dgamma, Tensor& dbeta) {
  dispatch_floating(x.dtype(), "batch_norm_backward", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const int64_t cols = x.cols();
    const uint8_t* const bits = data_or_null<uint8_t>(mask);
    Tensor factors = Tensor::empty({3, cols}, acc_dtype(x.dtype()), x.device());
    const InputGradient<T> body{
        x.data<T>(), dy.data<T>(), mean.data<A>(), factors.data<A>(),
        bits,        cols,         dx.data<T>(),   data_or_null<T>(dresidual)};
    const bool wide =
        in_wide_columns(cols, body.x, body.dy, body.mean, body.factors, body.dx, body.dresidual);
    channel_sums(
        x, wide, GradientSums<T>{body.x, body.dy, body.mean, bits, cols},
        FinishGradient<A>{x.rows(), cols, gamma.data<A>(), rstd.data<A>(), args.batch_statistics,
                          dgamma.data<A>(), dbeta.data<A>(), factors.data<A>()});
    if constexpr (!std::is_same_v<T, double>)
      if (wide) return map_columns(x, InputGradientColumns<T>{body});
    map(x, x.numel(), body);
  });
}

}  // namespace facet
