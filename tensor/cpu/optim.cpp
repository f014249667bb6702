// Optimiser steps over many tensors at once: one parallel loop over the blocks of all of them.
#include <algorithm>

#include "tensor/cpu/cpu_backend.h"
#include "tensor/cpu/loops.h"
#include "tensor/optimizer_rules.h"

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

// rule_of(tag, t)(first[t][i], others[t][i]...) for every element i of every tensor t. An SGD
// without momentum has no buffer.
template <typename RuleOf, typename... Others>
void apply(const char* op, const RuleOf& rule_of, std::span<Tensor> first,
           const Others&... others) {
  for_each_typed(op, first, TensorBlocks(first),
                 [&](auto tag, int64_t, size_t t, int64_t begin, int64_t end) {
                   using T = acc_t<decltype(tag)>;  // f32 or f64: ops.cpp refuses others
                   const auto rule = rule_of(T{}, t);
                   const auto walk = [&](T* x, auto*... rest) {
#pragma omp simd
                     for (int64_t i = begin; i < end; ++i) rule(x[i], rest[i]...);
                   };
                   walk(first[t].data<T>(), others[t].template data<T>()...);
                 });
}

}  // namespace

void CpuBackend::sgd_step(std::span<Tensor> params, std::span<const Tensor> grads,
                          std::span<Tensor> momentum, std::span<const SgdArgs> args) {
  const auto rule = [&](auto tag, size_t t) { return SgdRule<decltype(tag)>(args[t]); };
  if (std::all_of(args.begin(), args.end(), [](const SgdArgs& a) { return a.momentum == 0.0; }))
    apply("sgd_step", rule, params, grads);
  else
    apply("sgd_step", rule, params, grads, momentum);
}

void CpuBackend::adamw_step(std::span<Tensor> params, std::span<const Tensor> grads,
                            std::span<Tensor> exp_avg, std::span<Tensor> exp_avg_sq,
                            std::span<const AdamArgs> args) {
  const auto rule = [&](auto tag, size_t t) { return AdamRule<decltype(tag)>(args[t]); };
  apply("adamw_step", rule, params, grads, exp_avg, exp_avg_sq);
}

void CpuBackend::lars_step(std::span<Tensor> params, std::span<const Tensor> grads,
                           std::span<Tensor> momentum, std::span<const LarsArgs> args) {
  const std::vector<double> weights =
      block_sums("lars_step", params, [&](auto tag, size_t t, int64_t begin, int64_t end) {
        return args[t].adapt ? sum_of_squares(params[t].data<decltype(tag)>(), begin, end) : 0.0;
      });
  const std::vector<double> gradients =
      block_sums("lars_step", params, [&](auto tag, size_t t, int64_t begin, int64_t end) {
        using T = decltype(tag);
        const T *w = params[t].data<T>(), *g = grads[t].data<T>();
        const double decay = lars_decay(args[t]);
        return !args[t].adapt ? 0.0 : sum_terms<double>(begin, end, [=](int64_t i) {
          const double value = double{widen(g[i])} + decay * double{widen(w[i])};
          return value * value;
        });
      });
  const auto rule = [&](auto tag, size_t t) {
    return LarsRule<decltype(tag)>(args[t], weights[t], gradients[t]);
  };
  apply("lars_step", rule, params, grads, momentum);
}

void CpuBackend::ema_step(std::span<Tensor> averages, std::span<const Tensor> values,
                          double decay) {
  const auto rule = [&](auto tag, size_t) { return EmaRule<decltype(tag)>(decay); };
  apply("ema_step", rule, averages, values);
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
