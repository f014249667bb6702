// Convolution of NHWC tensors as implicit GEMM: the window of an output element is gathered while
// its tile is loaded, nothing is unfolded in memory. x (N, H, W, Cin), w (Cout, kh, kw, Cin /
// groups), y (N, P, Q, Cout); the groups are the batch of the products.
#include "cuda/kernels/conv_chunks.cuh"
#include "cuda/kernels/gemm.cuh"
#include "cuda/vendor/blas.h"
#include "cuda/vendor/dnn.h"
#include "tensor/ops.h"

namespace facet {

using namespace cuda;

namespace {

ConvShape conv_shape(const Tensor& x, const Tensor& w, const Tensor& y, const ConvArgs& args) {
  return {x.dim(1),
          x.dim(2),
          y.dim(1),
          y.dim(2),
          x.dim(3),
          y.dim(3),
          x.dim(3) / args.groups,
          y.dim(3) / args.groups,
          static_cast<int>(w.dim(1)),
          static_cast<int>(w.dim(2)),
          args.stride,
          args.padding};
}

// Row (n, p, q), k (i, j, ci): x under the kernel's element.
template <typename T>
struct Window {
  const T* x;
  ConvShape s;
  __device__ acc_t<T> operator()(int64_t group, int64_t row, int64_t k) const {
    const int64_t ci = k % s.group_in, j = k / s.group_in % s.kw, i = k / (s.group_in * s.kw);
    const int64_t q = row % s.q, p = row / s.q % s.p, n = row / (s.p * s.q);
    const int64_t r = p * s.stride - s.padding + i, c = q * s.stride - s.padding + j;
    if (r < 0 || r >= s.h || c < 0 || c >= s.w) return acc_t<T>(0);
    return widen(x[((n * s.h + r) * s.w + c) * s.c_in + group * s.group_in + ci]);
  }
  bool in_chunks() const { return aligned(x) && s.group_in % kChunk == 0 && s.is_small(); }
  template <typename F>
  void with_chunks(F f) const {
    f(WindowChunks<true>(x, s));
  }
};
// The same, as the right factor of the weights' gradient: k (n, p, q), column (i, j, ci).
template <typename T>
struct WindowTransposed {
  Window<T> window;
  __device__ acc_t<T> operator()(int64_t group, int64_t k, int64_t col) const {
    return window(group, k, col);
  }
  bool in_chunks() const { return window.in_chunks(); }
  template <typename F>
  void with_chunks(F f) const {
    f(WindowChunks<false>(window.x, window.s));
  }
};
// k (i, j, ci), column co
template <typename T>
struct Weight {
  const T* w;
  ConvShape s;
  __device__ acc_t<T> operator()(int64_t group, int64_t k, int64_t co) const {
    return widen(w[(group * s.group_out + co) * s.kh * s.kw * s.group_in + k]);
  }
  int64_t depth() const { return s.kh * s.kw * s.group_in; }
  bool in_chunks() const { return aligned(w) && s.group_in % kChunk == 0; }
  template <typename F>
  void with_chunks(F f) const {
    f(MatrixChunks<true>{w, s.group_out * depth(), static_cast<int>(depth())});
  }
};
// Row (n, h, w), k (i, j, co): dy where the kernel's element (i, j) lay over (h, w).
template <typename T>
struct OutputGradient {
  const T* dy;
  ConvShape s;
  __device__ acc_t<T> operator()(int64_t group, int64_t row, int64_t k) const {
    const int64_t co = k % s.group_out, j = k / s.group_out % s.kw, i = k / (s.group_out * s.kw);
    const int64_t w = row % s.w, h = row / s.w % s.h, n = row / (s.h * s.w);
    const int64_t r = h + s.padding - i, c = w + s.padding - j;
    if (r < 0 || c < 0 || r % s.stride != 0 || c % s.stride != 0) return acc_t<T>(0);
    const int64_t p = r / s.stride, q = c / s.stride;
    if (p >= s.p || q >= s.q) return acc_t<T>(0);
    return widen(dy[((n * s.p + p) * s.q + q) * s.c_out + group * s.group_out + co]);
  }
  bool in_chunks() const { return aligned(dy) && s.group_out % kChunk == 0 && s.is_small(); }
  template <typename F>
  void with_chunks(F f) const {
    f(OutputGradientChunks(dy, s));
  }
};
// k (i, j, co), column ci
template <typename T>
struct WeightTransposed {
  const T* w;
  ConvShape s;
  __device__ acc_t<T> operator()(int64_t group, int64_t k, int64_t ci) const {
    const int64_t co = k % s.group_out, ij = k / s.group_out;
    return widen(w[((group * s.group_out + co) * s.kh * s.kw + ij) * s.group_in + ci]);
  }
  bool in_chunks() const { return aligned(w) && s.group_in % kChunk == 0 && s.is_small(); }
  template <typename F>
  void with_chunks(F f) const {
    f(WeightTransposedChunks(w, s));
  }
};
// Row co, k (n, p, q)
template <typename T>
struct GradientRows {
  const T* dy;
  ConvShape s;
  __device__ acc_t<T> operator()(int64_t group, int64_t co, int64_t k) const {
    return widen(dy[k * s.c_out + group * s.group_out + co]);
  }
  bool in_chunks() const { return aligned(dy) && s.group_out % kChunk == 0; }
  template <typename F>
  void with_chunks(F f) const {
    f(MatrixChunks<false>{dy, s.group_out, static_cast<int>(s.c_out)});
  }
};

// A pixel's channels and zeros behind them, up to kChunk.
struct FillUp {
  const bf16* from;
  bf16* to;
  int channels;
  __device__ void operator()(int64_t pixel) const {
    Vec<bf16, kChunk> all;
    for (int c = 0; c < kChunk; ++c) all[c] = c < channels ? from[pixel * channels + c] : bf16(0.f);
    all.store(to + pixel * kChunk);
  }
};
Tensor filled_up(const Tensor& t) {
  Tensor full = Tensor::empty({t.dim(0), t.dim(1), t.dim(2), kChunk}, t.dtype(), t.device());
  map(t, t.rows(), FillUp{t.data<bf16>(), full.data<bf16>(), static_cast<int>(t.dim(3))});
  return full;
}
// Few channels, as pictures have: filled up to kChunk their weights' gradient goes through tensor
// cores; cuDNN has no engine for it.
bool has_few_channels(const Tensor& x, const ConvArgs& args) {
  return x.dtype() == DType::bf16 && x.dim(3) < kChunk && args.groups == 1 &&
         kernel_choice() != KernelChoice::naive;
}
// An epilogue that cuDNN does not take, on the convolution that it does.
template <typename T>
struct Finish {
  T* y;
  const T *bias, *residual;
  int64_t channels;
  bool relu;
  __device__ void operator()(int64_t i) const {
    acc_t<T> value = widen(y[i]);
    if (bias) value += widen(bias[i % channels]);
    if (residual) value += widen(residual[i]);
    y[i] = static_cast<T>(relu && value < acc_t<T>(0) ? acc_t<T>(0) : value);
  }
};
template <typename T>
void finish(const ConvEpilogue& e, Tensor& y) {
  const auto data = [](const Tensor& t) { return t.defined() ? t.data<T>() : nullptr; };
  map(y, y.numel(), Finish<T>{y.data<T>(), data(e.bias), data(e.residual), y.dim(3), e.relu});
}

}  // namespace

void CudaBackend::conv2d(const Tensor& x, const Tensor& w, const ConvEpilogue& epilogue,
                         const ConvArgs& args, Tensor& y) {
  if (kernel_choice() == KernelChoice::vendor) {
    if (vendor::conv2d(x, w, epilogue, args, y)) return;
    if (!epilogue.is_empty() && vendor::conv2d(x, w, {}, args, y)) {
      if (x.dtype() == DType::f32) return finish<float>(epilogue, y);
      return finish<bf16>(epilogue, y);
    }
  }
  const ConvShape s = conv_shape(x, w, y, args);
  dispatch_floating(x.dtype(), "conv2d", [&](auto tag) {
    using T = decltype(tag);
    Output<T> to{y.raw(), false, s.group_out, static_cast<int>(s.c_out)};
    if (epilogue.bias.defined()) to.bias = epilogue.bias.data<T>();
    to.bias_stride = s.group_out;
    if (epilogue.residual.defined()) to.residual = epilogue.residual.data<T>();
    to.relu = epilogue.relu;
    gemm(y, {x.dim(0) * s.p * s.q, s.group_out, s.kh * s.kw * s.group_in, args.groups},
         Window<T>{x.data<T>(), s}, Weight<T>{w.data<T>(), s}, to);
  });
}

void CudaBackend::conv2d_backward_input(const Tensor& dy, const Tensor& w, const ConvArgs& args,
                                        Tensor& dx) {
  if (kernel_choice() == KernelChoice::vendor && vendor::conv2d_backward_input(dy, w, args, dx))
    return;
  const ConvShape s = conv_shape(dx, w, dy, args);
  dispatch_floating(dy.dtype(), "conv2d_backward_input", [&](auto tag) {
    using T = decltype(tag);
    gemm(dx, {dx.dim(0) * s.h * s.w, s.group_in, s.kh * s.kw * s.group_out, args.groups},
         OutputGradient<T>{dy.data<T>(), s}, WeightTransposed<T>{w.data<T>(), s},
         Output<T>{dx.raw(), false, s.group_in, s.c_in});
  });
}

void CudaBackend::conv2d_backward_weight(const Tensor& x, const Tensor& dy, const ConvArgs& args,
                                         Tensor& dw) {
  if (has_few_channels(x, args) && dw.dtype() == DType::f32) {
    Tensor full = Tensor::empty({dw.dim(0), dw.dim(1), dw.dim(2), kChunk}, DType::f32, dw.device());
    conv2d_backward_weight(filled_up(x), dy, args, full);
    return dw.copy_(ops::narrow(full, 0, dw.dim(3), 3));
  }
  // 8 channels of bf16: an H200 takes 1.2 ms for facet's kernel where cuDNN takes 5.
  const bool in_one_chunk = x.dtype() == DType::bf16 && x.dim(3) == kChunk;
  if (kernel_choice() == KernelChoice::vendor && !in_one_chunk) {
    // A product of two matrices, which cuBLASLt cuts into more parts than cuDNN does.
    if (dw.dim(1) * dw.dim(2) == 1 && args.stride == 1 && args.padding == 0 && args.groups == 1) {
      Tensor product = dw.reshape({dy.dim(3), x.dim(3)});
      if (vendor::matmul(dy.reshape({dy.rows(), dy.dim(3)}), x.reshape({x.rows(), x.dim(3)}), {},
                         {.trans_a = true}, product))
        return;
    }
    if (vendor::conv2d_backward_weight(x, dy, args, dw)) return;
  }
  const ConvShape s = conv_shape(x, dw, dy, args);
  dispatch_floating(x.dtype(), "conv2d_backward_weight", [&](auto tag) {
    using T = decltype(tag);
    const int64_t cols = s.kh * s.kw * s.group_in;
    gemm(dw, {s.group_out, cols, x.dim(0) * s.p * s.q, args.groups},
         GradientRows<T>{dy.data<T>(), s}, WindowTransposed<T>{{x.data<T>(), s}},
         Output<T>{dw.raw(), true, s.group_out * cols, cols});
  });
}

}  // namespace facet
