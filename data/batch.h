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
  // What the objective drew for this batch (Objective::prepare): its parts' one after the other.
  TensorList extra = {};
  Tensor targets = {};  // shares of the classes (B, classes), where they are not the labels'
  // What could not be decoded and was replaced or left out.
  std::vector<BadSample> bad = {};

  // Part i of n, an equal share of the rows.
  Batch part(int64_t i, int64_t n) const {
    if (n == 1) return *this;
    const auto share = [&](const Tensor& t) {
      return t.defined() ? t.narrow(i * (t.dim(0) / n), t.dim(0) / n) : t;
    };
    Batch piece{{}, share(labels), share(indices)};
    for (const Tensor& view : views) piece.views.push_back(share(view));
    const auto each = std::ssize(extra) / n;
    piece.extra.assign(extra.begin() + i * each, extra.begin() + (i + 1) * each);
    piece.targets = share(targets);
    return piece;
  }

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
