// Reductions, arg max, top k and the search for NaNs.
#include <atomic>
#include <limits>

#include "tensor/cpu/cpu_backend.h"
#include "tensor/cpu/loops.h"

namespace facet {

using namespace cpu;

namespace {

template <typename A>
struct Sum {
  static constexpr A kNothing = 0;
  static A term(A x) { return x; }
  static A combine(A a, A b) { return a + b; }
};
template <typename A>
struct SumSquares : Sum<A> {
  static A term(A x) { return x * x; }
};
// A NaN wins, from either side.
template <typename A>
struct Max {
  static constexpr A kNothing = -std::numeric_limits<A>::infinity();
  static A term(A x) { return x; }
  static A combine(A a, A b) { return a > b || a != a ? a : b; }
};
template <typename A>
struct Min {
  static constexpr A kNothing = std::numeric_limits<A>::infinity();
  static A term(A x) { return x; }
  static A combine(A a, A b) { return a < b || a != a ? a : b; }
};

constexpr int64_t kColumns = 1024;  // of a tile: its partial results stay in the first cache
constexpr int64_t kRows = 64;       // summed one after the other; tiles are combined pairwise

// Of x[0 ... n).
template <typename Op, typename T, typename A = acc_t<T>>
A reduce_contiguous(const T* x, int64_t n) {
  if constexpr (std::is_base_of_v<Sum<A>, Op>) {
    return sum_terms<A>(0, n, [=](int64_t i) { return Op::term(widen(x[i])); });
  } else {
    constexpr int kLanes = 16;
    A lanes[kLanes];
    std::fill(lanes, lanes + kLanes, Op::kNothing);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes)
#pragma omp simd
      for (int lane = 0; lane < kLanes; ++lane)
        lanes[lane] = Op::combine(lanes[lane], widen(x[i + lane]));
    for (; i < n; ++i) lanes[0] = Op::combine(lanes[0], widen(x[i]));
    for (int lane = 1; lane < kLanes; ++lane) lanes[0] = Op::combine(lanes[0], lanes[lane]);
    return lanes[0];
  }
}

// partials[0 ... n) at `stride`, combined as a balanced tree.
template <typename Op, typename A>
A combine_tree(const A* partials, int64_t n, int64_t stride) {
  if (n == 1) return partials[0];
  const int64_t half = n / 2;
  return Op::combine(combine_tree<Op>(partials, half, stride),
                     combine_tree<Op>(partials + half * stride, n - half, stride));
}

// Two passes: partial results of tiles (outer, tile of n, inner), then a tree over the tiles of n.
template <typename Op, typename T, typename To, typename A = acc_t<T>>
void reduce_tiles(const T* x, int64_t outer, int64_t n, int64_t inner, A factor, To* y) {
  const bool contiguous = inner == 1;
  const int64_t tile = contiguous ? 4 * kBlock : kRows;
  const int64_t tiles = std::max<int64_t>(1, (n + tile - 1) / tile);
  const int64_t strips = (inner + kColumns - 1) / kColumns;
  std::vector<A> partials(static_cast<size_t>(outer * tiles * inner));
  const int64_t work = std::min(n, tile) * std::min(inner, kColumns);
  for_each_row(outer * tiles * strips, work, [&](int64_t task) {
    const int64_t strip = task % strips, t = task / strips % tiles, o = task / strips / tiles;
    const int64_t begin = t * tile, count = std::min(tile, n - begin);
    const T* from = x + (o * n + begin) * inner;
    A* to = partials.data() + (o * tiles + t) * inner;
    if (contiguous) {
      *to = reduce_contiguous<Op>(from, count);
      return;
    }
    const int64_t first = strip * kColumns, cols = std::min(kColumns, inner - first);
    A acc[kColumns];
    std::fill(acc, acc + cols, Op::kNothing);
    for (int64_t row = 0; row < count; ++row) {
      const T* values = from + row * inner + first;
#pragma omp simd
      for (int64_t j = 0; j < cols; ++j) acc[j] = Op::combine(acc[j], Op::term(widen(values[j])));
    }
    std::copy(acc, acc + cols, to + first);
  });
  for_each_row(outer, tiles * inner, [&](int64_t o) {
    const A* from = partials.data() + o * tiles * inner;
    for (int64_t j = 0; j < inner; ++j)
      y[o * inner + j] = static_cast<To>(factor * combine_tree<Op>(from + j, tiles, inner));
  });
}

// Whether a value is not finite, from its exponent.
bool is_nonfinite(float x) {
  return (std::bit_cast<uint32_t>(x) & 0x7f800000u) == 0x7f800000u;
}
bool is_nonfinite(double x) {
  return (std::bit_cast<uint64_t>(x) & 0x7ff0000000000000u) == 0x7ff0000000000000u;
}

}  // namespace

