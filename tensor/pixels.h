// Pillow's arithmetic on 8-bit RGB, one value or pixel at a time: shared by the CPU loops and the
// CUDA kernels. Who includes this is compiled without fused multiply-adds (CMakeLists.txt): Pillow
// rounds products on their own, and so every compiler gives the same bits.
#pragma once

#include <cmath>

#include "tensor/augment.h"
#include "tensor/dtype.h"

namespace facet::pixels {

struct Rgb {
  uint8_t r, g, b;
};

FACET_HD inline uint8_t clip8(int v) {
  return static_cast<uint8_t>(v < 0 ? 0 : v > 255 ? 255 : v);
}

// ---- resampling: the filter's support grows with the shrink factor (antialiasing); weights in
// 22-bit fixed point, 8 bits between the horizontal and the vertical pass.

constexpr int kPrecision = 32 - 8 - 2;

struct Resampling {
  double scale, shrink, support;
  int in;
  Filter filter;

  FACET_HD Resampling(int from, int to, Filter with)
      : scale(static_cast<double>(from) / to),
        shrink(scale > 1.0 ? scale : 1.0),
        support((with == Filter::bilinear ? 1.0 : 2.0) * shrink),
        in(from),
        filter(with) {}

  FACET_HD int max_taps() const { return static_cast<int>(std::ceil(support)) * 2 + 1; }
  FACET_HD double centre(int out) const { return (out + 0.5) * scale; }
  // The inputs [first, last) of an output.
  FACET_HD int first(int out) const {
    const int at = static_cast<int>(centre(out) - support + 0.5);
    return at > 0 ? at : 0;
  }
  FACET_HD int last(int out) const {
    const int at = static_cast<int>(centre(out) + support + 0.5);
    return at < in ? at : in;
  }
  FACET_HD double weight(int out, int at) const {
    const double x = std::fabs((at - centre(out) + 0.5) / shrink);
    constexpr double a = -0.5;
    if (filter == Filter::bilinear) return x < 1.0 ? 1.0 - x : 0.0;
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
  }
  // Writes the fixed-point weights of an output; they add up to about 1.
  FACET_HD void weights(int out, int* to) const {
    double sum = 0;
    const int begin = first(out), end = last(out);
    for (int i = begin; i < end; ++i) sum += weight(out, i);
    for (int i = begin; i < end; ++i) {
      const double w = weight(out, i) / sum * (1 << kPrecision);
      to[i - begin] = static_cast<int>(w < 0 ? w - 0.5 : w + 0.5);
    }
  }
};

// ---- colour

// ITU-R 601-2
FACET_HD inline uint8_t luma(Rgb p) {
  return static_cast<uint8_t>((19595 * p.r + 38470 * p.g + 7471 * p.b + 32768) >> 16);
}
// The mean luma of `count` pixels as contrast takes it.
FACET_HD inline uint8_t mean_luma(uint64_t sum, int64_t count) {
  return static_cast<uint8_t>(static_cast<double>(sum) / static_cast<double>(count) + 0.5);
}

// base + factor (v - base), truncated and clipped (as integers, which takes two instructions)
FACET_HD inline uint8_t blend(int base, int v, float factor) {
  return clip8(static_cast<int>(static_cast<float>(base) + factor * static_cast<float>(v - base)));
}

// Operations that treat every value by itself. `mean`: the picture's mean luma, for contrast.
FACET_HD constexpr bool is_value_op(ImageOpKind kind) {
  return kind >= ImageOpKind::brightness && kind <= ImageOpKind::invert;
}
FACET_HD inline uint8_t value_op(ImageOpKind kind, float value, int v, int mean) {
  switch (kind) {
    case ImageOpKind::brightness: return blend(0, v, value);
    case ImageOpKind::contrast: return blend(mean, v, value);
    case ImageOpKind::solarize:
      return static_cast<uint8_t>(v < static_cast<int>(value) ? v : 255 - v);
    case ImageOpKind::solarize_add: return clip8(v < 128 ? v + static_cast<int>(value) : v);
    case ImageOpKind::posterize:
      return static_cast<uint8_t>(v & (0xff00 >> static_cast<int>(value)));
    default: return static_cast<uint8_t>(255 - v);  // invert
  }
}

FACET_HD inline Rgb saturate(Rgb p, float factor) {
  const int gray = luma(p);
  return {blend(gray, p.r, factor), blend(gray, p.g, factor), blend(gray, p.b, factor)};
}

// Pillow's HSV in 8 bits, with `turn` added to the hue. Pillow computes parts of it in f64; these
// f32 formulas give its integers for every colour and turn (augment_test goes through all colours).
// Every value is computed and then chosen, with numbers for truth, so that loops run on vectors.
FACET_HD inline Rgb turn_hue(Rgb p, uint8_t turn) {
  const int r = p.r, g = p.g, b = p.b;
  const int above = r > g ? r : g, below = r < g ? r : g;
  const int high = above > b ? above : b, low = below < b ? below : b;
  const int grey = high == low;  // saturation 0: any hue gives the same grey
  const int range = high - low + grey;
  // Sixths of a turn: an even number where red, green or blue is the highest alone, and `part` from
  // an odd one, where two are.
  const int is_red = r == high, is_green = (g == high) & (1 - is_red);
  const int is_blue = 1 - is_red - is_green;
  const int rising = (is_red & (g == low)) | (is_green & (r != low)) | (is_blue & (r == low));
  const int sign = 2 * rising - 1, distance = 2 * high + low - r - g - b;
  const int part = rising ? distance : -distance;
  const float sixths = static_cast<float>(2 * is_green + 4 * is_blue - sign) +
                       static_cast<float>(part) / static_cast<float>(range);
  const int negative = is_red & rising & (part < range);
  const float around = sixths / 6.0f + static_cast<float>(negative);
  // trunc(255 around) without a rounding of the product: 256 around is exact.
  const float wide = around * 256.0f;
  const int rounded = static_cast<int>(wide - around);
  const int whole = rounded - (wide - static_cast<float>(rounded) < around);
  const int hue = ((whole + turn) & 255) * 6;
  const int saturation =
      static_cast<int>(static_cast<float>(range * 255) / static_cast<float>(high + grey));
  const int sector = static_cast<int>(static_cast<float>(hue) * (1 / 255.0f));
  const int rest = hue - sector * 255, odd = sector & 1;
  const float f = static_cast<float>(odd ? rest : 255 - rest) * (1 / 255.0f);
  const float v = static_cast<float>(high);
  const float depth = v * (static_cast<float>(saturation & (grey - 1)) * (1 / 255.0f));
  const int a = static_cast<int>(v - depth + 0.5f);
  const int middle = static_cast<int>(v - depth * f + 0.5f);
  // Each channel is the highest in two sectors, the middle one in two, else the lowest.
  const int i = sector == 6 ? 0 : sector;
  const auto channel = [=](int high1, int high2, int middle1, int middle2) {
    return static_cast<uint8_t>(a + ((high - a) & (-(i == high1) | -(i == high2))) +
                                ((middle - a) & (-(i == middle1) | -(i == middle2))));
  };
  return {channel(0, 5, 1, 4), channel(1, 2, 0, 3), channel(3, 4, 2, 5)};
}

// Every operation that treats each pixel by itself, here number `at` of rows of `width`; the others
// leave it alone.
FACET_HD inline Rgb pixel_op(const ImageOp& op, Rgb p, int mean, int64_t at, int width) {
  const ImageOpKind kind = op.kind;
  if (is_value_op(kind))
    return {value_op(kind, op.value, p.r, mean), value_op(kind, op.value, p.g, mean),
            value_op(kind, op.value, p.b, mean)};
  if (kind == ImageOpKind::saturation) return saturate(p, op.value);
  if (kind == ImageOpKind::hue) return turn_hue(p, static_cast<uint8_t>(op.value));
  if (kind == ImageOpKind::gray) return {luma(p), luma(p), luma(p)};
  if (kind == ImageOpKind::cutout) {
    const int64_t y = at / width - op.box[0], x = at % width - op.box[1];
    if (y >= 0 && y < op.box[2] && x >= 0 && x < op.box[3])
      return {op.fill[0], op.fill[1], op.fill[2]};
  }
  return p;
}

// ---- equalize and autocontrast: a table for each channel

FACET_HD constexpr bool uses_histogram(ImageOpKind kind) {
  return kind == ImageOpKind::equalize || kind == ImageOpKind::autocontrast;
}
// What a channel's values become; histogram[v] of its `count` values are v.
struct Levels {
  int low = 0, high = 255, step;  // the smallest and the largest value that occur

