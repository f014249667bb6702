// Broadcasting, planned on the host for every backend: axes that both arguments walk in the same
// way are merged, so that most operations are one or two axes.
#pragma once

#include "tensor/shape.h"

namespace facet {

// Element (i_0, ..., i_{rank-1}) of the row-major output reads a at sum i_d stride_a[d] and b
// likewise; a stride of the innermost axis is 0 or 1. At least one axis.
struct BroadcastPlan {
  int rank = 0;
  int64_t extent[Shape::kMaxRank] = {};
  int64_t stride_a[Shape::kMaxRank] = {};
  int64_t stride_b[Shape::kMaxRank] = {};
};

inline BroadcastPlan plan_broadcast(const Shape& a, const Shape& b, const Shape& out) {
  // From the innermost axis outwards; reversed at the end.
  BroadcastPlan plan;
  int64_t step_a = 1, step_b = 1;
  const auto extent_at = [](const Shape& shape, int from_end) {
    return from_end < shape.rank() ? shape[shape.rank() - 1 - from_end] : int64_t{1};
  };
  for (int k = 0; k < out.rank(); ++k) {
    const int64_t extent = extent_at(out, k);
    if (extent == 1) continue;
    const int64_t of_a = extent_at(a, k), of_b = extent_at(b, k);
    const int64_t stride_a = of_a == 1 ? 0 : step_a, stride_b = of_b == 1 ? 0 : step_b;
    step_a *= of_a;
    step_b *= of_b;
    const int last = plan.rank - 1;
    if (last >= 0 && stride_a == plan.stride_a[last] * plan.extent[last] &&
        stride_b == plan.stride_b[last] * plan.extent[last]) {
      plan.extent[last] *= extent;
      continue;
    }
    plan.extent[plan.rank] = extent;
    plan.stride_a[plan.rank] = stride_a;
    plan.stride_b[plan.rank] = stride_b;
    ++plan.rank;
  }
  if (plan.rank == 0) plan.extent[plan.rank++] = 1;
  for (int i = 0, j = plan.rank - 1; i < j; ++i, --j) {
    std::swap(plan.extent[i], plan.extent[j]);
    std::swap(plan.stride_a[i], plan.stride_a[j]);
    std::swap(plan.stride_b[i], plan.stride_b[j]);
  }
  return plan;
}

}  // namespace facet
