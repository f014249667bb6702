#pragma once

#include <vector>

#include "tensor/tensor.h"

namespace facet {

// One batch as the loader delivers it.
struct Batch {
  TensorList views;  // each (B, H, W, 3) f32, normalised; one for supervised training
  Tensor labels;     // i64 (B); (B, classes) f32 0/1 for multi-label tasks
  Tensor indices;    // i64 (B), positions in the dataset
};

}  // namespace facet
