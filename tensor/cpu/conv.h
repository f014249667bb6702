// Parts of the CPU convolution that more than one file needs.
#pragma once

#include <cstddef>

#include "tensor/backend.h"

namespace facet::cpu {

enum class ConvPass : uint8_t { forward, backward_input, backward_weight };

// Everything that one of the three convolution passes depends on but the data.
struct ConvKey {
  ConvPass pass;
  DType dtype;  // of activations and weights
  int64_t n, h, w, c_in, p, q, c_out, kernel_h, kernel_w;
  ConvArgs args;
  int threads;
  bool bias = false, residual = false, relu = false;  // of a forward convolution's epilogue
  bool operator==(const ConvKey&) const = default;
};

struct ConvKeyHash {
  size_t operator()(const ConvKey& key) const;
};

// oneDNN primitives made so far (for tests: a repeated shape must not make another one).
size_t conv_primitive_count();

// Convolution as matrix products, in f64 and f32.
template <typename T>
void conv_forward_gemm(const ConvKey& key, const T* x, const T* w, T* y);
template <typename T>
void conv_backward_input_gemm(const ConvKey& key, const T* dy, const T* w, T* dx);
template <typename T>
void conv_backward_weight_gemm(const ConvKey& key, const T* x, const T* dy, T* dw);

// The pass that the key names, for maps of few pixels, without groups: a product of all images for
// each output pixel and row of the kernel. Nothing is copied, and what the kernel meets outside the
// map costs nothing: on 2 x 2 maps that is 20 of a 3x3 kernel's 36 places.
void conv_taps(const ConvKey& key, const float* x, const float* w, const float* y, float* out);

}  // namespace facet::cpu
