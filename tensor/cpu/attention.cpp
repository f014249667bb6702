// Scaled dot-product attention of packed queries, keys and values. Runs of queries of one head are
// worked on while their scores stay in the caches; the matrix of all scores never exists.
#include "tensor/cpu/blas.h"
#include "tensor/cpu/cpu_backend.h"
#include "tensor/cpu/loops.h"

namespace facet {

using namespace cpu;

namespace {

constexpr int64_t kQueries = 64;  // of a run

// One head of qkv (B, T, 3, H, D) and of y (B, T, H, D).
template <typename A>
struct Head {
  const A *q, *k, *v;
  int64_t tokens, dim, pitch, out_pitch, out_offset, row;  // row: of lse (B, H, T)
};
template <typename A>
Head<A> head_of(const Tensor& qkv, int64_t index) {
  const int64_t tokens = qkv.dim(1), heads = qkv.dim(3), dim = qkv.dim(4), width = heads * dim;
  const int64_t image = index / heads, head = index % heads;
  const A* const q = qkv.data<A>() + image * tokens * 3 * width + head * dim;
  return {q,
          q + width,
          q + 2 * width,
          tokens,
          dim,
          3 * width,
          width,
          image * tokens * width + head * dim,
          index * tokens};
}
// Forward, rows of scores are filled up to whole registers, with what adds nothing to their sums.
// (Of -infinity the vector library takes the exponential one by one.)
constexpr int64_t kLanes = 16;
constexpr int kNothing = 40;  // below the largest score
int64_t padded(int64_t tokens) {
  return (tokens + kLanes - 1) / kLanes * kLanes;
}
// The run's scores become their softmax, and lse the logarithms of the sums.
template <typename A>
void softmax_rows(A* scores, int64_t rows, int64_t cols, A* lse) {
  const int64_t width = padded(cols);
  A largest[kQueries], sum[kQueries];
  for (int64_t r = 0; r < rows; ++r) {
    A* const s = scores + r * width;
    const A top = max_term<A>(cols, [=](int64_t i) { return s[i]; });
    std::fill(s + cols, s + width, top - kNothing);
    A lanes[kLanes] = {};
    for (int64_t i = 0; i < width; i += kLanes)
#pragma omp simd
      for (int64_t lane = 0; lane < kLanes; ++lane)
        lanes[lane] += s[i + lane] = std::exp(s[i + lane] - top);
    A total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t lane = 0; lane < kLanes; ++lane) total += lanes[lane];
    const A factor = 1 / total;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) s[i] *= factor;
    largest[r] = top;
    sum[r] = total;
  }
#pragma omp simd
  for (int64_t r = 0; r < rows; ++r) lse[r] = largest[r] + std::log(sum[r]);
}
// The run's scores become exp(scores - lse).
template <typename A>
void exp_rows(A* scores, int64_t rows, int64_t cols, const A* lse) {
  for (int64_t r = 0; r < rows; ++r) {
    A* const s = scores + r * cols;
    const A shift = lse[r];
#pragma omp simd
    for (int64_t i = 0; i < cols; ++i) s[i] = std::exp(s[i] - shift);
  }
}

template <typename A>
void forward(const Tensor& qkv, A scale, Tensor& y, Tensor& lse) {
  parallel_for(qkv.dim(0) * qkv.dim(3), 1, [&](int64_t begin, int64_t end) {
    const int64_t width = padded(qkv.dim(1));
    std::vector<A> scores(static_cast<size_t>(kQueries * width));
    for (int64_t index = begin; index < end; ++index) {
      const Head<A> h = head_of<A>(qkv, index);
      for (int64_t t = 0; t < h.tokens; t += kQueries) {
        const int64_t n = std::min(kQueries, h.tokens - t);
        blas::gemm(false, true, n, h.tokens, h.dim, scale, h.q + t * h.pitch, h.pitch, h.k, h.pitch,
                   A(0), scores.data(), width);
        softmax_rows(scores.data(), n, h.tokens, lse.data<A>() + h.row + t);
        blas::gemm(false, false, n, h.dim, h.tokens, A(1), scores.data(), width, h.v, h.pitch, A(0),
                   y.data<A>() + h.out_offset + t * h.out_pitch, h.out_pitch);
      }
    }
  });
}

