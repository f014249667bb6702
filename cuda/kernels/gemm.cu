// Products of matrices.
#include "cuda/kernels/gemm.cuh"
#include "cuda/vendor/blas.h"

namespace facet {

using namespace cuda;

namespace {

// Element (row, col) of batched matrices, transposed by its strides.
template <typename T>
struct Matrix {
  const T* data;
  int64_t batch_stride, row_stride, col_stride;
  __device__ acc_t<T> operator()(int64_t batch, int64_t row, int64_t col) const {
    return widen(data[batch * batch_stride + row * row_stride + col * col_stride]);
  }
};
// out = alpha sum + beta out + bias; with beta = 0 the old out is not read.
template <typename A, typename Bias, typename Out>
struct Scaled {
  Out* out;
  int64_t m, n;
  A alpha, beta;
  const Bias* bias;
  __device__ void operator()(int64_t batch, int64_t row, int64_t col, A sum) const {
    Out& to = out[(batch * m + row) * n + col];
    A value = alpha * sum;
    if (beta != A(0)) value += beta * widen(to);
    if (bias) value += widen(bias[col]);
    to = static_cast<Out>(value);
  }
};

template <typename T>
Matrix<T> matrix(const Tensor& t, bool transposed) {
  const bool batched = t.rank() == 3;
  const int64_t rows = t.dim(batched ? 1 : 0), cols = t.dim(batched ? 2 : 1);
  return {t.data<T>(), batched ? rows * cols : 0, transposed ? 1 : cols, transposed ? cols : 1};
}

}  // namespace

void CudaBackend::matmul(const Tensor& a, const Tensor& b, const Tensor& bias,
                         const MatmulArgs& args, Tensor& out) {
  if (kernel_choice() == KernelChoice::vendor && vendor::matmul(a, b, bias, args, out)) return;
  const int last = a.rank() - 1;
  const GemmShape s{out.dim(last - 1), out.dim(last), a.dim(args.trans_a ? last - 1 : last),
                    last == 2 ? a.dim(0) : 1};
  dispatch_floating(a.dtype(), "matmul", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const auto into = [&](auto out_tag) {
      using Out = decltype(out_tag);
      gemm<A>(
          out, s, matrix<T>(a, args.trans_a), matrix<T>(b, args.trans_b),
          Scaled<A, T, Out>{out.data<Out>(), s.m, s.n, static_cast<A>(args.alpha),
                            static_cast<A>(args.beta), bias.defined() ? bias.data<T>() : nullptr});
    };
    if (out.dtype() == a.dtype())
      into(T{});
    else
      into(A{});
  });
}

}  // namespace facet
