// Elementwise operations: the functors of tensor/functors.h, one instantiation of zip_kernel each,
// or of map_kernel where they may broadcast.
#include "cuda/vec.cuh"
#include "tensor/broadcast.h"
#include "tensor/functors.h"

namespace facet {

using namespace cuda;

namespace {

template <typename F>
struct Unary {
  template <typename A>
  __device__ A operator()(A x) const {
    return F::forward(x);
  }
};
template <typename F>
struct UnaryBackward {
  template <typename A>
  __device__ A operator()(A x, A y, A dy) const {
    return dy * F::derivative(x, y);
  }
};
// Where the N elements from element N i of the output on find theirs of a and b. N > 1: 32 bits
// reach everything, and the innermost axis, counted in vectors, is whole vectors or one element
// repeated.
template <int N>
struct Walk {
  using Index = std::conditional_t<N == 1, int64_t, unsigned>;
  BroadcastPlan plan;

  explicit Walk(const BroadcastPlan& in_elements) : plan(in_elements) {
    plan.extent[plan.rank - 1] /= N;
    plan.stride_a[plan.rank - 1] *= N;
    plan.stride_b[plan.rank - 1] *= N;
  }
  template <typename T>
  __device__ void load(int64_t at, const T* left, const T* right, Vec<T, N>& a,
                       Vec<T, N>& b) const {
    Index i = static_cast<Index>(at), from_a = 0, from_b = 0;
    for (int d = plan.rank - 1; d >= 0; --d) {
      const Index rest = d > 0 ? i / static_cast<Index>(plan.extent[d]) : 0;
      const Index index = i - rest * static_cast<Index>(plan.extent[d]);
      from_a += index * static_cast<Index>(plan.stride_a[d]);
      from_b += index * static_cast<Index>(plan.stride_b[d]);
      i = rest;
    }
    a = load(left + from_a, plan.stride_a[plan.rank - 1] == 0);
    b = load(right + from_b, plan.stride_b[plan.rank - 1] == 0);
  }
  template <typename T>
  __device__ static Vec<T, N> load(const T* from, bool repeated) {
    if (!repeated) return Vec<T, N>::load(from);
    Vec<T, N> all;
    for (int k = 0; k < N; ++k) all[k] = *from;
    return all;
  }
};
template <typename T, typename F, int N>
struct Binary {
  Walk<N> walk;
  const T *left, *right;
  T* out;
  __device__ void operator()(int64_t i) const {
    Vec<T, N> x, y;
    walk.load(i, left, right, x, y);
    for (int k = 0; k < N; ++k) x[k] = static_cast<T>(F::forward(widen(x[k]), widen(y[k])));
    x.store(out + i * N);
  }
};
// da or db may be null.
template <typename T, typename F, int N>
struct BinaryBackward {
  Walk<N> walk;
  const T *left, *right, *dy;
  T *da, *db;
  __device__ void operator()(int64_t i) const {
    Vec<T, N> a, b, to_a, to_b;
    walk.load(i, left, right, a, b);
    const auto grad = Vec<T, N>::load(dy + i * N);
    for (int k = 0; k < N; ++k) {
      const auto x = widen(a[k]), y = widen(b[k]), g = widen(grad[k]);
      to_a[k] = static_cast<T>(g * F::da(x, y));
      to_b[k] = static_cast<T>(g * F::db(x, y));
    }
    if (da) to_a.store(da + i * N);
    if (db) to_b.store(db + i * N);
  }
};

// Body over `out`, 16 bytes a thread where vectors fit, else an element, the naive twin.
template <typename T, typename F, template <typename, typename, int> typename Body, typename... At>
void map_broadcast(const BroadcastPlan& plan, const Tensor& out, At*... at) {
  if constexpr (!std::is_same_v<T, double>) {
    constexpr int kWidth = 16 / sizeof(T);
    if (plan.extent[plan.rank - 1] % kWidth == 0 && aligned(at...) &&
        out.numel() <= std::numeric_limits<int>::max() && kernel_choice() != KernelChoice::naive)
      return map(out, out.numel() / kWidth, Body<T, F, kWidth>{Walk<kWidth>(plan), at...});
  }
  map(out, out.numel(), Body<T, F, 1>{Walk<1>(plan), at...});
}

template <typename A>
struct Affine {
  A alpha, beta;
  __device__ A operator()(A x) const { return alpha * x + beta; }
};
template <typename A>
struct Axpby {
  A alpha, beta;
  template <typename X, typename Y>
  __device__ A operator()(X x, Y y) const {
    const A value = alpha * A(x);
    // With beta = 0 the old y may hold anything, NaN too.
    return beta == A(0) ? value : value + beta * A(y);
  }
};
struct Convert {
  template <typename X>
  __device__ X operator()(X x) const {
    return x;
  }
};
// From or to whole numbers
template <typename From, typename To>
struct Cast {
  const From* x;
  To* y;
  __device__ void operator()(int64_t i) const {
    if constexpr (std::is_same_v<From, bf16> || std::is_same_v<To, bf16>)
      y[i] = static_cast<To>(static_cast<float>(x[i]));
    else
      y[i] = static_cast<To>(x[i]);
  }
};
template <typename T>
struct Fill {
  T value;
  T* y;
  __device__ void operator()(int64_t i) const { y[i] = value; }
};

}  // namespace

void CudaBackend::unary(UnaryOp op, const Tensor& x, Tensor& y) {
  dispatch_floating(x.dtype(), "unary", [&](auto tag) {
    using T = decltype(tag);
    switch (op) {
#define UNARY(name, low, high, reference) \
  case UnaryOp::name:                     \
    return zip(y, y.numel(), Unary<functor::name>{}, y.data<T>(), x.data<T>());
#include "tensor/unary.def"
#undef UNARY
    }
  });
}

void CudaBackend::unary_backward(UnaryOp op, const Tensor& x, const Tensor& y, const Tensor& dy,
                                 Tensor& dx) {
  dispatch_floating(x.dtype(), "unary_backward", [&](auto tag) {
    using T = decltype(tag);
    switch (op) {
#define UNARY(name, low, high, reference)                                                 \
  case UnaryOp::name:                                                                     \
    return zip(dx, dx.numel(), UnaryBackward<functor::name>{}, dx.data<T>(), x.data<T>(), \
               y.data<T>(), dy.data<T>());
#include "tensor/unary.def"
#undef UNARY
    }
  });
}

void CudaBackend::binary(BinaryOp op, const Tensor& a, const Tensor& b, Tensor& out) {
  const BroadcastPlan plan = plan_broadcast(a.shape(), b.shape(), out.shape());
  dispatch_floating(out.dtype(), "binary", [&](auto tag) {
    using T = decltype(tag);
    switch (op) {
#define BINARY(name, low, high, reference)                                              \
  case BinaryOp::name:                                                                  \
    return map_broadcast<T, functor::name, Binary>(plan, out, a.data<T>(), b.data<T>(), \
                                                   out.data<T>());
#include "tensor/binary.def"
#undef BINARY
    }
  });
}

void CudaBackend::binary_backward(BinaryOp op, const Tensor& a, const Tensor& b, const Tensor& dy,
                                  Tensor& da, Tensor& db) {
  const BroadcastPlan plan = plan_broadcast(a.shape(), b.shape(), dy.shape());
  dispatch_floating(dy.dtype(), "binary_backward", [&](auto tag) {
    using T = decltype(tag);
    T* const to_a = da.defined() ? da.data<T>() : nullptr;
    T* const to_b = db.defined() ? db.data<T>() : nullptr;
    switch (op) {
#define BINARY(name, low, high, reference)                                                     \
  case BinaryOp::name:                                                                         \
    return map_broadcast<T, functor::name, BinaryBackward>(plan, dy, a.data<T>(), b.data<T>(), \
                                                           dy.data<T>(), to_a, to_b);
#include "tensor/binary.def"
#undef BINARY
    }
  });
}

void CudaBackend::affine(double alpha, const Tensor& x, double beta, Tensor& y) {
  dispatch_floating(x.dtype(), "affine", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    zip(y, y.numel(), Affine<A>{static_cast<A>(alpha), static_cast<A>(beta)}, y.data<T>(),
        x.data<T>());
  });
}

