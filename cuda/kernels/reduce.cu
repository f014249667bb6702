// Reductions, arg max, top k and the search for NaNs. Sums are trees of fixed shape.
#include "cuda/kernels/columns.cuh"
#include "cuda/kernels/sort.cuh"
#include "cuda/kernels/tensors.cuh"
#include "cuda/vec.cuh"

namespace facet {

using namespace cuda;

namespace {

template <typename A>
struct SumOp {
  using Combine = Add;
  static constexpr A kNothing = 0;
  __device__ static A term(A x) { return x; }
};
template <typename A>
struct SumSquaresOp : SumOp<A> {
  __device__ static A term(A x) { return x * x; }
};
template <typename A>
struct MaxOp {
  using Combine = Max;
  static constexpr A kNothing = -std::numeric_limits<A>::infinity();
  __device__ static A term(A x) { return x; }
};
template <typename A>
struct MinOp {
  using Combine = Min;
  static constexpr A kNothing = std::numeric_limits<A>::infinity();
  __device__ static A term(A x) { return x; }
};

constexpr int64_t kRowsAtOnce = 1024;  // of n: longer axes are cut, so that all blocks have work

// x seen as (outer, n, inner); part (outer, parts, inner) = reduction of rows
// [part * kRowsAtOnce, ...) of n. inner = 1: grid (outer * parts), a block each.
// factor is applied by the last pass.
template <typename T, typename Op>
__global__ void reduce_rows_kernel(const T* x, int64_t n, int64_t parts, int64_t total,
                                   acc_t<T> factor, acc_t<T>* part, T* y) {
  using A = acc_t<T>;
  SHARED_ARRAY(A, scratch, 32);
  for (int64_t p = blockIdx.x; p < total; p += gridDim.x) {
    const int64_t begin = p % parts * kRowsAtOnce, end = min(begin + kRowsAtOnce, n);
    const T* const from = x + p / parts * n;
    A value = Op::kNothing;
    for (int64_t i = begin + threadIdx.x; i < end; i += blockDim.x)
      value = typename Op::Combine{}(value, Op::term(widen(from[i])));
    value = block_reduce(value, typename Op::Combine{}, Op::kNothing, scratch);
    if (threadIdx.x == 0) {
      if (y)
        y[p] = static_cast<T>(factor * value);
      else
        part[p] = value;
    }
  }
}

// inner > 1: a thread for each (outer, part, inner), neighbours read neighbours.
template <typename T, typename Op>
__global__ void reduce_columns_kernel(const T* x, int64_t n, int64_t inner, int64_t parts,
                                      int64_t total, acc_t<T> factor, acc_t<T>* part, T* y) {
  using A = acc_t<T>;
  for (int64_t i = first_element(); i < total; i += element_stride()) {
    const int64_t column = i % inner, p = i / inner;
    const int64_t begin = p % parts * kRowsAtOnce, end = min(begin + kRowsAtOnce, n);
    const T* const from = x + p / parts * n * inner + column;
    A value = Op::kNothing;
    for (int64_t r = begin; r < end; ++r)
      value = typename Op::Combine{}(value, Op::term(widen(from[r * inner])));
    if (y)
      y[i] = static_cast<T>(factor * value);
    else
      part[i] = value;
  }
}

// y (outer, inner) = factor * combination over `parts` of part, in order.
template <typename T, typename Op>
struct CombineParts {
  const acc_t<T>* part;
  T* y;
  int64_t parts, inner;
  acc_t<T> factor;
  __device__ void operator()(int64_t i) const {
    const acc_t<T>* const from = part + i / inner * parts * inner + i % inner;
    acc_t<T> value = Op::kNothing;
    for (int64_t p = 0; p < parts; ++p) value = typename Op::Combine{}(value, from[p * inner]);
    y[i] = static_cast<T>(factor * value);
  }
};

// Sums over the rows of a matrix.
template <typename T>
struct ColumnSum {
  using A = acc_t<T>;
  const T* x;
  int64_t cols;
  template <int N>
  __device__ int columns(int64_t) const {
    return 0;
  }
  template <int N>
  __device__ void add(int, int64_t row, int64_t col, A (&s)[N], A (&)[N]) const {
    const auto values = Vec<T, N>::load(x + row * cols + col);
    for (int k = 0; k < N; ++k) s[k] += widen(values[k]);
  }
};
template <typename T>
struct FinishSum {
  T* y;
  double factor;
  __device__ void operator()(int64_t c, double s, double) const {
    y[c] = static_cast<T>(static_cast<acc_t<T>>(factor * s));
  }
};

template <typename T, typename Op>
void reduce_as(const Tensor& x, int64_t outer, int64_t n, int64_t inner, double factor_,
               Tensor& y) {
  using A = acc_t<T>;
  const bool to_sums = y.dtype() != x.dtype();  // f32 of bf16
  if constexpr (std::is_same_v<Op, SumOp<A>>)
    if (outer == 1 && inner > 1 && kernel_choice() != KernelChoice::naive) {
      const Tensor matrix = x.reshape({n, inner});
      const bool wide = in_wide_columns(inner, x.data<T>());
      const ColumnSum<T> sums{x.data<T>(), inner};
      if (to_sums) return channel_sums(matrix, wide, sums, FinishSum<A>{y.data<A>(), factor_});
      return channel_sums(matrix, wide, sums, FinishSum<T>{y.data<T>(), factor_});
    }
  const int64_t parts = std::max<int64_t>(1, (n + kRowsAtOnce - 1) / kRowsAtOnce);
  const bool whole = parts == 1;
  const auto factor = static_cast<A>(factor_);
  Tensor part;
  if (!whole)
    part = Tensor::empty({outer, parts, inner}, acc_dtype(x.dtype()), x.device());
  else if (to_sums)
    part = y;
  A* const partial = part.defined() ? part.data<A>() : nullptr;
  T* const out = partial ? nullptr : y.data<T>();
  const int64_t total = outer * parts * inner;
  if (inner == 1)
    launch_for<reduce_rows_kernel<T, Op>>(y, blocks_for_rows(total), kThreads, 0, x.data<T>(), n,
                                          parts, total, factor, partial, out);
  else
    launch_for<reduce_columns_kernel<T, Op>>(y, blocks_for(total), kThreads, 0, x.data<T>(), n,
                                             inner, parts, total, factor, partial, out);
  if (whole) return;
  if (to_sums)
    map(y, outer * inner, CombineParts<A, SumOp<A>>{partial, y.data<A>(), parts, inner, factor});
  else
    map(y, outer * inner, CombineParts<T, Op>{partial, y.data<T>(), parts, inner, factor});
}

// Largest value of a row and where it is (the first of equals); a row of NaNs gives 0.
template <typename A>
struct Best {
  A value;
  int64_t index;
};
struct BestOf {
  template <typename A>
  __device__ Best<A> operator()(Best<A> a, Best<A> b) const {
    if (a.value != b.value) return a.value > b.value ? a : b;
    return a.index <= b.index ? a : b;
  }
};

constexpr int kSorted = 2048;  // entries that a block sorts at once
constexpr int64_t kMaxMerged = kSorted / 2;

struct BestFirst {
  template <typename A>
  __device__ bool operator()(Best<A> a, Best<A> b) const {
    return a.value != b.value ? a.value > b.value : a.index < b.index;
  }
};

// x[i] of a row of `cols`; a NaN comes behind everything else.
template <typename A>
__device__ Best<A> entry(A value, int64_t i, int64_t cols) {
  if (value == value) return {value, i};
  return {-std::numeric_limits<A>::infinity(), cols + i};
}

// The k best of each row in order (value descending, index ascending), k <= kMaxMerged: the best so
// far and the next part of the row are sorted together. Grid: rows in strides; block: kThreads;
// shared: 2048 entries.
template <typename T>
__global__ void topk_kernel(const T* x, int64_t rows, int64_t cols, int64_t k, T* values,
                            int64_t* indices) {
  using A = acc_t<T>;
  SHARED_ARRAY(Best<A>, entries, kSorted);
  const Best<A> nothing{-std::numeric_limits<A>::infinity(), std::numeric_limits<int64_t>::max()};
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    int64_t next = 0;
    do {
      const int64_t kept = next == 0 ? 0 : k;
      for (int64_t i = kept + threadIdx.x; i < kSorted; i += blockDim.x) {
        const int64_t at = next + i - kept;
        entries[i] = at < cols ? entry(widen(x[row * cols + at]), at, cols) : nothing;
      }
      next += kSorted - kept;
      block_sort(entries, kSorted, BestFirst{});
    } while (next < cols);
    for (int64_t j = threadIdx.x; j < k; j += blockDim.x) {
      const int64_t at = entries[j].index - (entries[j].index < cols ? 0 : cols);
      values[row * k + j] = x[row * cols + at];
      indices[row * k + j] = at;
    }
    __syncthreads();
  }
}

constexpr int64_t kMaxRounds = 8;

// One entry after the other: the best of those behind the last one; NaNs come last. N neighbours at
// once, or 1, the naive twin; `values` may be null. Grid: rows in strides; block: kThreads or a
// warp.
template <int N, typename T>
__global__ void topk_rounds_kernel(const T* x, int64_t rows, int64_t cols, int64_t k, T* values,
                                   int64_t* indices) {
  using A = acc_t<T>;
  SHARED_ARRAY(Best<A>, scratch, 32);
  const A lowest = -std::numeric_limits<A>::infinity();
  const Best<A> nothing{lowest, std::numeric_limits<int64_t>::max()};
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* const from = x + row * cols;
    Best<A> last{-lowest, -1};
    for (int64_t j = row * k; j < (row + 1) * k; ++j) {
      Best<A> best = nothing;
      for (int64_t i = threadIdx.x * N; i < cols; i += blockDim.x * N) {
        const auto some = Vec<T, N>::load(from + i);
        for (int m = 0; m < N; ++m) {
          const Best<A> here = entry(widen(some[m]), i + m, cols);
          if (BestFirst{}(last, here) && BestFirst{}(here, best)) best = here;
        }
      }
      last = block_reduce(best, BestOf{}, nothing, scratch);
      if (threadIdx.x == 0) {
        indices[j] = last.index - (last.index < cols ? 0 : cols);
        if (values) values[j] = from[indices[j]];
      }
    }
  }
}
template <typename T>
void topk_rounds(const Tensor& x, int64_t k, T* values, int64_t* indices) {
  const auto rounds = [&]<int N>(std::integral_constant<int, N>) {
    // A warp's 8 loads are soon there; many rounds are naive.
    const int threads = x.cols() <= kWarp * 8 * N || k > kMaxRounds ? kWarp : kThreads;
    launch_for<topk_rounds_kernel<N, T>>(x, blocks_for_rows(x.rows()), threads, 0, x.data<T>(),
                                         x.rows(), x.cols(), k, values, indices);
  };
  constexpr int kWidth = 16 / sizeof(T);
  if (x.cols() % kWidth == 0 && aligned(x.raw()) && kernel_choice() != KernelChoice::naive)
    rounds(std::integral_constant<int, kWidth>{});
  else
    rounds(std::integral_constant<int, 1>{});
}

