#include "tensor/image.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "tensor/check.h"
#include "tensor/pixels.h"

namespace facet {

using namespace pixels;

namespace {

// ---- resampling

// For each output position the first input position and its fixed-point weights.
struct Taps {
  int size = 0;  // weights an output
  std::vector<int> first, count, weight;

  Taps(int in, int out, Filter filter) {
    const Resampling sampling(in, out, filter);
    size = sampling.max_taps();
    weight.assign(static_cast<size_t>(size) * out, 0);
    for (int o = 0; o < out; ++o) {
      first.push_back(sampling.first(o));
      count.push_back(sampling.last(o) - first.back());
      sampling.weights(o, &weight[static_cast<size_t>(o) * size]);
    }
  }
};

Image resize_rows(const Image& image, int width, Filter filter) {
  const Taps taps(image.width, width, filter);
  Image out(image.height, width);
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < width; ++x) {
      int sum[3] = {1 << (kPrecision - 1), 1 << (kPrecision - 1), 1 << (kPrecision - 1)};
      const int* w = &taps.weight[static_cast<size_t>(x) * taps.size];
      const uint8_t* from = image.at(y, taps.first[static_cast<size_t>(x)]);
      for (int i = 0; i < taps.count[static_cast<size_t>(x)]; ++i, from += 3)
        for (int c = 0; c < 3; ++c) sum[c] += from[c] * w[i];
      for (int c = 0; c < 3; ++c) out.at(y, x)[c] = clip8(sum[c] >> kPrecision);
    }
  return out;
}

Image resize_columns(const Image& image, int height, Filter filter) {
  const Taps taps(image.height, height, filter);
  Image out(height, image.width);
  const size_t row = static_cast<size_t>(image.width) * 3;
  std::vector<int> sum(row);
  for (int y = 0; y < height; ++y) {
    std::fill(sum.begin(), sum.end(), 1 << (kPrecision - 1));
    const int* w = &taps.weight[static_cast<size_t>(y) * taps.size];
    for (int i = 0; i < taps.count[static_cast<size_t>(y)]; ++i) {
      const uint8_t* from = image.at(taps.first[static_cast<size_t>(y)] + i, 0);
      for (size_t k = 0; k < row; ++k) sum[k] += from[k] * w[i];
    }
    uint8_t* to = out.at(y, 0);
    for (size_t k = 0; k < row; ++k) to[k] = clip8(sum[k] >> kPrecision);
  }
  return out;
}

// ---- colour

template <typename Change>
void for_each_pixel(Image& image, const Change& change) {
  for (size_t i = 0; i < image.pixels.size(); i += 3) {
    uint8_t* p = &image.pixels[i];
    const Rgb after = change(Rgb{p[0], p[1], p[2]});
    p[0] = after.r;
    p[1] = after.g;
    p[2] = after.b;
  }
}

int mean_of(const Image& image) {
  uint64_t sum = 0;
  for (size_t i = 0; i < image.pixels.size(); i += 3) sum += luma(&image.pixels[i]);
  return mean_luma(sum, static_cast<int64_t>(image.pixels.size() / 3));
}

void map_values(const ImageOp& op, Image& image) {
  const int mean = op.kind == ImageOpKind::contrast ? mean_of(image) : 0;
  std::array<uint8_t, 256> table;
  for (size_t v = 0; v < table.size(); ++v)
    table[v] = value_op(op.kind, op.value, static_cast<int>(v), mean);
  for (uint8_t& v : image.pixels) v = table[v];
}

// ---- box blur

// One pass along a line of `n` values that lie `step` bytes apart.
void box_blur_line(const uint8_t* in, uint8_t* out, int n, size_t step, const Box& box) {
  const auto at = [&](int x) {
    return static_cast<uint32_t>(in[static_cast<size_t>(std::clamp(x, 0, n - 1)) * step]);
  };
  uint32_t sum = 0;
  for (int x = -box.reach - 1; x < box.reach; ++x) sum += at(x);
  for (int x = 0; x < n; ++x) {
    sum += at(x + box.reach) - at(x - box.reach - 1);
    out[static_cast<size_t>(x) * step] = box(sum, at(x - box.reach - 1) + at(x + box.reach + 1));
  }
}

void box_blur(Image& image, const Box& box) {
  Image other(image.height, image.width);
  const size_t row = static_cast<size_t>(image.width) * 3;
  for (int pass = 0; pass < kBoxPasses; ++pass) {
    for (int y = 0; y < image.height; ++y)
      for (int c = 0; c < 3; ++c)
        box_blur_line(image.at(y, 0) + c, other.at(y, 0) + c, image.width, 3, box);
    std::swap(image.pixels, other.pixels);
  }
  for (int pass = 0; pass < kBoxPasses; ++pass) {
    for (size_t k = 0; k < row; ++k)
      box_blur_line(image.pixels.data() + k, other.pixels.data() + k, image.height, row, box);
    std::swap(image.pixels, other.pixels);
  }
}

// `window` of a picture whose rows are `width` pixels.
Image cut(const uint8_t* picture, int width, const Rectangle& window) {
  Image out(window.height, window.width);
  for (int y = 0; y < window.height; ++y)
    std::copy_n(picture + (static_cast<size_t>(window.top + y) * width + window.left) * 3,
                static_cast<size_t>(window.width) * 3, out.at(y, 0));
  return out;
}

}  // namespace

