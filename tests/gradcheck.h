// Compares the gradients of backward() with central differences of the f64 forward.
#pragma once

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "autograd/ops.h"

namespace facet::test {

struct GradCheckOptions {
  int directions = 3;   // random directions over all elements of a leaf
  int coordinates = 6;  // single elements; all of them when a leaf has no more
  double step = 1e-6;
  double tolerance = 1e-6;  // of the gradient's norm (directions) or largest entry (coordinates)
  RandomKey key{1, 7};
};

// Multiples of 1/128 in [-1, 1]: exact in every floating type.
inline Tensor exact_weights(const Shape& shape, const RandomKey& key) {
  RandomSequence random(key);
  std::vector<double> values(static_cast<size_t>(shape.numel()));
  for (double& v : values) v = (static_cast<double>(random.below(257)) - 128.0) / 128.0;
  return Tensor::from(values, shape);
}

// f: computes one f64 output from `leaves` (captured) and gives the same value for the same
// leaves every time. Every leaf that requires a gradient is checked, for the function
// sum(weights * f) with fixed random weights. Returns what differs, or nothing.
inline std::string gradcheck(const std::function<Variable()>& f, std::vector<Variable> leaves,
                             const GradCheckOptions& options = {}) {
  const Variable output = f();
  const Tensor weights = exact_weights(output.shape(), options.key);
  const std::vector<double> w = weights.to_vector<double>();
  for (Variable& leaf : leaves) leaf.clear_grad();
  backward(output, weights);

  const NoGrad no_recording;
  RandomSequence random(options.key.child(1));
  for (size_t l = 0; l < leaves.size(); ++l) {
    Variable& leaf = leaves[l];
    if (!leaf.requires_grad()) continue;
    if (!leaf.grad().defined()) return fmt::format("input {} got no gradient", l);
    const std::vector<double> gradient = leaf.grad().to_vector<double>();
    double norm = 0, largest = 0;
    for (const double g : gradient) {
      norm += g * g;
      largest = std::max(largest, std::fabs(g));
    }
    norm = std::sqrt(norm);
    const std::vector<double> at = leaf.value().to_vector<double>();
    const auto n = static_cast<int64_t>(at.size());

    const auto move_along = [&](const std::vector<double>& direction, double h) {
      double* x = leaf.value().data<double>();
      for (size_t i = 0; i < at.size(); ++i) x[i] = at[i] + h * direction[i];
      return f().value().to_vector<double>();
    };
    const auto check = [&](const std::vector<double>& direction, double scale,
                           const std::string& where) -> std::string {
      const std::vector<double> plus = move_along(direction, options.step);
      const std::vector<double> minus = move_along(direction, -options.step);
      leaf.value().copy_(Tensor::from(at, leaf.shape()));
      double numeric = 0, analytic = 0, noise = 0;
      for (size_t i = 0; i < w.size(); ++i) {
        numeric += w[i] * (plus[i] - minus[i]);
        noise += plus[i] * plus[i];
      }
      numeric /= 2 * options.step;
      noise = 4e-16 * std::sqrt(noise) / options.step;  // rounding of the forward values
      for (size_t i = 0; i < at.size(); ++i) analytic += gradient[i] * direction[i];
      if (std::fabs(numeric - analytic) <= options.tolerance * scale + noise + 1e-9) return "";
      return fmt::format("gradient of input {} {}: {:.12g} by backward, {:.12g} by differences", l,
                         where, analytic, numeric);
    };

    for (int d = 0; d < options.directions; ++d) {
      std::vector<double> direction(at.size());
      for (double& v : direction) v = random.normal();
      if (auto failure = check(direction, norm, "along a direction"); !failure.empty())
        return failure;
    }
    const bool all = n <= options.coordinates;
    for (int64_t c = 0; c < std::min<int64_t>(n, options.coordinates); ++c) {
      const auto i = all ? static_cast<size_t>(c)
                         : static_cast<size_t>(random.below(static_cast<uint64_t>(n)));
      std::vector<double> direction(at.size(), 0.0);
      direction[i] = 1.0;
      if (auto failure = check(direction, largest, fmt::format("at element {}", i));
          !failure.empty())
        return failure;
    }
  }
  return "";
}

}  // namespace facet::test
