#pragma once

#include <vector>

#include "tensor/tensor.h"

namespace facet {

// One batch as the loader delivers it.
struct Batch {
  TensorList views;  // each (B, H, W, 3) f32, normalised; one for supervised training
  Tensor labels;     // i64 (B); (B, classes) f32 0/1 for multi-label tasks
  Tensor indices;    // i64 (B), positions in the dataset; stays on the host

  Batch to(Device device) const {
    Batch moved{{}, labels.to(device), indices};
    for (const Tensor& view : views) moved.views.push_back(view.to(device));
    return moved;
  }
};

}  // namespace facet
