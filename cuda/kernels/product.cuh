// What the kernels for products of matrices share: shapes, where the sums go, and sums over k in
// parts where there are too few tiles to fill a device.
#pragma once

#include "cuda/vec.cuh"

namespace facet::cuda {

struct GemmShape {
  int64_t m, n, k, batch;
};

// Element (row, col) of product `batch` is out[batch * batch_stride + row * row_stride + col] =
// relu?(alpha sum + beta out + bias[batch * bias_stride + col] + residual), the residual laid out
// as out; with beta = 0 the old out is not read. `out` is of the factors' type T, or of the sums'
// where `wide`.
template <typename T>
struct Output {
  using A = acc_t<T>;
  void* out;
  bool wide;
  int64_t batch_stride, row_stride;
  A alpha = 1, beta = 0;
  const T* bias = nullptr;
  int64_t bias_stride = 0;
  const T* residual = nullptr;
  bool relu = false;

  // N neighbouring columns; N > 1 where takes(N).
  template <int N>
  __device__ void store(int64_t batch, int64_t row, int64_t col, const Vec<A, N>& sums) const {
    const int64_t at = batch * batch_stride + row * row_stride + col;
    if (wide)
      put(static_cast<A*>(out), at, batch * bias_stride + col, sums);
    else
      put(static_cast<T*>(out), at, batch * bias_stride + col, sums);
  }
  bool takes(int64_t width) const {
    return aligned(static_cast<const char*>(out)) && batch_stride % width == 0 &&
           row_stride % width == 0 && aligned(residual);
  }

 private:
  template <typename To, int N>
  __device__ void put(To* to, int64_t at, int64_t bias_at, const Vec<A, N>& sums) const {
    Vec<To, N> old{}, result;
    Vec<T, N> beside{};
    if (beta != A(0)) old = Vec<To, N>::load(to + at);
    if (residual) beside = Vec<T, N>::load(residual + at);
    for (int i = 0; i < N; ++i) {
      A value = alpha * sums[i];
      if (beta != A(0)) value += beta * widen(old[i]);
      if (bias) value += widen(bias[bias_at + i]);
      if (residual) value += widen(beside[i]);
      result[i] = static_cast<To>(relu && value < A(0) ? A(0) : value);
    }
    result.store(to + at);
  }
};

// Sums of (batch * splits, m, n) parts, in their order.
template <typename T>
struct AddSplits {
  const acc_t<T>* from;
  GemmShape s;
  int splits;
  Output<T> out;
  __device__ void operator()(int64_t i) const {
    const int64_t area = s.m * s.n, batch = i / area, at = i % area;
    acc_t<T> sum = 0;
    for (int k = 0; k < splits; ++k) sum += from[(batch * splits + k) * area + at];
    out.store(batch, at / s.n, at % s.n, Vec<acc_t<T>, 1>{sum});
  }
};

constexpr int64_t kLeastDepth = 256;  // of k, that a block sums

constexpr int64_t pieces_of(int64_t length, int64_t piece) {
  return (length + piece - 1) / piece;
}

// launch(grid, splits, depth, out) for tiles of `rows` x `cols`: the blocks of grid are (tile of n
// within tile of m within split within batch), and each sums k in [split * depth, (split + 1) *
// depth), a multiple of `step`, into product batch * splits + split of `out`. k is split by the
// shape alone: sums are the same every time.
template <typename T, typename Launch>
void split_gemm(const Tensor& where, const GemmShape& s, int64_t rows, int64_t cols, int64_t step,
                const Output<T>& out, Launch launch) {
  const int64_t tiles = pieces_of(s.m, rows) * pieces_of(s.n, cols);
  const int64_t wanted = pieces_of(enough_blocks(), tiles * s.batch);
  const int64_t parts = std::clamp<int64_t>(pieces_of(s.k, kLeastDepth), 1, wanted);
  const int64_t depth = pieces_of(std::max<int64_t>(s.k, 1), parts * step) * step;
  const int64_t splits = std::max<int64_t>(1, pieces_of(s.k, depth));
  const int64_t blocks = tiles * s.batch * splits;
  FACET_CHECK(blocks < int64_t{1} << 31, "gemm", "{} x {} x {} is too large for one launch", s.m,
              s.n, s.batch);
  const dim3 grid(static_cast<unsigned>(blocks));
  if (splits == 1) return launch(grid, 1, s.k, out);
  using A = acc_t<T>;
  Tensor partial = Tensor::empty({s.batch * splits, s.m, s.n}, dtype_of<A>(), where.device());
  launch(grid, static_cast<int>(splits), depth, Output<T>{partial.data<A>(), true, s.m * s.n, s.n});
  map(where, s.batch * s.m * s.n,
      AddSplits<T>{partial.data<A>(), s, static_cast<int>(splits), out});
}

}  // namespace facet::cuda