Image resize(const Image& image, int height, int width, Filter filter) {
  FACET_CHECK(height > 0 && width > 0 && image.height > 0 && image.width > 0, "resize",
              "cannot resize {}x{} to {}x{}", image.height, image.width, height, width);
  Image out = image.width == width ? image : resize_rows(image, width, filter);
  return out.height == height ? out : resize_columns(out, height, filter);
}

Image crop(const Image& image, int top, int left, int height, int width) {
  FACET_CHECK(top >= 0 && left >= 0 && height > 0 && width > 0 && top + height <= image.height &&
                  left + width <= image.width,
              "crop", "a {}x{} window at ({}, {}) leaves the {}x{} image", height, width, top, left,
              image.height, image.width);
  return cut(image.pixels.data(), image.width, {top, left, height, width});
}

void apply(const ImageOp& op, Image& image) {
  if (is_value_op(op.kind)) return map_values(op, image);
  switch (op.kind) {
    case ImageOpKind::flip:
      for (int y = 0; y < image.height; ++y)
        for (int x = 0; x < image.width / 2; ++x)
          std::swap_ranges(image.at(y, x), image.at(y, x) + 3, image.at(y, image.width - 1 - x));
      return;
    case ImageOpKind::saturation:
      return for_each_pixel(image, [&](Rgb p) { return saturate(p, op.value); });
    case ImageOpKind::hue:
      return for_each_pixel(
          image, [turn = static_cast<uint8_t>(op.value)](Rgb p) { return turn_hue(p, turn); });
    case ImageOpKind::gray:
      return for_each_pixel(image, [](Rgb p) { return Rgb{luma(p), luma(p), luma(p)}; });
    case ImageOpKind::blur: return box_blur(image, Box(op.value));
    default: return apply_policy(op, image);
  }
}

Image make_view(const ViewPlan& plan, const uint8_t* picture) {
  const Rectangle& v = plan.view;
  Image image = resize(cut(picture, plan.width, plan.window), plan.resized_height,
                       plan.resized_width, plan.filter);
  if (v.height != image.height || v.width != image.width)
    image = crop(image, v.top, v.left, v.height, v.width);
  for (int i = 0; i < plan.count; ++i) apply(plan.ops[i], image);
  return image;
}

template <typename T>
void normalize(const Image& image, const ChannelScale& s, T* out) {
  for (size_t i = 0; i < image.pixels.size(); i += 3)
    for (size_t c = 0; c < 3; ++c)
      out[i + c] = normalised<T>(image.pixels[i + c], s.scale[c], s.shift[c]);
}
template void normalize(const Image&, const ChannelScale&, float*);
template void normalize(const Image&, const ChannelScale&, bf16*);
template void normalize(const Image&, const ChannelScale&, double*);
template void normalize(const Image&, const ChannelScale&, uint8_t*);

float hue_turn(double shift) {
  return static_cast<uint8_t>(static_cast<int>(shift * 255));
}

float blur_radius(float sigma) {
  const float sigma2 = sigma * sigma / static_cast<float>(kBoxPasses);
  const float length = static_cast<float>(std::sqrt(12.0 * sigma2 + 1.0));
  const float l = static_cast<float>(std::floor((length - 1.0) / 2.0));
  float a = (2 * l + 1) * (l * (l + 1) - 3 * sigma2);
  a /= 6 * (sigma2 - (l + 1) * (l + 1));
  return l + a;
}

uint8_t luma(const uint8_t* rgb) {
  return pixels::luma({rgb[0], rgb[1], rgb[2]});
}

}  // namespace facet
