// Elementwise kernels: one loop a functor and type, arithmetic in acc_t<T>.
#include <array>

#include "tensor/cpu/cpu_backend.h"
#include "tensor/functors.h"
#include "tensor/parallel.h"

namespace facet {
namespace {

constexpr int64_t kGrain = 1 << 14;  // elements a thread at least

template <typename F>
void dispatch_unary(UnaryOp op, F&& f) {
  switch (op) {
#define UNARY(name, low, high, reference) \
  case UnaryOp::name: return f(functor::name{});
#include "tensor/unary.def"
#undef UNARY
  }
}

template <typename F>
void dispatch_binary(BinaryOp op, F&& f) {
  switch (op) {
#define BINARY(name, low, high, reference) \
  case BinaryOp::name: return f(functor::name{});
#include "tensor/binary.def"
#undef BINARY
  }
}

// out[i] = f(in0[i], in1[i], ...) over n elements, in parallel. Outputs may be inputs.
template <typename T, typename F, typename... In>
void map(int64_t n, T* out, F f, const In*... in) {
  parallel_for(n, kGrain, [=](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) out[i] = T(f(static_cast<acc_t<In>>(in[i])...));
  });
}

// How two broadcast operands are walked: at most four axes after merging neighbours that both
// operands treat alike. A stride of 0 repeats the operand along that axis.
struct BroadcastPlan {
  int rank = 0;
  std::array<int64_t, Shape::kMaxRank> extent{}, stride_a{}, stride_b{};
};

BroadcastPlan plan_broadcast(const Shape& a, const Shape& b, const Shape& out) {
  BroadcastPlan plan;
  // Innermost first while building; kinds: which operand repeats along the axis.
  int64_t step_a = 1, step_b = 1;
  for (int i = 0; i < out.rank(); ++i) {
    const int axis = out.rank() - 1 - i;
    const int64_t n = out[axis];
    const int64_t na = i < a.rank() ? a[a.rank() - 1 - i] : 1;
    const int64_t nb = i < b.rank() ? b[b.rank() - 1 - i] : 1;
    if (n == 1) continue;
    const int64_t sa = na == 1 ? 0 : step_a, sb = nb == 1 ? 0 : step_b;
    step_a *= na;
    step_b *= nb;
    if (plan.rank > 0) {
      const int last = plan.rank - 1;
      const bool a_joins = sa == plan.stride_a[last] * plan.extent[last];
      const bool b_joins = sb == plan.stride_b[last] * plan.extent[last];
      if (a_joins && b_joins) {
        plan.extent[last] *= n;
        continue;
      }
    }
    plan.extent[plan.rank] = n;
    plan.stride_a[plan.rank] = sa;
    plan.stride_b[plan.rank] = sb;
    ++plan.rank;
  }
  if (plan.rank == 0) plan.extent[plan.rank++] = 1;
  return plan;
}

// Calls row(out_offset, a_offset, b_offset, n, stride_a, stride_b) for every innermost run; the
// strides are 0 or 1.
template <typename Row>
void for_each_row(const BroadcastPlan& plan, Row row) {
  const int64_t inner = plan.extent[0];
  int64_t rows = 1;
  for (int d = 1; d < plan.rank; ++d) rows *= plan.extent[d];
  if (rows == 1) {
    parallel_for(inner, kGrain, [&](int64_t begin, int64_t end) {
      row(begin, begin * plan.stride_a[0], begin * plan.stride_b[0], end - begin,
          plan.stride_a[0], plan.stride_b[0]);
    });
    return;
  }
  parallel_for(rows, std::max<int64_t>(1, kGrain / inner), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      int64_t rest = r, oa = 0, ob = 0;
      for (int d = 1; d < plan.rank; ++d) {
        const int64_t i = rest % plan.extent[d];
        rest /= plan.extent[d];
        oa += i * plan.stride_a[d];
        ob += i * plan.stride_b[d];
      }
      row(r * inner, oa, ob, inner, plan.stride_a[0], plan.stride_b[0]);
    }
  });
}

