// Elementwise kernels: the functors of tensor/functors.h in vectorised loops.
#include "tensor/broadcast.h"
#include "tensor/cpu/cpu_backend.h"
#include "tensor/cpu/loops.h"
#include "tensor/functors.h"

namespace facet {

using namespace cpu;

namespace {

// In f32 with one exponential, which the density needs, too: the normal distribution by Abramowitz
// & Stegun 7.1.26, to 1e-7. A quarter faster than by erf, backward 1.7 times.
struct Gelu : functor::gelu {
  using functor::gelu::derivative, functor::gelu::forward;
  static float forward(float x) { return x * cdf(x, std::exp(-0.5f * x * x)); }
  static float derivative(float x, float) {
    const float e = std::exp(-0.5f * x * x);
    return cdf(x, e) + x * 0.39894228f * e;
  }

 private:
  static float cdf(float x, float e) {
    const float t = 1 / (1 + 0.23164190f * std::fabs(x));
    const float p = 1.421413741f + t * (-1.453152027f + t * 1.061405429f);
    const float tail = 0.5f * e * t * (0.254829592f + t * (-0.284496736f + t * p));
    return x < 0 ? tail : 1 - tail;
  }
};
template <typename F>
F of_cpu(F f) {
  return f;
}
Gelu of_cpu(functor::gelu) {
  return {};
}

template <typename F>
void with_functor(UnaryOp op, F&& f) {
  switch (op) {
#define UNARY(name, low, high, reference) \
  case UnaryOp::name:                     \
    return f(of_cpu(functor::name{}));
#include "tensor/unary.def"
#undef UNARY
  }
}

template <typename F>
void with_functor(BinaryOp op, F&& f) {
  switch (op) {
#define BINARY(name, low, high, reference) \
  case BinaryOp::name:                     \
    return f(functor::name{});
#include "tensor/binary.def"
#undef BINARY
  }
}

// assign(i) for all i, in any order.
template <typename Assign>
void map(int64_t n, const Assign& assign) {
  for_each_block(n, [&](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) assign(i);
  });
}

template <int kStrideA, int kStrideB, typename Assign>
void map_segment(int64_t count, int64_t out, int64_t a, int64_t b, const Assign& assign) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) assign(out + i, a + kStrideA * i, b + kStrideB * i);
}

// assign(position in the output, in a, in b) for all elements of a broadcast.
template <typename Assign>
void map_broadcast(const BroadcastPlan& plan, const Assign& assign) {
  const int inner = plan.rank - 1;
  const int64_t cols = plan.extent[inner];
  const int64_t stride_a = plan.stride_a[inner], stride_b = plan.stride_b[inner];
  int64_t n = 1;
  for (int d = 0; d < plan.rank; ++d) n *= plan.extent[d];
  for_each_block(n, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      int64_t row = begin / cols;
      const int64_t col = begin % cols, count = std::min(cols - col, end - begin);
      int64_t a = stride_a * col, b = stride_b * col;
      for (int d = inner - 1; d >= 0; --d) {
        const int64_t index = row % plan.extent[d];
        row /= plan.extent[d];
        a += index * plan.stride_a[d];
        b += index * plan.stride_b[d];
      }
      if (stride_a && stride_b)
        map_segment<1, 1>(count, begin, a, b, assign);
      else if (stride_a)
        map_segment<1, 0>(count, begin, a, b, assign);
      else if (stride_b)
        map_segment<0, 1>(count, begin, a, b, assign);
      else
        map_segment<0, 0>(count, begin, a, b, assign);
      begin += count;
    }
  });
}

}  // namespace

void CpuBackend::unary(UnaryOp op, const Tensor& x, Tensor& y) {
  dispatch_floating(x.dtype(), "unary", [&](auto tag) {
    using T = decltype(tag);
    const T* from = x.data<T>();
    T* to = y.data<T>();
    with_functor(op, [&](auto f) {
      map(x.numel(), [=](int64_t i) { to[i] = static_cast<T>(f.forward(widen(from[i]))); });
    });
  });
}

