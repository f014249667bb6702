// Multi-tensor optimiser steps: one pass over each tensor's memory.
#include <algorithm>
#include <cmath>

#include "tensor/cpu/cpu_backend.h"
#include "tensor/parallel.h"

namespace facet {
namespace {

constexpr int64_t kGrain = 1 << 14;

template <typename T, typename F>
void over(int64_t n, F f) {
  parallel_for(n, kGrain, [&](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) f(i);
  });
}

// Calls f(T{}) for f32 or f64 tensors.
template <typename F>
void dispatch_master(DType dtype, const char* op, F f) {
  if (dtype == DType::f32) return f(float{});
  FACET_CHECK(dtype == DType::f64, op, "expected f32 or f64 parameters, got {}", name(dtype));
  f(double{});
}

// Fixed blocks of f64 partial sums: the same for any number of threads.
template <typename T>
double sum_of_squares(const T* x, int64_t n) {
  constexpr int64_t kBlock = 1 << 14;
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  std::vector<double> partial(static_cast<size_t>(blocks));
  parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      constexpr int kLanes = 16;
      double lane[kLanes] = {};
      const int64_t last = std::min(n, (b + 1) * kBlock);
      int64_t i = b * kBlock;
      for (; i + kLanes <= last; i += kLanes)
#pragma omp simd
        for (int l = 0; l < kLanes; ++l) {
          const double v = static_cast<double>(x[i + l]);
          lane[l] += v * v;
        }
      for (int l = 0; i < last; ++i, ++l) lane[l] += static_cast<double>(x[i]) * x[i];
      double sum = 0;
      for (const double v : lane) sum += v;
      partial[static_cast<size_t>(b)] = sum;
    }
  });
  double total = 0;
  for (const double v : partial) total += v;
  return total;
}

}  // namespace

void CpuBackend::sgd_step(std::span<Tensor> params, std::span<const Tensor> grads,
                          std::span<Tensor> momentum, std::span<const SgdArgs> args) {
  for (size_t t = 0; t < params.size(); ++t) {
    const SgdArgs& a = args[t];
    dispatch_master(params[t].dtype(), "sgd_step", [&](auto tag) {
      using T = decltype(tag);
      T* w = params[t].data<T>();
      const T* g = grads[t].data<T>();
      const T lr = static_cast<T>(a.lr), m = static_cast<T>(a.momentum),
              decay = static_cast<T>(a.weight_decay);
      if (a.momentum == 0.0) {
        over<T>(params[t].numel(), [=](int64_t i) { w[i] -= lr * (g[i] + decay * w[i]); });
        return;
      }
      T* buffer = momentum[t].data<T>();
      const bool first = a.first, nesterov = a.nesterov;
      over<T>(params[t].numel(), [=](int64_t i) {
        const T d = g[i] + decay * w[i];
        const T b = first ? d : m * buffer[i] + d;
        buffer[i] = b;
        w[i] -= lr * (nesterov ? d + m * b : b);
      });
    });
  }
}

void CpuBackend::adamw_step(std::span<Tensor> params, std::span<const Tensor> grads,
                            std::span<Tensor> exp_avg, std::span<Tensor> exp_avg_sq,
                            std::span<const AdamArgs> args) {
  for (size_t t = 0; t < params.size(); ++t) {
    const AdamArgs& a = args[t];
    dispatch_master(params[t].dtype(), "adamw_step", [&](auto tag) {
      using T = decltype(tag);
      T* w = params[t].data<T>();
      const T* g = grads[t].data<T>();
      T *m = exp_avg[t].data<T>(), *v = exp_avg_sq[t].data<T>();
      const double step = static_cast<double>(a.step);
      const T step_size = static_cast<T>(a.lr / (1.0 - std::pow(a.beta1, step)));
      const T root = static_cast<T>(1.0 / std::sqrt(1.0 - std::pow(a.beta2, step)));
      const T b1 = static_cast<T>(a.beta1), b2 = static_cast<T>(a.beta2),
              eps = static_cast<T>(a.eps);
      const T keep = static_cast<T>(a.decoupled ? 1.0 - a.lr * a.weight_decay : 1.0);
      const T l2 = static_cast<T>(a.decoupled ? 0.0 : a.weight_decay);
      const T c1 = static_cast<T>(1.0 - a.beta1), c2 = static_cast<T>(1.0 - a.beta2);
      over<T>(params[t].numel(), [=](int64_t i) {
        const T d = g[i] + l2 * w[i];
        m[i] = b1 * m[i] + c1 * d;
        v[i] = b2 * v[i] + c2 * d * d;
        w[i] = keep * w[i] - step_size * m[i] / (std::sqrt(v[i]) * root + eps);
      });
    });
  }
}

