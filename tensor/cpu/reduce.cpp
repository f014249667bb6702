// Reductions, arg max and top-k. Sums run in fixed blocks whose partial sums are combined in
// order, so a result does not depend on the number of threads and f32 error grows with the number
// of blocks, not of terms.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "tensor/cpu/cpu_backend.h"
#include "tensor/parallel.h"

namespace facet {
namespace {

constexpr int64_t kBlock = 4096;  // terms of one partial sum
constexpr int64_t kGrain = 1 << 14;

template <ReduceOp op, typename A>
A start() {
  if constexpr (op == ReduceOp::max) return -std::numeric_limits<A>::infinity();
  if constexpr (op == ReduceOp::min) return std::numeric_limits<A>::infinity();
  return A(0);
}

template <ReduceOp op, typename A>
A join(A sum, A v) {
  // max and min keep a NaN once they have seen one.
  if constexpr (op == ReduceOp::max) return v > sum || v != v ? v : sum;
  else if constexpr (op == ReduceOp::min) return v < sum || v != v ? v : sum;
  else return sum + v;
}

template <ReduceOp op, typename A>
A term(A v) {
  if constexpr (op == ReduceOp::sum_squares) return v * v;
  else return v;
}

// 32 independent lanes, then a tree: vectorises and halves the length of every chain of additions.
template <ReduceOp op, typename T>
acc_t<T> reduce_block(const T* x, int64_t n) {
  using A = acc_t<T>;
  constexpr int kLanes = 32;
  A lane[kLanes];
  std::fill(lane, lane + kLanes, start<op, A>());
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) lane[l] = join<op>(lane[l], term<op>(A(x[i + l])));
  for (int l = 0; i < n; ++i, ++l) lane[l] = join<op>(lane[l], term<op>(A(x[i])));
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int l = 0; l < width; ++l) lane[l] = join<op>(lane[l], lane[l + width]);
  return lane[0];
}

template <ReduceOp op, typename A>
A finish(A sum, int64_t n) {
  return op == ReduceOp::mean ? sum / static_cast<A>(n) : sum;
}

// inner == 1: each output is one contiguous run.
template <ReduceOp op, typename T>
void reduce_runs(const T* x, int64_t outer, int64_t n, T* y) {
  using A = acc_t<T>;
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  if (blocks == 1) {
    parallel_for(outer, std::max<int64_t>(1, kGrain / n), [&](int64_t begin, int64_t end) {
      for (int64_t o = begin; o < end; ++o)
        y[o] = T(finish<op>(reduce_block<op>(x + o * n, n), n));
    });
    return;
  }
  std::vector<A> partial(static_cast<size_t>(outer * blocks));
  parallel_for(outer * blocks, kGrain / kBlock, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t o = i / blocks, b = i % blocks;
      partial[static_cast<size_t>(i)] =
          reduce_block<op>(x + o * n + b * kBlock, std::min(kBlock, n - b * kBlock));
    }
  });
  for (int64_t o = 0; o < outer; ++o) {
    // Pairwise over the blocks; sum_squares' partial sums are plain sums by now.
    A* p = partial.data() + o * blocks;
    constexpr ReduceOp fold = op == ReduceOp::sum_squares ? ReduceOp::sum : op;
    for (int64_t width = 1; width < blocks; width *= 2)
      for (int64_t i = 0; i + width < blocks; i += 2 * width) p[i] = join<fold>(p[i], p[i + width]);
    y[o] = T(finish<op>(p[0], n));
  }
}

// inner > 1: columns are reduced side by side, rows in blocks of 64 and these in order.
template <ReduceOp op, typename T>
void reduce_columns(const T* x, int64_t outer, int64_t n, int64_t inner, T* y) {
  using A = acc_t<T>;
  constexpr int64_t kRows = 64, kColumns = 256;
  const int64_t strips = (inner + kColumns - 1) / kColumns;
  constexpr ReduceOp fold = op == ReduceOp::sum_squares ? ReduceOp::sum : op;
  parallel_for(outer * strips, std::max<int64_t>(1, kGrain / (n * std::min(inner, kColumns))),
               [&](int64_t begin, int64_t end) {
    A total[kColumns], partial[kColumns];
    for (int64_t s = begin; s < end; ++s) {
      const int64_t o = s / strips, first = (s % strips) * kColumns;
      const int64_t width = std::min(kColumns, inner - first);
      std::fill(total, total + width, start<op, A>());
      for (int64_t row = 0; row < n; row += kRows) {
        std::fill(partial, partial + width, start<op, A>());
        for (int64_t r = row; r < std::min(n, row + kRows); ++r) {
          const T* from = x + (o * n + r) * inner + first;
#pragma omp simd
          for (int64_t c = 0; c < width; ++c) partial[c] = join<op>(partial[c], term<op>(A(from[c])));
        }
#pragma omp simd
        for (int64_t c = 0; c < width; ++c) total[c] = join<fold>(total[c], partial[c]);
      }
      for (int64_t c = 0; c < width; ++c) y[o * inner + first + c] = T(finish<op>(total[c], n));
    }
  });
}

