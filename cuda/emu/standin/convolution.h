// Convolutions by plain loops over tensors in any layout: what cuDNN's stand-in computes.
#pragma once

#include <cudnn.h>

#include <array>
#include <vector>

namespace facet::emu {

// A dense tensor, its axes in the order N, C, H, W.
struct View {
  std::array<int64_t, 4> sizes{}, strides{};
  cudnnDataType_t type = CUDNN_DATA_FLOAT;
  void* data = nullptr;
};

// What is done to every sum: a tensor of as many elements, or one along an axis, is added; or
// max(0, sum).
struct Step {
  View added{};
  bool relu = false;
};

struct Convolution {
  enum class Output { x, w, y };
  Output output;
  View x, w, y;
  std::array<int64_t, 2> pre, post, stride, dilation;  // pre and post: padding
  float alpha, beta;
  std::vector<Step> steps{};

  View& output_view() { return output == Output::x ? x : output == Output::w ? w : y; }

  // Whether sizes and types go together.
  cudnnStatus_t check() const;
};

// output = steps(alpha conv + beta output), the old output unread where beta is 0; sums in float.
// as_tf32: the inputs lose 13 bits; noise is added to every element.
void convolve(Convolution c, bool as_tf32, float noise);

}  // namespace facet::emu