// bad[tensor] = 1 where it holds a value that is not finite: x - x is 0 for finite x alone.
template <typename T>
struct MarkNonfinite {
  int32_t* bad;
  __device__ void operator()(const Quad& quad, int32_t tensor, int64_t i) const {
    const auto value = widen(static_cast<const T*>(quad.data[0])[i]);
    if (!(value - value == 0)) atomicMax(bad + tensor, int32_t{1});
  }
};

}  // namespace

void CudaBackend::reduce(ReduceOp op, const Tensor& x, int64_t outer, int64_t n, int64_t inner,
                         Tensor& y) {
  dispatch_floating(x.dtype(), "reduce", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    switch (op) {
      case ReduceOp::sum: return reduce_as<T, SumOp<A>>(x, outer, n, inner, 1.0, y);
      case ReduceOp::mean:
        return reduce_as<T, SumOp<A>>(x, outer, n, inner, 1.0 / static_cast<double>(n), y);
      case ReduceOp::max: return reduce_as<T, MaxOp<A>>(x, outer, n, inner, 1.0, y);
      case ReduceOp::min: return reduce_as<T, MinOp<A>>(x, outer, n, inner, 1.0, y);
      case ReduceOp::sum_squares: return reduce_as<T, SumSquaresOp<A>>(x, outer, n, inner, 1.0, y);
    }
  });
}

