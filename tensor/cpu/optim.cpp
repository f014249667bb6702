// Optimiser steps over many tensors at once: one parallel loop over the blocks of all of them.
#include "tensor/cpu/cpu_backend.h"
#include "tensor/cpu/loops.h"

namespace facet {

using namespace cpu;

namespace {

// body(tag, block, tensor, begin, end) with the element type as tag.
template <typename Body>
void for_each_typed(const char* op, std::span<const Tensor> tensors, const TensorBlocks& blocks,
                    const Body& body) {
  blocks.for_each([&](int64_t block, size_t t, int64_t begin, int64_t end) {
    dispatch_floating(tensors[t].dtype(), op, [&](auto tag) { body(tag, block, t, begin, end); });
  });
}

// term(tag, tensor, begin, end) for each block, added up per tensor in the blocks' order.
template <typename Term>
std::vector<double> block_sums(const char* op, std::span<const Tensor> tensors, const Term& term) {
  const TensorBlocks blocks(tensors);
  std::vector<double> partial(static_cast<size_t>(blocks.size()));
  for_each_typed(op, tensors, blocks,
                 [&](auto tag, int64_t block, size_t t, int64_t begin, int64_t end) {
                   partial[static_cast<size_t>(block)] = term(tag, t, begin, end);
                 });
  std::vector<double> sums(tensors.size());
  for (size_t t = 0; t < tensors.size(); ++t)
    sums[t] = sum_terms<double>(blocks.first(t), blocks.first(t + 1),
                                [&](int64_t block) { return partial[static_cast<size_t>(block)]; });
  return sums;
}

template <typename T>
double sum_of_squares(const T* x, int64_t begin, int64_t end) {
  return sum_terms<double>(begin, end, [=](int64_t i) {
    const double value = widen(x[i]);
    return value * value;
  });
}

}  // namespace

void CpuBackend::sgd_step(std::span<Tensor> params, std::span<const Tensor> grads,
                          std::span<Tensor> momentum, std::span<const SgdArgs> args) {
  const TensorBlocks blocks(params);
  for_each_typed(
      "sgd_step", params, blocks, [&](auto tag, int64_t, size_t t, int64_t begin, int64_t end) {
        using T = decltype(tag);
        using A = acc_t<T>;
        const SgdArgs& arg = args[t];
        const A lr = static_cast<A>(arg.lr), decay = static_cast<A>(arg.weight_decay);
        const A m = static_cast<A>(arg.momentum);
        T* w = params[t].data<T>();
        const T* g = grads[t].data<T>();
        if (arg.momentum == 0.0) {  // needs no buffer
#pragma omp simd
          for (int64_t i = begin; i < end; ++i)
            w[i] = static_cast<T>(widen(w[i]) - lr * (widen(g[i]) + decay * widen(w[i])));
          return;
        }
        T* buffer = momentum[t].data<T>();
        const bool first = arg.first, nesterov = arg.nesterov;
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) {
          const A d = widen(g[i]) + decay * widen(w[i]);
          const A v = first ? d : m * widen(buffer[i]) + d;
          buffer[i] = static_cast<T>(v);
          w[i] = static_cast<T>(widen(w[i]) - lr * (nesterov ? d + m * v : v));
        }
      });
}

void CpuBackend::adamw_step(std::span<Tensor> params, std::span<const Tensor> grads,
                            std::span<Tensor> exp_avg, std::span<Tensor> exp_avg_sq,
                            std::span<const AdamArgs> args) {
  const TensorBlocks blocks(params);
  for_each_typed(
      "adamw_step", params, blocks, [&](auto tag, int64_t, size_t t, int64_t begin, int64_t end) {
        using T = decltype(tag);
        using A = acc_t<T>;
        const AdamArgs& arg = args[t];
        const double step = static_cast<double>(arg.step);
        const A step_size = static_cast<A>(arg.lr / (1.0 - std::pow(arg.beta1, step)));
        const A root_scale = static_cast<A>(1.0 / std::sqrt(1.0 - std::pow(arg.beta2, step)));
        const A beta1 = static_cast<A>(arg.beta1), beta2 = static_cast<A>(arg.beta2);
        const A rest1 = static_cast<A>(1.0 - arg.beta1), rest2 = static_cast<A>(1.0 - arg.beta2);
        const A eps = static_cast<A>(arg.eps);
        const A shrink = static_cast<A>(arg.decoupled ? 1.0 - arg.lr * arg.weight_decay : 1.0);
        const A l2 = static_cast<A>(arg.decoupled ? 0.0 : arg.weight_decay);
        T *w = params[t].data<T>(), *m = exp_avg[t].data<T>(), *v = exp_avg_sq[t].data<T>();
        const T* g = grads[t].data<T>();
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) {
          const A d = widen(g[i]) + l2 * widen(w[i]);
          const A mean = beta1 * widen(m[i]) + rest1 * d;
          const A square = beta2 * widen(v[i]) + rest2 * d * d;
          m[i] = static_cast<T>(mean);
          v[i] = static_cast<T>(square);
          const A denominator = std::sqrt(square) * root_scale + eps;
          w[i] = static_cast<T>(shrink * widen(w[i]) - step_size * mean / denominator);
        }
      });
}

