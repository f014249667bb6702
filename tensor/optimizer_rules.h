// What an optimiser does to one element, for the CPU's loops and CUDA's kernels alike. A rule has
// the factors of one tensor; T: float or double. rule(w, g, state...) moves the weight and its
// state.
#pragma once

#include <cmath>

#include "tensor/backend.h"

namespace facet {

template <typename T>
struct SgdRule {
  explicit SgdRule(const SgdArgs& a)
      : lr(static_cast<T>(a.lr)),
        momentum(static_cast<T>(a.momentum)),
        decay(static_cast<T>(a.weight_decay)),
        first(a.first),
        nesterov(a.nesterov) {}

  FACET_HD void operator()(T& w, T g) const { w -= lr * (g + decay * w); }  // without momentum
  FACET_HD void operator()(T& w, T g, T& buffer) const {
    const T d = g + decay * w;
    const T v = first ? d : momentum * buffer + d;
    buffer = v;
    w -= lr * (nesterov ? d + momentum * v : v);
  }

  T lr, momentum, decay;
  bool first, nesterov;
};

template <typename T>
struct AdamRule {
  explicit AdamRule(const AdamArgs& a)
      : step_size(static_cast<T>(a.lr / (1.0 - std::pow(a.beta1, static_cast<double>(a.step))))),
        root_scale(
            static_cast<T>(1.0 / std::sqrt(1.0 - std::pow(a.beta2, static_cast<double>(a.step))))),
        beta1(static_cast<T>(a.beta1)),
        beta2(static_cast<T>(a.beta2)),
        rest1(static_cast<T>(1.0 - a.beta1)),
        rest2(static_cast<T>(1.0 - a.beta2)),
        eps(static_cast<T>(a.eps)),
        shrink(static_cast<T>(a.decoupled ? 1.0 - a.lr * a.weight_decay : 1.0)),
        l2(static_cast<T>(a.decoupled ? 0.0 : a.weight_decay)) {}

  FACET_HD void operator()(T& w, T g, T& mean, T& square) const {
    const T d = g + l2 * w;
    const T m = beta1 * mean + rest1 * d, v = beta2 * square + rest2 * d * d;
    mean = m;
    square = v;
    w = shrink * w - step_size * m / (std::sqrt(v) * root_scale + eps);
  }

  T step_size, root_scale, beta1, beta2, rest1, rest2, eps, shrink, l2;
};

// `weights` = |w|^2 and `gradients` = |g + lars_decay(args) w|^2 where args.adapt.
inline double lars_decay(const LarsArgs& a) {
  return a.form == LarsForm::larc ? 0.0 : a.weight_decay;
}
template <typename T>
struct LarsRule {
  LarsRule(const LarsArgs& a, double weights, double gradients)
      : momentum(static_cast<T>(a.momentum)), first(a.first) {
    const bool larc = a.form == LarsForm::larc, classic = a.form == LarsForm::simclr;
    const double w = std::sqrt(weights), g = std::sqrt(gradients);
    double trust = 1.0;
    decay = static_cast<T>(a.weight_decay);
    if (a.adapt && w > 0.0 && g > 0.0)
      trust = a.trust * w / (larc ? g + a.weight_decay * w + a.eps : g);
    else if (a.adapt && larc)
      decay = T(0);  // apex leaves such a gradient as it is
    // The classic form keeps the learning rate inside of the buffer.
    inside = static_cast<T>(trust * (classic ? a.lr : 1.0));
    outside = static_cast<T>(classic ? 1.0 : a.lr);
  }

  FACET_HD void operator()(T& w, T g, T& buffer) const {
    const T d = inside * (g + decay * w);
    const T v = first ? d : momentum * buffer + d;
    buffer = v;
    w -= outside * v;
  }

  T inside, outside, momentum, decay;
  bool first;
};

// A step of an average towards the value: one that has arrived stays, which rounded factors that do
// not add up to 1 would not let it.
template <typename T>
struct EmaRule {
  explicit EmaRule(double decay) : rest(static_cast<T>(1.0 - decay)) {}
  FACET_HD void operator()(T& average, T value) const { average += rest * (value - average); }
  T rest;
};

}  // namespace facet