void CudaBackend::argmax(const Tensor& x, Tensor& y) {
  dispatch_floating(x.dtype(), "argmax", [&](auto tag) {
    using T = decltype(tag);
    topk_rounds<T>(x, 1, nullptr, y.data<int64_t>());
  });
}

void CudaBackend::topk(const Tensor& x, int64_t k, Tensor& values, Tensor& indices) {
  dispatch_floating(x.dtype(), "topk", [&](auto tag) {
    using T = decltype(tag);
    T* const best = values.data<T>();
    int64_t* const at = indices.data<int64_t>();
    if (k <= kMaxRounds || k > kMaxMerged || kernel_choice() == KernelChoice::naive)
      return topk_rounds<T>(x, k, best, at);
    launch_for<topk_kernel<T>>(values, blocks_for_rows(x.rows()), kThreads, 0, x.data<T>(),
                               x.rows(), x.cols(), k, best, at);
  });
}

void CudaBackend::find_nonfinite(std::span<const Tensor> tensors, int64_t& index) {
  index = -1;
  const auto search = [&](auto tag) {
    using T = decltype(tag);
    with_group<T>(tensors, {}, [&](const TensorGroup& group, const std::vector<size_t>& at) {
      Tensor bad =
          Tensor::zeros({static_cast<int64_t>(at.size())}, DType::i32, tensors[at[0]].device());
      group.for_each(MarkNonfinite<T>{bad.data<int32_t>()});
      const std::vector<int32_t> marks = bad.to_vector<int32_t>();
      for (size_t t = 0; t < at.size(); ++t)
        if (marks[t] && (index < 0 || static_cast<int64_t>(at[t]) < index))
          index = static_cast<int64_t>(at[t]);
    });
  };
  search(float{});
  search(bf16{});
  search(double{});
}

}  // namespace facet
