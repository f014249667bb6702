// Layer normalisation of rows x C, fused with the residual add before it. Bound by memory.
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

__device__ __forceinline__ int64_t first_row() {
  return first_element() / kWarp;
}
__device__ __forceinline__ int64_t row_stride() {
  return element_stride() / kWarp;
}

// The naive twin, and for rows of other widths: a warp a row, an element a lane. Grid:
// blocks_for(rows * 32), block kThreads.
template <typename T>
__global__ void layer_norm_kernel(const __grid_constant__ Rows<T> a) {
  using A = acc_t<T>;
  const int64_t lane = threadIdx.x % kWarp;
  const A share = A(1) / static_cast<A>(a.cols);
  for (int64_t row = first_row(); row < a.rows; row += row_stride()) {
    const T* x = a.x + row * a.cols;
    if (a.residual) {
      T* const to = a.sum + row * a.cols;
      // Each lane reads again only what it wrote itself.
      for (int64_t i = lane; i < a.cols; i += kWarp)
        to[i] = static_cast<T>(widen(x[i]) + widen(a.residual[row * a.cols + i]));
      x = to;
    }
    A m = 0, v = 0;
    for (int64_t i = lane; i < a.cols; i += kWarp) m += widen(x[i]);
    m = warp_reduce(m, Add{}) * share;
    for (int64_t i = lane; i < a.cols; i += kWarp) v += (widen(x[i]) - m) * (widen(x[i]) - m);
    const A r = A(1) / std::sqrt(warp_reduce(v, Add{}) * share + a.eps);
    for (int64_t i = lane; i < a.cols; i += kWarp)
      a.y[row * a.cols + i] = static_cast<T>((widen(x[i]) - m) * r * a.gamma[i] + a.beta[i]);
    if (lane == 0) {
      a.mean[row] = m;
      a.rstd[row] = r;
    }
  }
}

// ---- a warp a row, which stays in its registers: read once from memory. For rows of up to
// kMostWide columns that are moved kWide at a time.
constexpr int kPieces = 4;  // of kWide columns, that a lane holds: every 32nd
constexpr int64_t piece_columns(int pieces) {
  return pieces * kWarp * kWide;
}
constexpr int64_t kMostWide = piece_columns(kPieces);