  FACET_HD Levels(const int* histogram, int64_t count) {
    while (low < 255 && histogram[low] == 0) ++low;
    while (high > low && histogram[high] == 0) --high;
    step = static_cast<int>(count - histogram[high]) / 255;
  }
  // `below`: how many values are less than v
  FACET_HD uint8_t operator()(ImageOpKind kind, int v, int below) const {
    if (kind == ImageOpKind::equalize ? step == 0 : low == high) return static_cast<uint8_t>(v);
    if (kind == ImageOpKind::equalize) return clip8((step / 2 + below) / step);
    const double scale = 255.0 / (high - low), offset = -low * scale;
    return clip8(static_cast<int>(v * scale + offset));
  }
};

// ---- sharpness, and what moves pixels by an affine map

FACET_HD constexpr bool gathers(ImageOpKind kind) {
  return kind == ImageOpKind::flip ||
         (kind >= ImageOpKind::sharpness && kind <= ImageOpKind::translate_y);
}
FACET_HD inline double cubic_through(double v1, double v2, double v3, double v4, double d) {
  const double p2 = -v1 + v3, p3 = 2 * (v1 - v2) + v3 - v4, p4 = -v1 + v2 - v3 + v4;
  return v2 + d * (p2 + d * (p3 + d * p4));
}

// Output (x, y) shows input (a x + b y + c, d x + e y + f).
struct Gather {
  ImageOp op;
  int height = 0, width = 0;
  double a = 1, b = 0, c = 0, d = 0, e = 1, f = 0;