void CpuBackend::lars_step(std::span<Tensor> params, std::span<const Tensor> grads,
                           std::span<Tensor> momentum, std::span<const LarsArgs> args) {
  for (size_t t = 0; t < params.size(); ++t) {
    const LarsArgs& a = args[t];
    dispatch_master(params[t].dtype(), "lars_step", [&](auto tag) {
      using T = decltype(tag);
      T* w = params[t].data<T>();
      const T* g = grads[t].data<T>();
      T* buffer = momentum[t].data<T>();
      const int64_t n = params[t].numel();
      const T decay = static_cast<T>(a.weight_decay);
      double trust = 1.0;
      if (a.adapt) {
        const double w_norm = std::sqrt(sum_of_squares(w, n));
        if (a.form == LarsForm::larc) {
          const double g_norm = std::sqrt(sum_of_squares(g, n));
          if (w_norm > 0 && g_norm > 0)
            trust = a.trust * w_norm / (g_norm + a.weight_decay * w_norm + a.eps);
        } else {
          Tensor d = grads[t].clone();
          T* pd = d.data<T>();
          over<T>(n, [=](int64_t i) { pd[i] += decay * w[i]; });
          const double d_norm = std::sqrt(sum_of_squares(pd, n));
          if (w_norm > 0 && d_norm > 0) trust = a.trust * w_norm / d_norm;
        }
      }
      const T lr = static_cast<T>(a.lr), m = static_cast<T>(a.momentum), r = static_cast<T>(trust);
      const bool classic = a.form == LarsForm::simclr, first = a.first;
      over<T>(n, [=](int64_t i) {
        const T d = r * (g[i] + decay * w[i]) * (classic ? lr : T(1));
        const T b = first ? d : m * buffer[i] + d;
        buffer[i] = b;
        w[i] -= classic ? b : lr * b;
      });
    });
  }
}

void CpuBackend::ema_step(std::span<Tensor> averages, std::span<const Tensor> values,
                          double decay) {
  for (size_t t = 0; t < averages.size(); ++t) {
    dispatch_master(averages[t].dtype(), "ema_step", [&](auto tag) {
      using T = decltype(tag);
      T* average = averages[t].data<T>();
      const T* value = values[t].data<T>();
      const T keep = static_cast<T>(decay), add = static_cast<T>(1.0 - decay);
      over<T>(averages[t].numel(),
              [=](int64_t i) { average[i] = keep * average[i] + add * value[i]; });
    });
  }
}

void CpuBackend::sum_squares(std::span<const Tensor> tensors, std::span<double> sums) {
  for (size_t t = 0; t < tensors.size(); ++t)
    dispatch_master(tensors[t].dtype(), "sum_squares", [&](auto tag) {
      using T = decltype(tag);
      sums[t] = sum_of_squares(tensors[t].data<T>(), tensors[t].numel());
    });
}

void CpuBackend::scale(std::span<Tensor> tensors, std::span<const double> factors) {
  for (size_t t = 0; t < tensors.size(); ++t)
    dispatch_master(tensors[t].dtype(), "scale", [&](auto tag) {
      using T = decltype(tag);
      T* x = tensors[t].data<T>();
      const T factor = static_cast<T>(factors[t]);
      over<T>(tensors[t].numel(), [=](int64_t i) { x[i] *= factor; });
    });
}

}  // namespace facet
