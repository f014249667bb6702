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
  bool depth_contiguous;  // k, not rows of the left factor or columns of the right one
  __device__ acc_t<T> operator()(int64_t batch, int64_t row, int64_t col) const {
    return widen(data[batch * batch_stride + row * row_stride + col * col_stride]);
  }
  int64_t pitch() const { return std::max(row_stride, col_stride); }
  bool in_chunks() const { return aligned(data) && pitch() % kChunk == 0; }
  template <typename F>
  void with_chunks(F f) const {
    if (depth_contiguous)
      f(MatrixChunks<true>{data, batch_stride, static_cast<int>(pitch())});
    else
      f(MatrixChunks<false>{data, batch_stride, static_cast<int>(pitch())});
  }
};

template <typename T>
Matrix<T> matrix(const Tensor& t, bool transposed, bool depth_contiguous) {
  const bool batched = t.rank() == 3;
  const int64_t rows = t.dim(batched ? 1 : 0), cols = t.dim(batched ? 2 : 1);
  return {t.data<T>(), batched ? rows * cols : 0, transposed ? 1 : cols, transposed ? cols : 1,
          depth_contiguous};
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
    Output<T> to{out.raw(), out.dtype() != a.dtype(), s.m * s.n, s.n};
    to.alpha = static_cast<A>(args.alpha);
    to.beta = static_cast<A>(args.beta);
    if (bias.defined()) to.bias = bias.data<T>();
    gemm(out, s, matrix<T>(a, args.trans_a, !args.trans_a),
         matrix<T>(b, args.trans_b, args.trans_b), to);
  });
}

}  // namespace facet
