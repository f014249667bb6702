// Optimiser steps: one launch for all parameters of a type.
#include <cmath>

#include "cuda/kernels/tensors.cuh"
#include "tensor/optimizer_rules.h"

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
// Rule(all[t]) of each chosen tensor.
template <typename Rule, typename Args>
std::vector<Rule> chosen(std::span<const Args> all, const std::vector<size_t>& at) {
  std::vector<Rule> result;
  for (const size_t t : at) result.push_back(Rule(all[t]));
  return result;
}

// data: parameter, gradient, state. rules: one a tensor.
template <typename T>
struct SgdStep {
  const SgdRule<T>* rules;
  __device__ void operator()(const Quad& quad, int32_t tensor, int64_t i) const {
    if (rules[tensor].momentum != T(0))
      rules[tensor](part<T, 0>(quad)[i], part<T, 1>(quad)[i], part<T, 2>(quad)[i]);
    else  // needs no buffer
      rules[tensor](part<T, 0>(quad)[i], part<T, 1>(quad)[i]);
  }
};
template <typename T>
struct AdamStep {
  const AdamRule<T>* rules;
  __device__ void operator()(const Quad& quad, int32_t tensor, int64_t i) const {
    rules[tensor](part<T, 0>(quad)[i], part<T, 1>(quad)[i], part<T, 2>(quad)[i],
                  part<T, 3>(quad)[i]);
  }
};
template <typename T>
struct LarsStep {
  const LarsRule<T>* rules;
  __device__ void operator()(const Quad& quad, int32_t tensor, int64_t i) const {
    rules[tensor](part<T, 0>(quad)[i], part<T, 1>(quad)[i], part<T, 2>(quad)[i]);
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

// data: average, value
template <typename T>
struct EmaStep {
  EmaRule<T> rule;
  __device__ void operator()(const Quad& quad, int32_t, int64_t i) const {
    rule(part<T, 0>(quad)[i], part<T, 1>(quad)[i]);
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
      const Tensor rules = upload(chosen<SgdRule<T>>(args, at), params[at[0]].device());
      group.for_each(SgdStep<T>{uploaded<SgdRule<T>>(rules)});
    });
  });
}

void CudaBackend::adamw_step(std::span<Tensor> params, std::span<const Tensor> grads,
                             std::span<Tensor> exp_avg, std::span<Tensor> exp_avg_sq,
                             std::span<const AdamArgs> args) {
  for_each_type([&](auto tag) {
    using T = decltype(tag);
    with_group<T>(
        params, {grads, exp_avg, exp_avg_sq}, [&](const TensorGroup& group, const auto& at) {
          const Tensor rules = upload(chosen<AdamRule<T>>(args, at), params[at[0]].device());
          group.for_each(AdamStep<T>{uploaded<AdamRule<T>>(rules)});
        });
  });
}

void CudaBackend::lars_step(std::span<Tensor> params, std::span<const Tensor> grads,
                            std::span<Tensor> momentum, std::span<const LarsArgs> args) {
  for_each_type([&](auto tag) {
    using T = decltype(tag);
    with_group<T>(params, {grads, momentum}, [&](const TensorGroup& group, const auto& at) {
      const Device device = params[at[0]].device();
      std::vector<double> decays;
      for (const size_t t : at) decays.push_back(lars_decay(args[t]));
      const std::vector<double> weights = group.sums(at.size(), Squares<T>{});
      const Tensor decays_on_device = upload(decays, device);
      const std::vector<double> gradients =
          group.sums(at.size(), DecayedSquares<T>{uploaded<double>(decays_on_device)});
      std::vector<LarsRule<T>> rules;
      for (size_t k = 0; k < at.size(); ++k)
        rules.push_back(LarsRule<T>(args[at[k]], weights[k], gradients[k]));
      const Tensor on_device = upload(rules, device);
      group.for_each(LarsStep<T>{uploaded<LarsRule<T>>(on_device)});
    });
  });
}

void CudaBackend::ema_step(std::span<Tensor> averages, std::span<const Tensor> values,
                           double decay) {
  for_each_type([&](auto tag) {
    using T = decltype(tag);
    with_group<T>(averages, {values}, [&](const TensorGroup& group, const auto&) {
      group.for_each(EmaStep<T>{EmaRule<T>(decay)});
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
      const Tensor on_device = upload(chosen<double>(factors, at), tensors[at[0]].device());
      group.for_each(Scale<T>{uploaded<double>(on_device)});
    });
  });
}

}  // namespace facet