template <typename F>
void dispatch_reduce(ReduceOp op, F&& f) {
  switch (op) {
    case ReduceOp::sum: return f(std::integral_constant<ReduceOp, ReduceOp::sum>{});
    case ReduceOp::mean: return f(std::integral_constant<ReduceOp, ReduceOp::mean>{});
    case ReduceOp::max: return f(std::integral_constant<ReduceOp, ReduceOp::max>{});
    case ReduceOp::min: return f(std::integral_constant<ReduceOp, ReduceOp::min>{});
    case ReduceOp::sum_squares:
      return f(std::integral_constant<ReduceOp, ReduceOp::sum_squares>{});
  }
}

}  // namespace

void CpuBackend::reduce(ReduceOp op, const Tensor& x, int64_t outer, int64_t n, int64_t inner,
                        Tensor& y) {
  dispatch_floating(x.dtype(), "reduce", [&](auto tag) {
    using T = decltype(tag);
    dispatch_reduce(op, [&](auto op_tag) {
      constexpr ReduceOp kOp = op_tag.value;
      if (inner == 1)
        reduce_runs<kOp>(x.data<T>(), outer, n, y.data<T>());
      else
        reduce_columns<kOp>(x.data<T>(), outer, n, inner, y.data<T>());
    });
  });
}

void CpuBackend::argmax(const Tensor& x, Tensor& y) {
  dispatch_floating(x.dtype(), "argmax", [&](auto tag) {
    using T = decltype(tag);
    const int64_t cols = x.cols();
    const T* from = x.data<T>();
    int64_t* to = y.data<int64_t>();
    parallel_for(x.rows(), std::max<int64_t>(1, kGrain / cols), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* row = from + r * cols;
        int64_t best = 0;
        for (int64_t c = 1; c < cols; ++c)
          if (static_cast<acc_t<T>>(row[c]) > static_cast<acc_t<T>>(row[best])) best = c;
        to[r] = best;
      }
    });
  });
}

void CpuBackend::topk(const Tensor& x, int64_t k, Tensor& values, Tensor& indices) {
  dispatch_floating(x.dtype(), "topk", [&](auto tag) {
    using T = decltype(tag);
    const int64_t cols = x.cols();
    const T* from = x.data<T>();
    T* best = values.data<T>();
    int64_t* where = indices.data<int64_t>();
    parallel_for(x.rows(), std::max<int64_t>(1, kGrain / cols), [&](int64_t begin, int64_t end) {
      std::vector<int64_t> order(static_cast<size_t>(cols));
      for (int64_t r = begin; r < end; ++r) {
        const T* row = from + r * cols;
        std::iota(order.begin(), order.end(), int64_t{0});
        const auto before = [row](int64_t a, int64_t b) {
          const acc_t<T> va(row[a]), vb(row[b]);
          return va > vb || (va == vb && a < b);
        };
        std::nth_element(order.begin(), order.begin() + (k - 1), order.end(), before);
        std::sort(order.begin(), order.begin() + k, before);
        for (int64_t i = 0; i < k; ++i) {
          best[r * k + i] = row[order[static_cast<size_t>(i)]];
          where[r * k + i] = order[static_cast<size_t>(i)];
        }
      }
    });
  });
}

void CpuBackend::find_nonfinite(std::span<const Tensor> tensors, int64_t& index) {
  index = -1;
  for (size_t t = 0; t < tensors.size() && index < 0; ++t) {
    dispatch_floating(tensors[t].dtype(), "find_nonfinite", [&](auto tag) {
      using T = decltype(tag);
      using A = acc_t<T>;
      const T* x = tensors[t].data<T>();
      const int64_t n = tensors[t].numel();
      std::vector<uint8_t> bad(static_cast<size_t>(parallel_parts(n, kGrain)));
      parallel_for_parts(n, kGrain, [&](int part, int64_t begin, int64_t end) {
        // v * 0 is 0 for finite v and NaN otherwise; one sum a part, no branch an element.
        A sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = begin; i < end; ++i) sum += A(x[i]) * A(0);
        bad[static_cast<size_t>(part)] = !(sum == A(0));
      });
      if (std::find(bad.begin(), bad.end(), 1) != bad.end()) index = static_cast<int64_t>(t);
    });
  }
}

}  // namespace facet