// out[i] = f(a, b, i) along one run; the three stride cases vectorise separately.
template <typename T, typename F>
void run_row(const T* a, const T* b, int64_t n, int64_t stride_a, int64_t stride_b, F f) {
  using A = acc_t<T>;
  if (stride_a == 1 && stride_b == 1) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) f(i, A(a[i]), A(b[i]));
  } else if (stride_a == 1) {
    const A fixed = A(b[0]);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) f(i, A(a[i]), fixed);
  } else if (stride_b == 1) {
    const A fixed = A(a[0]);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) f(i, fixed, A(b[i]));
  } else {
    const A fixed_a = A(a[0]), fixed_b = A(b[0]);
    for (int64_t i = 0; i < n; ++i) f(i, fixed_a, fixed_b);
  }
}

}  // namespace

void CpuBackend::unary(UnaryOp op, const Tensor& x, Tensor& y) {
  dispatch_floating(x.dtype(), "unary", [&](auto tag) {
    using T = decltype(tag);
    dispatch_unary(op, [&](auto f) {
      map(x.numel(), y.data<T>(), [f](acc_t<T> v) { return f.forward(v); }, x.data<T>());
    });
  });
}

void CpuBackend::unary_backward(UnaryOp op, const Tensor& x, const Tensor& y, const Tensor& dy,
                                Tensor& dx) {
  dispatch_floating(x.dtype(), "unary_backward", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    dispatch_unary(op, [&](auto f) {
      map(x.numel(), dx.data<T>(), [f](A v, A w, A g) { return g * f.derivative(v, w); },
          x.data<T>(), y.data<T>(), dy.data<T>());
    });
  });
}

void CpuBackend::binary(BinaryOp op, const Tensor& a, const Tensor& b, Tensor& out) {
  const BroadcastPlan plan = plan_broadcast(a.shape(), b.shape(), out.shape());
  dispatch_floating(a.dtype(), "binary", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const T *pa = a.data<T>(), *pb = b.data<T>();
    T* po = out.data<T>();
    dispatch_binary(op, [&](auto f) {
      for_each_row(plan, [&](int64_t o, int64_t ia, int64_t ib, int64_t n, int64_t sa, int64_t sb) {
        T* to = po + o;
        run_row(pa + ia, pb + ib, n, sa, sb,
                [=](int64_t i, A u, A v) { to[i] = T(f.forward(u, v)); });
      });
    });
  });
}

void CpuBackend::binary_backward(BinaryOp op, const Tensor& a, const Tensor& b, const Tensor& dy,
                                 Tensor& da, Tensor& db) {
  const BroadcastPlan plan = plan_broadcast(a.shape(), b.shape(), dy.shape());
  dispatch_floating(a.dtype(), "binary_backward", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const T *pa = a.data<T>(), *pb = b.data<T>(), *pd = dy.data<T>();
    dispatch_binary(op, [&](auto f) {
      for_each_row(plan, [&](int64_t o, int64_t ia, int64_t ib, int64_t n, int64_t sa, int64_t sb) {
        const T* g = pd + o;
        if (da.defined()) {
          T* to = da.data<T>() + o;
          run_row(pa + ia, pb + ib, n, sa, sb,
                  [=](int64_t i, A u, A v) { to[i] = T(A(g[i]) * f.da(u, v)); });
        }
        if (db.defined()) {
          T* to = db.data<T>() + o;
          run_row(pa + ia, pb + ib, n, sa, sb,
                  [=](int64_t i, A u, A v) { to[i] = T(A(g[i]) * f.db(u, v)); });
        }
      });
    });
  });
}

void CpuBackend::affine(double alpha, const Tensor& x, double beta, Tensor& y) {
  dispatch_floating(x.dtype(), "affine", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const A a = static_cast<A>(alpha), b = static_cast<A>(beta);
    map(x.numel(), y.data<T>(), [a, b](A v) { return a * v + b; }, x.data<T>());
  });
}

void CpuBackend::axpby(double alpha, const Tensor& x, double beta, Tensor& y) {
  dispatch_floating(x.dtype(), "axpby", [&](auto from_tag) {
    dispatch_floating(y.dtype(), "axpby", [&](auto to_tag) {
      using From = decltype(from_tag);
      using To = decltype(to_tag);
      using A = acc_t<To>;
      const A a = static_cast<A>(alpha), b = static_cast<A>(beta);
      To* to = y.data<To>();
      map(x.numel(), to,
          [a, b](acc_t<From> u, A v) { return a * static_cast<A>(u) + b * v; }, x.data<From>(),
          static_cast<const To*>(to));
    });
  });
}

}  // namespace facet
