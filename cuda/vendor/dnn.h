// cuDNN's convolutions behind facet's types.
#pragma once

#include "tensor/backend.h"

namespace facet::cuda::vendor {

// As the methods of Backend. False, and nothing done: cuDNN is missing or has no engine for this
// shape and type (f64 is never offered). Sums of f32 are of f32, never of TF32; engines whose
// results differ from run to run are not taken.
bool conv2d(const Tensor& x, const Tensor& w, const ConvEpilogue& epilogue, const ConvArgs& args,
            Tensor& y);
bool conv2d_backward_input(const Tensor& dy, const Tensor& w, const ConvArgs& args, Tensor& dx);
bool conv2d_backward_weight(const Tensor& x, const Tensor& dy, const ConvArgs& args, Tensor& dw);

// Which of cuDNN's plans for a convolution is taken: the first one that cuDNN proposes, which is
// the same every time, or the fastest of a few that are tried at first use. Plans differ in the
// last bits, so that with `fastest` a run need not repeat another one bit for bit.
// FACET_CONVOLUTION_PLANS=first|fastest sets it for a whole program.
enum class PlanChoice : uint8_t { first, fastest };
void set_plan_choice(PlanChoice choice);

std::string dnn_library();  // "cuDNN 9.19.0"

}  // namespace facet::cuda::vendor