void CpuBackend::unary_backward(UnaryOp op, const Tensor& x, const Tensor& y, const Tensor& dy,
                                Tensor& dx) {
  dispatch_floating(x.dtype(), "unary_backward", [&](auto tag) {
    using T = decltype(tag);
    const T *in = x.data<T>(), *out = y.data<T>(), *grad = dy.data<T>();
    T* to = dx.data<T>();
    with_functor(op, [&](auto f) {
      map(x.numel(), [=](int64_t i) {
        to[i] = static_cast<T>(widen(grad[i]) * f.derivative(widen(in[i]), widen(out[i])));
      });
    });
  });
}

void CpuBackend::binary(BinaryOp op, const Tensor& a, const Tensor& b, Tensor& out) {
  const BroadcastPlan plan = plan_broadcast(a.shape(), b.shape(), out.shape());
  dispatch_floating(out.dtype(), "binary", [&](auto tag) {
    using T = decltype(tag);
    const T *left = a.data<T>(), *right = b.data<T>();
    T* to = out.data<T>();
    with_functor(op, [&](auto f) {
      map_broadcast(plan, [=](int64_t i, int64_t j, int64_t k) {
        to[i] = static_cast<T>(f.forward(widen(left[j]), widen(right[k])));
      });
    });
  });
}

void CpuBackend::binary_backward(BinaryOp op, const Tensor& a, const Tensor& b, const Tensor& dy,
                                 Tensor& da, Tensor& db) {
  const BroadcastPlan plan = plan_broadcast(a.shape(), b.shape(), dy.shape());
  dispatch_floating(dy.dtype(), "binary_backward", [&](auto tag) {
    using T = decltype(tag);
    const T *left = a.data<T>(), *right = b.data<T>(), *grad = dy.data<T>();
    with_functor(op, [&](auto f) {
      const auto write = [&](Tensor& to_tensor, auto slope) {
        if (!to_tensor.defined()) return;
        T* to = to_tensor.data<T>();
        map_broadcast(plan, [=](int64_t i, int64_t j, int64_t k) {
          to[i] = static_cast<T>(widen(grad[i]) * slope(widen(left[j]), widen(right[k])));
        });
      };
      write(da, [f](auto x, auto y) { return f.da(x, y); });
      write(db, [f](auto x, auto y) { return f.db(x, y); });
    });
  });
}

void CpuBackend::affine(double alpha, const Tensor& x, double beta, Tensor& y) {
  dispatch_floating(x.dtype(), "affine", [&](auto tag) {
    using T = decltype(tag);
    const auto scale = static_cast<acc_t<T>>(alpha), shift = static_cast<acc_t<T>>(beta);
    const T* from = x.data<T>();
    T* to = y.data<T>();
    map(x.numel(), [=](int64_t i) { to[i] = static_cast<T>(scale * widen(from[i]) + shift); });
  });
}

void CpuBackend::axpby(double alpha, const Tensor& x, double beta, Tensor& y) {
  dispatch_floating(x.dtype(), "axpby", [&](auto from_tag) {
    dispatch_floating(y.dtype(), "axpby", [&](auto to_tag) {
      using From = decltype(from_tag);
      using To = decltype(to_tag);
      using Acc = std::common_type_t<acc_t<From>, acc_t<To>>;
      const auto a = static_cast<Acc>(alpha), b = static_cast<Acc>(beta);
      const From* from = x.data<From>();
      To* to = y.data<To>();
      if (beta == 0.0)  // the old y may hold anything, NaN too
        map(x.numel(), [=](int64_t i) { to[i] = static_cast<To>(a * Acc(widen(from[i]))); });
      else
        map(x.numel(), [=](int64_t i) {
          to[i] = static_cast<To>(a * Acc(widen(from[i])) + b * Acc(widen(to[i])));
        });
    });
  });
}

}  // namespace facet
