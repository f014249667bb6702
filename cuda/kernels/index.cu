// Kernels that move elements.
#include "cuda/kernels/sort.cuh"

namespace facet {

using namespace cuda;

namespace {

template <typename T>
struct Gather {
  const T* x;
  const int64_t* index;
  int64_t cols;
  T* y;
  __device__ void operator()(int64_t i) const { y[i] = x[index[i / cols] * cols + i % cols]; }
};

// The naive twin: a thread for each element of out walks over all indices in order.
template <typename T>
struct NaiveScatterAdd {
  const T* x;
  const int64_t* index;
  int64_t sources, cols;
  T* out;
  __device__ void operator()(int64_t i) const {
    const int64_t row = i / cols, col = i % cols;
    acc_t<T> sum = widen(out[i]);
    bool any = false;
    for (int64_t k = 0; k < sources; ++k)
      if (index[k] == row) {
        sum += widen(x[k * cols + col]);
        any = true;
      }
    if (any) out[i] = static_cast<T>(sum);
  }
};

// Source i of row r has the key r * sources + i: sorted, the sources of a row lie side by side in
// ascending order, and no two keys are equal, so that there is one way to sort them.
struct SourceKeys {
  const int64_t* index;
  int64_t sources;
  int64_t* keys;
  __device__ void operator()(int64_t i) const { keys[i] = index[i] * sources + i; }
};
// first[row] = how many keys are of rows before it
struct FirstOfRow {
  const int64_t* keys;
  int64_t sources;
  int64_t* first;
  __device__ void operator()(int64_t row) const {
    int64_t low = 0, high = sources;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (keys[middle] < row * sources)
        low = middle + 1;
      else
        high = middle;
    }
    first[row] = low;
  }
};
// A thread for each element of out adds up its row's sources in order.
template <typename T>
struct ScatterAdd {
  const T* x;
  const int64_t *keys, *first;
  int64_t sources, cols;
  T* out;
  __device__ void operator()(int64_t i) const {
    const int64_t row = i / cols, begin = first[row], end = first[row + 1];
    if (begin == end) return;
    const T* const column = x + i % cols;
    acc_t<T> sum = widen(out[i]);
    for (int64_t k = begin; k < end; ++k) sum += widen(column[(keys[k] - row * sources) * cols]);
    out[i] = static_cast<T>(sum);
  }
};

template <typename Word>
struct CopyBlock {
  const Word* x;
  BlockArgs block;
  Word* y;
  __device__ void operator()(int64_t i) const {
    const int64_t row = i / block.width, col = i % block.width;
    y[row * block.to_pitch + block.to_first + col] =
        x[row * block.from_pitch + block.from_first + col];
  }
};

// y's axes with the strides at which they walk over x.
struct PermuteWalk {
  int rank;
  int64_t extent[Shape::kMaxRank], stride[Shape::kMaxRank];
};
template <typename Word>
struct Permute {
  const Word* x;
  PermuteWalk walk;
  Word* y;
  __device__ void operator()(int64_t i) const {
    int64_t rest = i, at = 0;
    for (int d = walk.rank - 1; d >= 0; --d) {
      at += rest % walk.extent[d] * walk.stride[d];
      rest /= walk.extent[d];
    }
    y[i] = x[at];
  }
};

// f(Word{}) with an unsigned type as large as an element: its bits alone matter.
template <typename F>
void with_word(DType dtype, F&& f) {
  switch (size_of(dtype)) {
    case 1: return f(uint8_t{});
    case 2: return f(uint16_t{});
    case 4: return f(uint32_t{});
    default: return f(uint64_t{});
  }
}
template <typename Word>
const Word* words(const Tensor& t) {
  return static_cast<const Word*>(t.raw());
}

}  // namespace

void CudaBackend::gather_rows(const Tensor& x, const Tensor& index, Tensor& y) {
  if (y.numel() == 0) return;
  with_word(x.dtype(), [&](auto tag) {
    using Word = decltype(tag);
    map(y, y.numel(),
        Gather<Word>{words<Word>(x), index.data<int64_t>(), y.numel() / index.numel(),
                     static_cast<Word*>(y.raw())});
  });
}

void CudaBackend::scatter_add_rows(const Tensor& x, const Tensor& index, Tensor& out) {
  if (x.numel() == 0) return;
  const int64_t rows = out.dim(0), sources = index.numel(), cols = x.numel() / sources;
  const int64_t* const at = index.data<int64_t>();
  const bool naive = kernel_choice() == KernelChoice::naive;
  Tensor sorted, starts;
  if (!naive) {
    sorted = Tensor::empty({sources}, DType::i64, x.device());
    starts = Tensor::empty({rows + 1}, DType::i64, x.device());
    int64_t *const keys = sorted.data<int64_t>(), *const first = starts.data<int64_t>();
    map(out, sources, SourceKeys{at, sources, keys});
    sort_keys<int64_t>(sorted);
    map(out, rows + 1, FirstOfRow{keys, sources, first});
  }
  dispatch_floating(x.dtype(), "scatter_add_rows", [&](auto tag) {
    using T = decltype(tag);
    if (naive)
      map(out, out.numel(), NaiveScatterAdd<T>{x.data<T>(), at, sources, cols, out.data<T>()});
    else
      map(out, out.numel(),
          ScatterAdd<T>{x.data<T>(), sorted.data<int64_t>(), starts.data<int64_t>(), sources, cols,
                        out.data<T>()});
  });
}

void CudaBackend::copy_block(const Tensor& x, const BlockArgs& block, Tensor& y) {
  with_word(x.dtype(), [&](auto tag) {
    using Word = decltype(tag);
    map(y, block.rows * block.width,
        CopyBlock<Word>{words<Word>(x), block, static_cast<Word*>(y.raw())});
  });
}

void CudaBackend::permute(const Tensor& x, std::span<const int> axes, Tensor& y) {
  int64_t stride_x[Shape::kMaxRank] = {}, stride = 1;
  for (int d = x.rank() - 1; d >= 0; --d) {
    stride_x[d] = stride;
    stride *= x.dim(d);
  }
  PermuteWalk walk{x.rank(), {}, {}};
  for (int d = 0; d < x.rank(); ++d) {
    walk.extent[d] = y.dim(d);
    walk.stride[d] = stride_x[axes[static_cast<size_t>(d)]];
  }
  with_word(x.dtype(), [&](auto tag) {
    using Word = decltype(tag);
    map(y, y.numel(), Permute<Word>{words<Word>(x), walk, static_cast<Word*>(y.raw())});
  });
}

}  // namespace facet