template <typename A>
void backward(const Tensor& qkv, const Tensor& y, const Tensor& lse, const Tensor& dy, A scale,
              Tensor& dqkv) {
  parallel_for(qkv.dim(0) * qkv.dim(3), 1, [&](int64_t begin, int64_t end) {
    const auto size = static_cast<size_t>(kQueries * qkv.dim(1));
    std::vector<A> p(size), ds(size);
    for (int64_t index = begin; index < end; ++index) {
      const Head<A> h = head_of<A>(qkv, index);
      A* const dq = dqkv.data<A>() + (h.q - qkv.data<A>());
      A *const dk = dq + h.out_pitch, *const dv = dk + h.out_pitch;
      for (int64_t t = 0; t < h.tokens; t += kQueries) {
        const int64_t n = std::min(kQueries, h.tokens - t);
        const A *const out = y.data<A>() + h.out_offset + t * h.out_pitch, *const grad =
                                                                               dy.data<A>() +
                                                                               h.out_offset +
                                                                               t * h.out_pitch;
        const A adds = t > 0 ? A(1) : A(0);
        blas::gemm(false, true, n, h.tokens, h.dim, scale, h.q + t * h.pitch, h.pitch, h.k, h.pitch,
                   A(0), p.data(), h.tokens);
        exp_rows(p.data(), n, h.tokens, lse.data<A>() + h.row + t);
        blas::gemm(true, false, h.tokens, h.dim, n, A(1), p.data(), h.tokens, grad, h.out_pitch,
                   adds, dv, h.pitch);
        blas::gemm(false, true, n, h.tokens, h.dim, A(1), grad, h.out_pitch, h.v, h.pitch, A(0),
                   ds.data(), h.tokens);
        for (int64_t r = 0; r < n; ++r) {
          const A *const o = out + r * h.out_pitch, *const g = grad + r * h.out_pitch;
          const A delta = sum_terms<A>(0, h.dim, [=](int64_t i) { return o[i] * g[i]; });
          A *const to = ds.data() + r * h.tokens, *const of = p.data() + r * h.tokens;
#pragma omp simd
          for (int64_t i = 0; i < h.tokens; ++i) to[i] = of[i] * (to[i] - delta);
        }
        blas::gemm(false, false, n, h.dim, h.tokens, scale, ds.data(), h.tokens, h.k, h.pitch, A(0),
                   dq + t * h.pitch, h.pitch);
        blas::gemm(true, false, h.tokens, h.dim, n, scale, ds.data(), h.tokens, h.q + t * h.pitch,
                   h.pitch, adds, dk, h.pitch);
      }
    }
  });
}

}  // namespace

void CpuBackend::attention(const Tensor& qkv, double scale, Tensor& y, Tensor& lse) {
  if (qkv.dtype() == DType::f64) return forward<double>(qkv, scale, y, lse);
  if (qkv.dtype() == DType::f32) return forward<float>(qkv, static_cast<float>(scale), y, lse);
  Tensor wide = Tensor::empty(y.shape(), DType::f32);
  forward<float>(qkv.cast(DType::f32), static_cast<float>(scale), wide, lse);
  cast(wide, y);
}

void CpuBackend::attention_backward(const Tensor& qkv, const Tensor& y, const Tensor& lse,
                                    const Tensor& dy, double scale, Tensor& dqkv) {
  if (qkv.dtype() == DType::f64) return backward<double>(qkv, y, lse, dy, scale, dqkv);
  const auto factor = static_cast<float>(scale);
  if (qkv.dtype() == DType::f32) return backward<float>(qkv, y, lse, dy, factor, dqkv);
  Tensor wide = Tensor::empty(dqkv.shape(), DType::f32);
  backward<float>(qkv.cast(DType::f32), y.cast(DType::f32), lse, dy.cast(DType::f32), factor, wide);
  cast(wide, dqkv);
}

}  // namespace facet
