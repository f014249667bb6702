// Views of pictures on a device: what the tuned kernels and their naive twins share.
#pragma once

#include <span>
#include <vector>

#include "cuda/kernels/tensors.cuh"
#include "tensor/pixels.h"

namespace facet::cuda {

// The fixed-point weights of one axis of a view: for each output position `size` integers, which
// are the first input position, their number, the weights.
struct TapTable {
  int64_t at;  // of the first among all views' integers
  int size;
};
struct ViewWork {
  ViewPlan plan;  // without the flips that the resize does: all before a pixel's place matters
  TapTable columns, rows;
  bool flipped;
};

// A batch on its way. The views' pixels are (N, height, width).
struct AugmentJob {
  std::vector<ViewWork> views;
  int height, width;
  const uint8_t* pixels;
  ChannelScale scale;
  Tensor views_on_device, taps;

  AugmentJob(const Tensor& pictures, std::span<const ViewPlan> plans, const ChannelScale& how,
             const Tensor& out);
  const ViewWork* works() const { return uploaded<ViewWork>(views_on_device); }
  int64_t count() const { return static_cast<int64_t>(views.size()); }
};

void augment_naive(const AugmentJob& job, Tensor& out);

// f(T{}) with the type of the views.
template <typename F>
void dispatch_view(DType dtype, F&& f) {
  if (dtype == DType::u8) return f(uint8_t{});
  dispatch_floating(dtype, "augment", f);
}

__device__ inline pixels::Rgb load(const uint8_t* p) {
  return {p[0], p[1], p[2]};
}
__device__ inline void store(uint8_t* p, pixels::Rgb value) {
  p[0] = value.r;
  p[1] = value.g;
  p[2] = value.b;
}

// Sum of weights times pixels, which lie `step` bytes apart; `taps`: one position's row of a table.
__device__ inline pixels::Rgb resample(const uint8_t* from, int64_t step, const int* taps) {
  int sum[3] = {1 << (pixels::kPrecision - 1), 1 << (pixels::kPrecision - 1),
                1 << (pixels::kPrecision - 1)};
  for (int i = 0; i < taps[1]; ++i, from += step)
    for (int c = 0; c < 3; ++c) sum[c] += from[c] * taps[2 + i];
  return {pixels::clip8(sum[0] >> pixels::kPrecision), pixels::clip8(sum[1] >> pixels::kPrecision),
          pixels::clip8(sum[2] >> pixels::kPrecision)};
}
// Row `row` of the window at the view's column x.
__device__ inline pixels::Rgb resample_row(const ViewWork& view, const uint8_t* pixels,
                                           const int* taps, int64_t row, int x) {
  const ViewPlan& plan = view.plan;
  const int* const at = taps + view.columns.at + static_cast<int64_t>(x) * view.columns.size;
  const int64_t pixel = (plan.window.top + row) * plan.width + plan.window.left + at[0];
  return resample(pixels + plan.offset + 3 * pixel, 3, at);
}

template <typename T>
__device__ void write(const ChannelScale& s, pixels::Rgb p, T* to) {
  to[0] = pixels::normalised<T>(p.r, s.scale[0], s.shift[0]);
  to[1] = pixels::normalised<T>(p.g, s.scale[1], s.shift[1]);
  to[2] = pixels::normalised<T>(p.b, s.scale[2], s.shift[2]);
}

// A pixel by the tables of its channels, 256 values each.
__device__ inline pixels::Rgb looked_up(const uint8_t* tables, pixels::Rgb p) {
  return {tables[p.r], tables[256 + p.g], tables[512 + p.b]};
}

// One value of a box blur along a line of n values, `step` bytes apart, whose edges are repeated.
__device__ inline uint8_t box_blurred(const uint8_t* line, int n, int64_t step, int at,
                                      const pixels::Box& box) {
  const auto value = [&](int i) {
    return static_cast<uint32_t>(line[min(max(i, 0), n - 1) * step]);
  };
  uint32_t sum = 0;
  for (int i = at - box.reach; i <= at + box.reach; ++i) sum += value(i);
  return box(sum, value(at - box.reach - 1) + value(at + box.reach + 1));
}

}  // namespace facet::cuda
