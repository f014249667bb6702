// Optimiser steps: one launch for all parameters of a type.
#include <cmath>

#include "cuda/kernels/tensors.cuh"

namespace facet {

using namespace cuda;

namespace {

template <typename T, int K>
__device__ T* part(const Quad& quad) {
  return static_cast<T*>(quad.data[K]);
}

// f(tag) for each type that parameters and their state may have (ops.cpp refuses others).
template <typename F>
void for_each_type(F&& f) {
  f(float{});
  f(double{});
}
template <typename Args>
std::vector<Args> chosen(std::span<const Args> all, const std::vector<size_t>& at) {
  std::vector<Args> result;
  for (const size_t t : at) result.push_back(all[t]);
  return result;
}

// data: parameter, gradient, momentum
template <typename T>
struct SgdStep {
  const SgdArgs* args;
  __device__ void operator()(const Quad& quad, int32_t tensor, int64_t i) const {
    using A = acc_t<T>;
    const SgdArgs& arg = args[tensor];
    T* const w = part<T, 0>(quad);
    const A lr = static_cast<A>(arg.lr), m = static_cast<A>(arg.momentum);
    const A d = widen(part<T, 1>(quad)[i]) + static_cast<A>(arg.weight_decay) * widen(w[i]);
    if (arg.momentum == 0.0) {  // needs no buffer
      w[i] = static_cast<T>(widen(w[i]) - lr * d);
      return;
    }
    T* const buffer = part<T, 2>(quad);
    const A v = arg.first ? d : m * widen(buffer[i]) + d;
    buffer[i] = static_cast<T>(v);
    w[i] = static_cast<T>(widen(w[i]) - lr * (arg.nesterov ? d + m * v : v));
  }
};

struct AdamFactors {
  double step_size, root_scale, beta1, beta2, rest1, rest2, eps, shrink, l2;
};
// data: parameter, gradient, first and second moment
template <typename T>
struct AdamStep {
  const AdamFactors* factors;
  __device__ void operator()(const Quad& quad, int32_t tensor, int64_t i) const {
    using A = acc_t<T>;
    const AdamFactors& f = factors[tensor];
    T *const w = part<T, 0>(quad), *const m = part<T, 2>(quad), *const v = part<T, 3>(quad);
    const A d = widen(part<T, 1>(quad)[i]) + static_cast<A>(f.l2) * widen(w[i]);
    const A mean = static_cast<A>(f.beta1) * widen(m[i]) + static_cast<A>(f.rest1) * d;
    const A square = static_cast<A>(f.beta2) * widen(v[i]) + static_cast<A>(f.rest2) * d * d;
    m[i] = static_cast<T>(mean);
    v[i] = static_cast<T>(square);
    const A denominator = std::sqrt(square) * static_cast<A>(f.root_scale) + static_cast<A>(f.eps);
    w[i] = static_cast<T>(static_cast<A>(f.shrink) * widen(w[i]) -
                          static_cast<A>(f.step_size) * mean / denominator);
  }
};

struct LarsFactors {
  double inside, outside, momentum, decay;
  bool first;
};
// data: parameter, gradient, momentum
template <typename T>
struct LarsStep {
  const LarsFactors* factors;
  __device__ void operator()(const Quad& quad, int32_t tensor, int64_t i) const {
    using A = acc_t<T>;
    const LarsFactors& f = factors[tensor];
    T *const w = part<T, 0>(quad), *const buffer = part<T, 2>(quad);
    const A d = static_cast<A>(f.inside) *
                (widen(part<T, 1>(quad)[i]) + static_cast<A>(f.decay) * widen(w[i]));
    const A v = f.first ? d : static_cast<A>(f.momentum) * widen(buffer[i]) + d;
    buffer[i] = static_cast<T>(v);
    w[i] = static_cast<T>(widen(w[i]) - static_cast<A>(f.outside) * v);
  }
};
// |data[0]|^2
template <typename T>
struct Squares {
  __device__ double operator()(const Quad& quad, int32_t, int64_t i) const {
    const double value = widen(part<T, 0>(quad)[i]);
    return value * value;
  }
};
// |data[1] + decay data[0]|^2
template <typename T>
struct DecayedSquares {
  const double* decay;
  __device__ double operator()(const Quad& quad, int32_t tensor, int64_t i) const {
    const double value =
        double(widen(part<T, 1>(quad)[i])) + decay[tensor] * double(widen(part<T, 0>(quad)[i]));
    return value * value;
  }
};

// data: average, value. A step towards the value: an average that has arrived stays.
template <typename T>
struct EmaStep {
  acc_t<T> rest;
  __device__ void operator()(const Quad& quad, int32_t, int64_t i) const {
    T* const average = part<T, 0>(quad);
    average[i] =
        static_cast<T>(widen(average[i]) + rest * (widen(part<T, 1>(quad)[i]) - widen(average[i])));
  }
};
template <typename T>
struct Scale {
  const double* factors;
  __device__ void operator()(const Quad& quad, int32_t tensor, int64_t i) const {
    T* const x = part<T, 0>(quad);
    x[i] = static_cast<T>(static_cast<acc_t<T>>(factors[tensor]) * widen(x[i]));
  }
};

}  // namespace

void CudaBackend::sgd_step(std::span<Tensor> params, std::span<const Tensor> grads,
                           std::span<Tensor> momentum, std::span<const SgdArgs> args) {
  for_each_type([&](auto tag) {
    using T = decltype(tag);
    with_group<T>(params, {grads, momentum}, [&](const TensorGroup& group, const auto& at) {
      const Tensor device_args = upload(chosen(args, at), params[at[0]].device());
      group.for_each(SgdStep<T>{uploaded<SgdArgs>(device_args)});
    });
  });
}

void CudaBackend::adamw_step(std::span<Tensor> params, std::span<const Tensor> grads,
                             std::span<Tensor> exp_avg, std::span<Tensor> exp_avg_sq,
                             std::span<const AdamArgs> args) {
  std::vector<AdamFactors> all;
  for (const AdamArgs& a : args) {
    const auto step = static_cast<double>(a.step);
    all.push_back({a.lr / (1.0 - std::pow(a.beta1, step)),
                   1.0 / std::sqrt(1.0 - std::pow(a.beta2, step)), a.beta1, a.beta2, 1.0 - a.beta1,
                   1.0 - a.beta2, a.eps, a.decoupled ? 1.0 - a.lr * a.weight_decay : 1.0,
                   a.decoupled ? 0.0 : a.weight_decay});
  }
  for_each_type([&](auto tag) {
    using T = decltype(tag);
    with_group<T>(
        params, {grads, exp_avg, exp_avg_sq}, [&](const TensorGroup& group, const auto& at) {
          const Tensor factors =
              upload(chosen(std::span<const AdamFactors>(all), at), params[at[0]].device());
          group.for_each(AdamStep<T>{uploaded<AdamFactors>(factors)});
        });
  });
}

void CudaBackend::lars_step(std::span<Tensor> params, std::span<const Tensor> grads,
                            std::span<Tensor> momentum, std::span<const LarsArgs> args) {
  for_each_type([&](auto tag) {
    using T = decltype(tag);
    with_group<T>(params, {grads, momentum}, [&](const TensorGroup& group, const auto& at) {
      const Device device = params[at[0]].device();
      // |g|^2 for LARC, |g + decay w|^2 for the others.
      std::vector<double> decays;
      for (const size_t t : at)
        decays.push_back(args[t].form == LarsForm::larc ? 0.0 : args[t].weight_decay);
      const std::vector<double> weights = group.sums(at.size(), Squares<T>{});
      const Tensor decays_on_device = upload(decays, device);
      const std::vector<double> gradients =
          group.sums(at.size(), DecayedSquares<T>{uploaded<double>(decays_on_device)});
      std::vector<LarsFactors> factors;
      for (size_t k = 0; k < at.size(); ++k) {
        const LarsArgs& arg = args[at[k]];
        const bool larc = arg.form == LarsForm::larc, classic = arg.form == LarsForm::simclr;
        const double w = std::sqrt(weights[k]), g = std::sqrt(gradients[k]);
        double trust = 1.0, decay = arg.weight_decay;
        if (arg.adapt && w > 0.0 && g > 0.0)
          trust = arg.trust * w / (larc ? g + arg.weight_decay * w + arg.eps : g);
        else if (arg.adapt && larc)
          decay = 0.0;  // apex leaves such a gradient as it is
        // The classic form keeps the learning rate inside of the buffer.
        factors.push_back({trust * (classic ? arg.lr : 1.0), classic ? 1.0 : arg.lr, arg.momentum,
                           decay, arg.first});
      }
      const Tensor on_device = upload(factors, device);
      group.for_each(LarsStep<T>{uploaded<LarsFactors>(on_device)});
    });
  });
}

void CudaBackend::ema_step(std::span<Tensor> averages, std::span<const Tensor> values,
                           double decay) {
  for_each_type([&](auto tag) {
    using T = decltype(tag);
    with_group<T>(averages, {values}, [&](const TensorGroup& group, const auto&) {
      group.for_each(EmaStep<T>{static_cast<acc_t<T>>(1.0 - decay)});
    });
  });
}

void CudaBackend::sum_squares(std::span<const Tensor> tensors, std::span<double> sums) {
  std::fill(sums.begin(), sums.end(), 0.0);
  for_each_type([&](auto tag) {
    using T = decltype(tag);
    with_group<T>(tensors, {}, [&](const TensorGroup& group, const auto& at) {
      const std::vector<double> found = group.sums(at.size(), Squares<T>{});
      for (size_t k = 0; k < at.size(); ++k) sums[at[k]] = found[k];
    });
  });
}

void CudaBackend::scale(std::span<Tensor> tensors, std::span<const double> factors) {
  for_each_type([&](auto tag) {
    using T = decltype(tag);
    with_group<T>(tensors, {}, [&](const TensorGroup& group, const auto& at) {
      const Tensor on_device = upload(chosen(factors, at), tensors[at[0]].device());
      group.for_each(Scale<T>{uploaded<double>(on_device)});
    });
  });
}

}  // namespace facet
