// Elementwise operations: the functors of tensor/functors.h, one instantiation of map_kernel each.
#include "cuda/kernels/common.cuh"
#include "tensor/broadcast.h"
#include "tensor/functors.h"

namespace facet {

using namespace cuda;

namespace {

template <typename T, typename F>
struct Unary {
  const T* x;
  T* y;
  __device__ void operator()(int64_t i) const { y[i] = static_cast<T>(F::forward(widen(x[i]))); }
};
template <typename T, typename F>
struct UnaryBackward {
  const T *x, *y, *dy;
  T* dx;
  __device__ void operator()(int64_t i) const {
    dx[i] = static_cast<T>(widen(dy[i]) * F::derivative(widen(x[i]), widen(y[i])));
  }
};

// Where element i of the output finds a and b.
struct Walk {
  BroadcastPlan plan;
  __device__ void operator()(int64_t i, int64_t& a, int64_t& b) const {
    a = b = 0;
    for (int d = plan.rank - 1; d >= 0; --d) {
      const int64_t index = d > 0 ? i % plan.extent[d] : i;
      i /= plan.extent[d];
      a += index * plan.stride_a[d];
      b += index * plan.stride_b[d];
    }
  }
};
template <typename T, typename F>
struct Binary {
  Walk walk;
  const T *left, *right;
  T* out;
  __device__ void operator()(int64_t i) const {
    int64_t a, b;
    walk(i, a, b);
    out[i] = static_cast<T>(F::forward(widen(left[a]), widen(right[b])));
  }
};
// da or db may be null.
template <typename T, typename F>
struct BinaryBackward {
  Walk walk;
  const T *left, *right, *dy;
  T *da, *db;
  __device__ void operator()(int64_t i) const {
    int64_t a, b;
    walk(i, a, b);
    const auto x = widen(left[a]), y = widen(right[b]), grad = widen(dy[i]);
    if (da) da[i] = static_cast<T>(grad * F::da(x, y));
    if (db) db[i] = static_cast<T>(grad * F::db(x, y));
  }
};

template <typename T>
struct Affine {
  acc_t<T> alpha, beta;
  const T* x;
  T* y;
  __device__ void operator()(int64_t i) const { y[i] = static_cast<T>(alpha * widen(x[i]) + beta); }
};
template <typename From, typename To>
struct Axpby {
  using Acc = std::common_type_t<acc_t<From>, acc_t<To>>;
  Acc alpha, beta;
  const From* x;
  To* y;
  __device__ void operator()(int64_t i) const {
    const Acc value = alpha * Acc(widen(x[i]));
    // With beta = 0 the old y may hold anything, NaN too.
    y[i] = static_cast<To>(beta == Acc(0) ? value : value + beta * Acc(widen(y[i])));
  }
};
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
    return map(y, y.numel(), Unary<T, functor::name>{x.data<T>(), y.data<T>()});
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
#define UNARY(name, low, high, reference) \
  case UnaryOp::name:                     \
    return map(                           \
        dx, dx.numel(),                   \
        UnaryBackward<T, functor::name>{x.data<T>(), y.data<T>(), dy.data<T>(), dx.data<T>()});
#include "tensor/unary.def"
#undef UNARY
    }
  });
}

void CudaBackend::binary(BinaryOp op, const Tensor& a, const Tensor& b, Tensor& out) {
  const Walk walk{plan_broadcast(a.shape(), b.shape(), out.shape())};
  dispatch_floating(out.dtype(), "binary", [&](auto tag) {
    using T = decltype(tag);
    switch (op) {
#define BINARY(name, low, high, reference) \
  case BinaryOp::name:                     \
    return map(out, out.numel(),           \
               Binary<T, functor::name>{walk, a.data<T>(), b.data<T>(), out.data<T>()});
#include "tensor/binary.def"
#undef BINARY
    }
  });
}

void CudaBackend::binary_backward(BinaryOp op, const Tensor& a, const Tensor& b, const Tensor& dy,
                                  Tensor& da, Tensor& db) {
  const Walk walk{plan_broadcast(a.shape(), b.shape(), dy.shape())};
  dispatch_floating(dy.dtype(), "binary_backward", [&](auto tag) {
    using T = decltype(tag);
    T* const to_a = da.defined() ? da.data<T>() : nullptr;
    T* const to_b = db.defined() ? db.data<T>() : nullptr;
    switch (op) {
#define BINARY(name, low, high, reference)                                                    \
  case BinaryOp::name:                                                                        \
    return map(dy, dy.numel(),                                                                \
               BinaryBackward<T, functor::name>{walk, a.data<T>(), b.data<T>(), dy.data<T>(), \
                                                to_a, to_b});
#include "tensor/binary.def"
#undef BINARY
    }
  });
}

void CudaBackend::affine(double alpha, const Tensor& x, double beta, Tensor& y) {
  dispatch_floating(x.dtype(), "affine", [&](auto tag) {
    using T = decltype(tag);
    map(y, y.numel(),
        Affine<T>{static_cast<acc_t<T>>(alpha), static_cast<acc_t<T>>(beta), x.data<T>(),
                  y.data<T>()});
  });
}

void CudaBackend::axpby(double alpha, const Tensor& x, double beta, Tensor& y) {
  dispatch_floating(x.dtype(), "axpby", [&](auto from_tag) {
    dispatch_floating(y.dtype(), "axpby", [&](auto to_tag) {
      using Body = Axpby<decltype(from_tag), decltype(to_tag)>;
      using Acc = typename Body::Acc;
      map(y, y.numel(),
          Body{static_cast<Acc>(alpha), static_cast<Acc>(beta), x.data<decltype(from_tag)>(),
               y.data<decltype(to_tag)>()});
    });
  });
}

void CudaBackend::cast(const Tensor& src, Tensor& dst) {
  dispatch_any(src.dtype(), [&](auto from_tag) {
    dispatch_any(dst.dtype(), [&](auto to_tag) {
      using From = decltype(from_tag);
      using To = decltype(to_tag);
      if constexpr (!std::is_same_v<From, To>)
        map(dst, dst.numel(), Cast<From, To>{src.data<From>(), dst.data<To>()});
      else
        copy(src, dst);
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
