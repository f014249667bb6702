// Limited-memory BFGS (Liu & Nocedal 1989) for smooth functions of one flat vector, with a
// strong-Wolfe line search (Nocedal & Wright 2006, algorithms 3.5 and 3.6). Vectors stay on their
// device in their own type (f32 or f64); inner products and the new direction are matrix products
// over the whole history ("vector-free" form of the two-loop recursion, Chen et al. 2014), and all
// scalars are f64 on the host.
#pragma once

#include <functional>

#include "tensor/tensor.h"

namespace facet {

struct LbfgsOptions {
  int max_iterations = 100;
  int memory = 10;                   // pairs of (step, change of gradient) kept
  double gradient_tolerance = 1e-4;  // stop when max |gradient| is not above it, but not before
  // |gradient|^2 / 2 <= gap_tolerance |f|: the left side bounds how far a function of strong
  // convexity 1 is above its minimum. The decrease is then relative to |f| however small. 0:
  // neither.
  double gap_tolerance = 0.0;
  // Stop when (f_k - f_k+1) / max(|f_k|, |f_k+1|, 1), or what a full step promises of it, is not
  // above it (SciPy's ftol; at least the rounding error of f). Negative: never.
  double decrease_tolerance = 2.220446049250313e-9;
  int max_line_search = 20;  // evaluations in one line search
};

enum class LbfgsStop : uint8_t { gradient, decrease, iterations, line_search };
const char* name(LbfgsStop stop);

struct LbfgsResult {
  double value = 0.0;
  double gradient_max = 0.0;
  int iterations = 0;
  int evaluations = 0;
  LbfgsStop stop = LbfgsStop::iterations;
};

// Returns the value at x and writes (=) the gradient, of x's shape and type.
using LbfgsFunction = std::function<double(const Tensor& x, Tensor& gradient)>;

// Minimises from x (n), which becomes the best point found.
LbfgsResult minimize_lbfgs(Tensor& x, const LbfgsFunction& function,
                           const LbfgsOptions& options = {});

}  // namespace facet