  FACET_HD Rgb operator()(const uint8_t* from, int y, int x) const {
    if (op.kind == ImageOpKind::sharpness) return sharpened(from, y, x);
    const double column = a * (x + 0.5) + b * (y + 0.5) + c;
    const double row = d * (x + 0.5) + e * (y + 0.5) + f;
    if (column < 0 || column >= width || row < 0 || row >= height)
      return {op.fill[0], op.fill[1], op.fill[2]};
    const double left = std::floor(column - 0.5), top = std::floor(row - 0.5);
    uint8_t to[3];
    for (int i = 0; i < 3; ++i)
      to[i] = clip8(static_cast<int>(sample(from + i, static_cast<int>(top), static_cast<int>(left),
                                            row - 0.5 - top, column - 0.5 - left)));
    return {to[0], to[1], to[2]};
  }

 private:
  // The value at row y + dy and column x + dx; sources beyond the edge repeat it.
  FACET_HD double sample(const uint8_t* from, int y, int x, double dy, double dx) const {
    const auto inside = [](int i, int n) { return i < 0 ? 0 : i < n ? i : n - 1; };
    const auto line = [&](int row) {
      const uint8_t* const values = from + 3 * static_cast<int64_t>(inside(row, height)) * width;
      const auto at = [&](int column) {
        return static_cast<double>(values[3 * inside(column, width)]);
      };
      if (op.filter == Filter::bilinear) return at(x) + (at(x + 1) - at(x)) * dx;
      return cubic_through(at(x - 1), at(x), at(x + 1), at(x + 2), dx);
    };
    if (op.filter == Filter::bilinear) {
      const double above = line(y), below = line(y + 1);
      return above + (below - above) * dy;
    }
    return cubic_through(line(y - 1), line(y), line(y + 1), line(y + 2), dy);
  }
  // Blends with ImageFilter.SMOOTH: (1 1 1; 1 5 1; 1 1 1) / 13, the border as it is.
  FACET_HD Rgb sharpened(const uint8_t* from, int y, int x) const {
    const int64_t stride = 3 * static_cast<int64_t>(width);
    from += y * stride + 3 * x;
    if (x == 0 || y == 0 || x + 1 == width || y + 1 == height) return {from[0], from[1], from[2]};
    constexpr float edge = 1.0f / 13.0f, middle = 5.0f / 13.0f;
    const auto value = [&](int channel) {
      const uint8_t* const at = from + channel;
      const auto row = [](const uint8_t* p, float centre) {
        return static_cast<float>(p[-3]) * edge + static_cast<float>(p[0]) * centre +
               static_cast<float>(p[3]) * edge;
      };
      float sum = 0.5f;
      sum += row(at + stride, edge);
      sum += row(at, middle);
      sum += row(at - stride, edge);
      return blend(clip8(static_cast<int>(sum)), *at, op.value);
    };
    return {value(0), value(1), value(2)};
  }
};
// For pictures of height x width; on the host (tensor/cpu/image_policy.cpp).
Gather gather_of(const ImageOp& op, int height, int width);

// ---- extended box blur: weight 1 within `reach`, a share of it one further

struct Box {
  int reach;
  uint32_t weight, far;  // 24-bit fixed point

  FACET_HD explicit Box(float radius)
      : reach(static_cast<int>(radius)),
        weight(static_cast<uint32_t>(static_cast<float>(1 << 24) / (radius * 2 + 1))),
        far(((1u << 24) - static_cast<uint32_t>(reach * 2 + 1) * weight) / 2) {}
  // `sum`: of the 2 reach + 1 inner values; `ends`: of the two beyond
  FACET_HD uint8_t operator()(uint32_t sum, uint32_t ends) const {
    return static_cast<uint8_t>((sum * weight + ends * far + (1u << 23)) >> 24);
  }
};
constexpr int kBoxPasses = 3;  // along each axis

// ---- what the network sees

template <typename T>
FACET_HD T normalised(uint8_t v, float scale, float shift) {
  return static_cast<T>(std::fma(static_cast<acc_t<T>>(v), static_cast<acc_t<T>>(scale),
                                 static_cast<acc_t<T>>(shift)));
}
template <>
FACET_HD inline uint8_t normalised<uint8_t>(uint8_t v, float, float) {
  return v;
}

}  // namespace facet::pixels
