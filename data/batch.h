#pragma once

#include <string>
#include <vector>

#include "tensor/ops.h"

namespace facet {

// Views that are yet to be made, of pictures that lie in Batch::pixels.
struct PlannedViews {
  std::vector<ViewPlan> plans;  // B
  ChannelScale scale;
};

// A sample that could not be decoded.
struct BadSample {
  int64_t index = 0;
  std::string error;
};

// One batch as the loader delivers it.
struct Batch {
  TensorList views;  // each (B, H, W, 3) f32, normalised; one for supervised training
  Tensor labels;     // i64 (B); (B, classes) f32 0/1 for multi-label tasks
  Tensor indices;    // i64 (B), positions in the dataset; stays on the host
  // Instead of views where a device is to make them.
  Tensor pixels = {};  // u8
  std::vector<PlannedViews> planned = {};
  // What the objective drew for this batch (Objective::prepare).
  TensorList extra = {};
  // What could not be decoded and was replaced or left out.
  std::vector<BadSample> bad = {};

  Batch to(Device device) const {
    Batch moved{{}, labels.to(device), indices};
    moved.bad = bad;
    for (const Tensor& view : views) moved.views.push_back(view.to(device));
    for (const Tensor& tensor : extra) moved.extra.push_back(tensor.to(device));
    if (planned.empty()) return moved;
    const Tensor there = pixels.to(device);
    for (const PlannedViews& view : planned)
      moved.views.push_back(ops::augment(there, view.plans, view.scale));
    return moved;
  }
};

}  // namespace facet
