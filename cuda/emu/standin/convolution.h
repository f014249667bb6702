// Convolutions by plain loops over tensors in any layout: what cuDNN's stand-in computes.
#pragma once

#include <cudnn.h>

#include <array>

namespace facet::emu {

// A dense tensor, its axes in the order N, C, H, W.
struct View {
  std::array<int64_t, 4> sizes{}, strides{};
  cudnnDataType_t type = CUDNN_DATA_FLOAT;
  void* data = nullptr;
};

struct Convolution {
  enum class Output { x, w, y };
  Output output;
  View x, w, y;
  std::array<int64_t, 2> pre, post, stride, dilation;  // pre and post: padding
  float alpha, beta;

  // Whether sizes and types go together.
  cudnnStatus_t check() const;
};

// output = alpha conv + beta output, the old output unread where beta is 0; sums in float.
// as_tf32: the inputs lose 13 bits; noise is added to every element.
void convolve(const Convolution& c, bool as_tf32, float noise);

}  // namespace facet::emu
