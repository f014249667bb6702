// Kernels that move elements.
#include "cuda/kernels/common.cuh"

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

// A thread for each element of out walks over all indices in order, so that the sum is the same
// every time whatever the indices are.
template <typename T>
struct ScatterAdd {
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
  dispatch_floating(x.dtype(), "scatter_add_rows", [&](auto tag) {
    using T = decltype(tag);
    map(out, out.numel(),
        ScatterAdd<T>{x.data<T>(), index.data<int64_t>(), index.numel(), x.numel() / index.numel(),
                      out.data<T>()});
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