void CpuBackend::reduce(ReduceOp op, const Tensor& x, int64_t outer, int64_t n, int64_t inner,
                        Tensor& y) {
  dispatch_floating(x.dtype(), "reduce", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const T* from = x.data<T>();
    if (y.dtype() != x.dtype())
      return reduce_tiles<Sum<A>>(from, outer, n, inner, A(1), y.data<A>());
    T* to = y.data<T>();
    switch (op) {
      case ReduceOp::sum: return reduce_tiles<Sum<A>>(from, outer, n, inner, A(1), to);
      case ReduceOp::mean:
        return reduce_tiles<Sum<A>>(from, outer, n, inner, A(1) / static_cast<A>(n), to);
      case ReduceOp::max: return reduce_tiles<Max<A>>(from, outer, n, inner, A(1), to);
      case ReduceOp::min: return reduce_tiles<Min<A>>(from, outer, n, inner, A(1), to);
      case ReduceOp::sum_squares:
        return reduce_tiles<SumSquares<A>>(from, outer, n, inner, A(1), to);
    }
  });
}

void CpuBackend::argmax(const Tensor& x, Tensor& y) {
  for_each_row(x, "argmax", [&]<typename T>(T, int64_t row, int64_t cols) {
    const T* values = x.data<T>() + row * cols;
    const auto largest = max_term<acc_t<T>>(cols, [=](int64_t i) { return widen(values[i]); });
    int64_t at = 0;
    while (at < cols && widen(values[at]) != largest) ++at;
    y.data<int64_t>()[row] = at < cols ? at : 0;  // a row of NaNs gives 0
  });
}

void CpuBackend::topk(const Tensor& x, int64_t k, Tensor& values, Tensor& indices) {
  for_each_row(x, "topk", [&]<typename T>(T, int64_t row, int64_t cols) {
    struct Entry {
      acc_t<T> value;
      int64_t index;
      bool operator<(const Entry& other) const {  // "comes first"
        return value != other.value ? value > other.value : index < other.index;
      }
    };
    const T* from = x.data<T>() + row * cols;
    // A heap of the best so far with the worst of them on top.
    std::vector<Entry> best;
    best.reserve(static_cast<size_t>(k) + 1);
    for (int64_t i = 0; i < cols; ++i) {
      Entry entry{widen(from[i]), i};
      if (entry.value != entry.value)  // a NaN comes behind everything else
        entry = {-std::numeric_limits<acc_t<T>>::infinity(), cols + i};
      if (i >= k && !(entry < best.front())) continue;
      best.push_back(entry);
      std::push_heap(best.begin(), best.end());
      if (i < k) continue;
      std::pop_heap(best.begin(), best.end());
      best.pop_back();
    }
    std::sort_heap(best.begin(), best.end());
    for (int64_t i = 0; i < k; ++i) {
      const int64_t at = best[static_cast<size_t>(i)].index % cols;
      values.data<T>()[row * k + i] = from[at];
      indices.data<int64_t>()[row * k + i] = at;
    }
  });
}

void CpuBackend::find_nonfinite(std::span<const Tensor> tensors, int64_t& index) {
  const TensorBlocks blocks(tensors);
  std::vector<std::atomic<bool>> bad(tensors.size());
  blocks.for_each([&](int64_t, size_t t, int64_t begin, int64_t end) {
    dispatch_floating(tensors[t].dtype(), "find_nonfinite", [&](auto tag) {
      using T = decltype(tag);
      const T* values = tensors[t].data<T>();
      int found = 0;
#pragma omp simd reduction(| : found)
      for (int64_t i = begin; i < end; ++i) found |= is_nonfinite(widen(values[i]));
      if (found) bad[t].store(true, std::memory_order_relaxed);
    });
  });
  const auto first = std::find_if(bad.begin(), bad.end(), [](const auto& b) { return b.load(); });
  index = first == bad.end() ? -1 : first - bad.begin();
}

}  // namespace facet