// f(piece, column) for all that a lane holds of a row.
template <int Pieces = kPieces, typename F>
__device__ __forceinline__ void for_pieces(int64_t cols, F f) {
  for (int piece = 0; piece < Pieces; ++piece) {
    const int64_t col = (piece * kWarp + static_cast<int>(threadIdx.x) % kWarp) * kWide;
    if (col < cols) f(piece, col);
  }
}
// Grid: blocks_for(rows * 32), block kThreads.
template <typename T>
__global__ void layer_norm_wide_kernel(const __grid_constant__ Rows<T> a) {
  using A = acc_t<T>;
  const A share = A(1) / static_cast<A>(a.cols);
  for (int64_t row = first_row(); row < a.rows; row += row_stride()) {
    const int64_t at = row * a.cols;
    Vec<T, kWide> x[kPieces], other[kPieces];
    for_pieces(a.cols, [&](int p, int64_t col) { x[p] = Vec<T, kWide>::load(a.x + at + col); });
    if (a.residual) {
      for_pieces(a.cols, [&](int p, int64_t col) {
        other[p] = Vec<T, kWide>::load(a.residual + at + col);
      });
      for_pieces(a.cols, [&](int p, int64_t col) {
        for (int k = 0; k < kWide; ++k)
          x[p][k] = static_cast<T>(widen(x[p][k]) + widen(other[p][k]));
        x[p].store(a.sum + at + col);
      });
    }
    A m = 0, v = 0;
    for_pieces(a.cols, [&](int p, int64_t) {
      for (int k = 0; k < kWide; ++k) m += widen(x[p][k]);
    });
    m = warp_reduce(m, Add{}) * share;
    for_pieces(a.cols, [&](int p, int64_t) {
      for (int k = 0; k < kWide; ++k) v += (widen(x[p][k]) - m) * (widen(x[p][k]) - m);
    });
    const A r = A(1) / std::sqrt(warp_reduce(v, Add{}) * share + a.eps);
    for_pieces(a.cols, [&](int p, int64_t col) {
      const auto gamma = Vec<A, kWide>::load(a.gamma + col),
                 beta = Vec<A, kWide>::load(a.beta + col);
      for (int k = 0; k < kWide; ++k)
        x[p][k] = static_cast<T>((widen(x[p][k]) - m) * r * gamma[k] + beta[k]);
      x[p].store(a.y + at + col);
    });
    if (threadIdx.x % kWarp == 0) {
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
__global__ void layer_norm_backward_kernel(const __grid_constant__ Gradients<T> a) {
  using A = acc_t<T>;
  const int64_t lane = threadIdx.x % kWarp;
  const A share = A(1) / static_cast<A>(a.cols);
  for (int64_t row = first_row(); row < a.rows; row += row_stride()) {
    A plain = 0, along = 0;
    for (int64_t i = lane; i < a.cols; i += kWarp) {
      plain += a.scaled(row, i);
      along += a.scaled(row, i) * a.normal(row, i);
    }
    plain = warp_reduce(plain, Add{}) * share;
    along = warp_reduce(along, Add{}) * share;
    for (int64_t i = lane; i < a.cols; i += kWarp) a.store(row, i, plain, along);
  }
}

// The same in registers, and in the same pass the block's share of d beta and d gamma:
// sums (grid, 2, C). Grid: up to enough_blocks(), block kThreads.
template <typename T, int Pieces>
__global__ void __launch_bounds__(kThreads, Pieces > 3 ? 1 : 2)
    layer_norm_backward_wide_kernel(const __grid_constant__ Gradients<T> a, double* sums) {
  using A = acc_t<T>;
  constexpr int64_t kWidth = piece_columns(Pieces);
  SHARED_ARRAY(A, total, 2 * kWidth);
  const A share = A(1) / static_cast<A>(a.cols);
  A shift[Pieces][kWide] = {}, scale[Pieces][kWide] = {};
  for (int64_t row = first_row(); row < a.rows; row += row_stride()) {
    const int64_t at = row * a.cols;
    Vec<T, kWide> x[Pieces], dy[Pieces];
    for_pieces<Pieces>(a.cols, [&](int p, int64_t col) {
      x[p] = Vec<T, kWide>::load(a.x + at + col);
      dy[p] = Vec<T, kWide>::load(a.dy + at + col);
    });
    const A m = a.mean[row], r = a.rstd[row];
    A plain = 0, along = 0;
    for_pieces<Pieces>(a.cols, [&](int p, int64_t col) {
      const auto gamma = Vec<A, kWide>::load(a.gamma + col);
      for (int k = 0; k < kWide; ++k) {
        const A g = widen(dy[p][k]), normal = (widen(x[p][k]) - m) * r;
        shift[p][k] += g;
        scale[p][k] += g * normal;
        plain += gamma[k] * g;
        along += gamma[k] * g * normal;
      }
    });
    plain = warp_reduce(plain, Add{}) * share;
    along = warp_reduce(along, Add{}) * share;
    for_pieces<Pieces>(a.cols, [&](int p, int64_t col) {
      const auto gamma = Vec<A, kWide>::load(a.gamma + col);
      for (int k = 0; k < kWide; ++k)
        dy[p][k] = static_cast<T>(
            r * (gamma[k] * widen(dy[p][k]) - plain - (widen(x[p][k]) - m) * r * along));
      dy[p].store(a.dx + at + col);
    });
  }
  // One warp after the other adds what it has.
  for (int warp = 0; warp < kThreads / kWarp; ++warp) {
    if (static_cast<int>(threadIdx.x) / kWarp == warp)
      for_pieces<Pieces>(a.cols, [&](int p, int64_t col) {
        for (int k = 0; k < kWide; ++k) {
          total[col + k] = shift[p][k] + (warp ? total[col + k] : A(0));
          total[kWidth + col + k] = scale[p][k] + (warp ? total[kWidth + col + k] : A(0));
        }
      });
    __syncthreads();
  }
  for (int64_t c = threadIdx.x; c < a.cols; c += kThreads) {
    sums[2 * blockIdx.x * a.cols + c] = total[c];
    sums[(2 * blockIdx.x + 1) * a.cols + c] = total[kWidth + c];
  }
}

// d beta and d gamma as sums over rows.
template <typename T>
struct ParameterSums {
  using A = acc_t<T>;
  Gradients<T> a;
  template <int N>
  __device__ int columns(int64_t) const {
    return 0;
  }
  template <int N>
  __device__ void add(int, int64_t row, int64_t col, A (&shift)[N], A (&scale)[N]) const {
    const int64_t i = row * a.cols + col;
    const auto x = Vec<T, N>::load(a.x + i), dy = Vec<T, N>::load(a.dy + i);
    for (int k = 0; k < N; ++k) {
      shift[k] += widen(dy[k]);
      scale[k] += widen(dy[k]) * (widen(x[k]) - a.mean[row]) * a.rstd[row];
    }
  }
};
template <typename A>
struct FinishParameters {
  A *dgamma, *dbeta;
  __device__ void operator()(int64_t c, double shift, double scale) const {
    dbeta[c] = static_cast<A>(shift);
    dgamma[c] = static_cast<A>(scale);
  }
};

template <typename... T>
bool is_wide(int64_t cols, const T*... at) {
  return cols <= kMostWide && in_wide_columns(cols, at...);
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
    if constexpr (!std::is_same_v<T, double>)
      if (is_wide(x.cols(), rows.x, rows.residual, rows.gamma, rows.beta, rows.sum, rows.y))
        return launch_for<layer_norm_wide_kernel<T>>(x, blocks_for(x.rows() * kWarp), kThreads, 0,
                                                     rows);
    launch_for<layer_norm_kernel<T>>(x, blocks_for(x.rows() * kWarp), kThreads, 0, rows);
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
    const FinishParameters<A> finish{dgamma.data<A>(), dbeta.data<A>()};
    if constexpr (!std::is_same_v<T, double>)
      if (is_wide(x.cols(), a.x, a.dy, a.gamma, a.dx)) {
        const int64_t blocks =
            std::min(enough_blocks(), (x.rows() * kWarp + kThreads - 1) / kThreads);
        Tensor sums = Tensor::empty({blocks, 2, x.cols()}, DType::f64, x.device());
        const auto run = [&]<int Pieces>() {
          launch_for<layer_norm_backward_wide_kernel<T, Pieces>>(
              x, static_cast<unsigned>(blocks), kThreads, 0, a, sums.data<double>());
        };
        // As many registers as the width of ViTs up to the base size needs, where it is enough.
        x.cols() <= piece_columns(3) ? run.template operator()<3>()
                                     : run.template operator()<kPieces>();
        return finish_sums(sums, finish);
      }
    launch_for<layer_norm_backward_kernel<T>>(x, blocks_for(x.rows() * kWarp), kThreads, 0, a);
    channel_sums(x, in_wide_columns(x.cols(), a.x, a.dy), ParameterSums<T>{a}, finish);
  });
}

}  // namespace facet