void CpuBackend::lars_step(std::span<Tensor> params, std::span<const Tensor> grads,
                           std::span<Tensor> momentum, std::span<const LarsArgs> args) {
  const std::vector<double> weights =
      block_sums("lars_step", params, [&](auto tag, size_t t, int64_t begin, int64_t end) {
        return args[t].adapt ? sum_of_squares(params[t].data<decltype(tag)>(), begin, end) : 0.0;
      });
  // |g|^2 for LARC, |g + decay w|^2 for the others.
  const std::vector<double> gradients =
      block_sums("lars_step", params, [&](auto tag, size_t t, int64_t begin, int64_t end) {
        using T = decltype(tag);
        const T *w = params[t].data<T>(), *g = grads[t].data<T>();
        if (!args[t].adapt) return 0.0;
        if (args[t].form == LarsForm::larc) return sum_of_squares(g, begin, end);
        const double decay = args[t].weight_decay;
        return sum_terms<double>(begin, end, [=](int64_t i) {
          const double value = double{widen(g[i])} + decay * double{widen(w[i])};
          return value * value;
        });
      });
  struct Factors {
    double trust = 1.0, decay = 0.0;
  };
  std::vector<Factors> factors(params.size());
  for (size_t t = 0; t < params.size(); ++t) {
    const LarsArgs& arg = args[t];
    const bool larc = arg.form == LarsForm::larc;
    const double w = std::sqrt(weights[t]), g = std::sqrt(gradients[t]);
    factors[t].decay = arg.weight_decay;
    if (!arg.adapt) continue;
    if (w > 0.0 && g > 0.0)
      factors[t].trust = arg.trust * w / (larc ? g + arg.weight_decay * w + arg.eps : g);
    else if (larc)
      factors[t].decay = 0.0;  // apex leaves such a gradient as it is
  }
  const TensorBlocks blocks(params);
  for_each_typed("lars_step", params, blocks,
                 [&](auto tag, int64_t, size_t t, int64_t begin, int64_t end) {
                   using T = decltype(tag);
                   using A = acc_t<T>;
                   const LarsArgs& arg = args[t];
                   // The classic form keeps the learning rate inside of the buffer.
                   const bool classic = arg.form == LarsForm::simclr, first = arg.first;
                   const A inside = static_cast<A>(factors[t].trust * (classic ? arg.lr : 1.0));
                   const A outside = static_cast<A>(classic ? 1.0 : arg.lr);
                   const A m = static_cast<A>(arg.momentum);
                   const A decay = static_cast<A>(factors[t].decay);
                   T *w = params[t].data<T>(), *buffer = momentum[t].data<T>();
                   const T* g = grads[t].data<T>();
#pragma omp simd
                   for (int64_t i = begin; i < end; ++i) {
                     const A d = inside * (widen(g[i]) + decay * widen(w[i]));
                     const A v = first ? d : m * widen(buffer[i]) + d;
                     buffer[i] = static_cast<T>(v);
                     w[i] = static_cast<T>(widen(w[i]) - outside * v);
                   }
                 });
}

void CpuBackend::ema_step(std::span<Tensor> averages, std::span<const Tensor> values,
                          double decay) {
  const TensorBlocks blocks(averages);
  for_each_typed(
      "ema_step", averages, blocks, [&](auto tag, int64_t, size_t t, int64_t begin, int64_t end) {
        using T = decltype(tag);
        // As a step towards the value: an average that has arrived stays, which
        // rounded factors that do not add up to 1 would not let it.
        const auto rest = static_cast<acc_t<T>>(1.0 - decay);
        T* average = averages[t].data<T>();
        const T* value = values[t].data<T>();
#pragma omp simd
        for (int64_t i = begin; i < end; ++i)
          average[i] =
              static_cast<T>(widen(average[i]) + rest * (widen(value[i]) - widen(average[i])));
      });
}

void CpuBackend::sum_squares(std::span<const Tensor> tensors, std::span<double> sums) {
  const std::vector<double> result =
      block_sums("sum_squares", tensors, [&](auto tag, size_t t, int64_t begin, int64_t end) {
        return sum_of_squares(tensors[t].data<decltype(tag)>(), begin, end);
      });
  std::copy(result.begin(), result.end(), sums.begin());
}

void CpuBackend::scale(std::span<Tensor> tensors, std::span<const double> factors) {
  const TensorBlocks blocks(tensors);
  for_each_typed("scale", tensors, blocks,
                 [&](auto tag, int64_t, size_t t, int64_t begin, int64_t end) {
                   using T = decltype(tag);
                   const auto factor = static_cast<acc_t<T>>(factors[t]);
                   T* x = tensors[t].data<T>();
#pragma omp simd
                   for (int64_t i = begin; i < end; ++i)
                     x[i] = static_cast<T>(factor * widen(x[i]));
                 });
}

}  // namespace facet