void CudaBackend::axpby(double alpha, const Tensor& x, double beta, Tensor& y) {
  dispatch_floating(x.dtype(), "axpby", [&](auto from_tag) {
    dispatch_floating(y.dtype(), "axpby", [&](auto to_tag) {
      using From = decltype(from_tag);
      using To = decltype(to_tag);
      using A = std::common_type_t<acc_t<From>, acc_t<To>>;
      zip(y, y.numel(), Axpby<A>{static_cast<A>(alpha), static_cast<A>(beta)}, y.data<To>(),
          x.data<From>(), std::as_const(y).data<To>());
    });
  });
}

void CudaBackend::cast(const Tensor& src, Tensor& dst) {
  dispatch_any(src.dtype(), [&](auto from_tag) {
    dispatch_any(dst.dtype(), [&](auto to_tag) {
      using From = decltype(from_tag);
      using To = decltype(to_tag);
      if constexpr (std::is_same_v<From, To>)
        copy(src, dst);
      else if constexpr (is_floating(dtype_of<From>()) && is_floating(dtype_of<To>()))
        zip(dst, dst.numel(), Convert{}, dst.data<To>(), src.data<From>());
      else
        map(dst, dst.numel(), Cast<From, To>{src.data<From>(), dst.data<To>()});
    });
  });
}

void CudaBackend::fill(double value, Tensor& dst) {
  dispatch_any(dst.dtype(), [&](auto tag) {
    using T = decltype(tag);
    map(dst, dst.numel(), Fill<T>{static_cast<T>(value), dst.data<T>()});
  });
}

}  // namespace facet
