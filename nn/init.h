// Weight initialisation. The numbers of a parameter depend on (seed, its full name) alone, so
// adding a layer does not change the others.
#pragma once

#include <string>

#include "nn/module.h"

namespace facet {

// N(0, stddev)
Tensor init_normal(const Shape& shape, const RandomKey& key, double stddev);
// U(-bound, bound)
Tensor init_uniform(const Shape& shape, const RandomKey& key, double bound);

// Draws every parameter of the module anew by the rules of torchvision's ResNet: convolutions
// N(0, sqrt(2 / (k^2 Cout))) (He et al. 2015, fan out), norms weight 1 and bias 0, linear layers
// and their biases U(+-1/sqrt(fan_in)). With zero_init_residual the last norm weight of every
// residual block starts at 0.
void initialize(Module& module, uint64_t seed, bool zero_init_residual = false);

}  // namespace facet
