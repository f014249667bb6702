// Weight initialisation. The numbers of a parameter depend on (seed, its full name) alone, so
// adding a layer does not change the others.
#pragma once

#include "nn/layers.h"

namespace facet {

// Draws every parameter of the module anew by the rules of torchvision's ResNet: convolutions
// N(0, sqrt(2 / (k^2 Cout))) (He et al. 2015, fan out), norms weight 1 and bias 0, linear layers
// and their biases U(+-1/sqrt(fan_in)).
void initialize(Module& module, uint64_t seed);
// The parameters of a transformer: tokens, learned position embeddings N(0, .02), norms weight 1,
// biases 0, and linear layers N(0, .02), or with `xavier` U(+-sqrt(6 / (in + out))), as MAE.
// Without it the patch embedding is drawn as PyTorch draws a convolution, U(+-1/sqrt(fan_in)).
void initialize_transformer(Module& module, uint64_t seed, bool xavier);
// Weight N(0, stddev), bias 0: the usual start of a classifier on a trained network.
// `name` tells layers of one seed apart.
void initialize_normal(Linear& layer, uint64_t seed, double stddev,
                       const std::string& name = "normal");

}  // namespace facet
