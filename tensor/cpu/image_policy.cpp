// The operations of augmentation policies (AutoAugment, RandAugment) that need the whole picture or
// move pixels: as Pillow's ImageOps, ImageEnhance and Image.transform compute them.
#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "tensor/check.h"
#include "tensor/image.h"
#include "tensor/pixels.h"

namespace facet {

using namespace pixels;

namespace {

// table(histogram, v) for every value v of each channel.
template <typename Table>
void map_channels(Image& image, const Table& table) {
  for (size_t c = 0; c < 3; ++c) {
    std::array<int, 256> histogram{};
    for (size_t i = c; i < image.pixels.size(); i += 3) ++histogram[image.pixels[i]];
    const std::array<uint8_t, 256> to = table(histogram);
    for (size_t i = c; i < image.pixels.size(); i += 3) image.pixels[i] = to[image.pixels[i]];
  }
}

using Histogram = std::array<int, 256>;
struct Range {
  int low = 0, high = 255;  // the smallest and the largest value that occur
  explicit Range(const Histogram& h) {
    while (low < 255 && h[static_cast<size_t>(low)] == 0) ++low;
    while (high > low && h[static_cast<size_t>(high)] == 0) --high;
  }
};

std::array<uint8_t, 256> equalized(const Histogram& h) {
  const Range range(h);
  int total = 0;
  for (const int n : h) total += n;
  const int step = (total - h[static_cast<size_t>(range.high)]) / 255;
  std::array<uint8_t, 256> to;
  int n = step / 2;
  for (size_t v = 0; v < 256; ++v) {
    to[v] = step == 0 ? static_cast<uint8_t>(v) : clip8(n / step);
    n += h[v];
  }
  return to;
}

std::array<uint8_t, 256> stretched(const Histogram& h) {
  const Range range(h);
  const double scale = range.high > range.low ? 255.0 / (range.high - range.low) : 1.0;
  const double offset = range.high > range.low ? -range.low * scale : 0.0;
  std::array<uint8_t, 256> to;
  for (size_t v = 0; v < 256; ++v)
    to[v] = clip8(static_cast<int>(static_cast<double>(v) * scale + offset));
  return to;
}

// Blends with ImageFilter.SMOOTH: (1 1 1; 1 5 1; 1 1 1) / 13, the border as it is.
void sharpen(Image& image, float factor) {
  const Image from = image;
  const float edge = 1.0f / 13.0f, middle = 5.0f / 13.0f;
  for (int y = 1; y + 1 < from.height; ++y)
    for (int x = 1; x + 1 < from.width; ++x)
      for (int c = 0; c < 3; ++c) {
        const auto row = [&](int at, float centre) {
          const uint8_t* p = from.at(at, x) + c;
          return static_cast<float>(p[-3]) * edge + static_cast<float>(p[0]) * centre +
                 static_cast<float>(p[3]) * edge;
        };
        float sum = 0.5f;
        sum += row(y + 1, edge);
        sum += row(y, middle);
        sum += row(y - 1, edge);
        image.at(y, x)[c] = blend(clip8(static_cast<int>(sum)), from.at(y, x)[c], factor);
      }
}

// ---- affine maps: output (x, y) shows input (a x + b y + c, d x + e y + f)

struct Affine {
  double a = 1, b = 0, c = 0, d = 0, e = 1, f = 0;
};

double cubic_through(double v1, double v2, double v3, double v4, double d) {
  const double p2 = -v1 + v3, p3 = 2 * (v1 - v2) + v3 - v4, p4 = -v1 + v2 - v3 + v4;
  return v2 + d * (p2 + d * (p3 + d * p4));
}

// The value of channel c at column x + dx and row y + dy; sources beyond the edge repeat it.
double sample(const Image& image, Filter filter, int x, int y, double dx, double dy, int c) {
  const auto at = [&](int row, int column) {
    return static_cast<double>(
        image.at(std::clamp(row, 0, image.height - 1), std::clamp(column, 0, image.width - 1))[c]);
  };
  if (filter == Filter::bilinear) {
    const auto line = [&](int row) { return at(row, x) + (at(row, x + 1) - at(row, x)) * dx; };
    const double above = line(y), below = line(y + 1);
    return above + (below - above) * dy;
  }
  const auto line = [&](int row) {
    return cubic_through(at(row, x - 1), at(row, x), at(row, x + 1), at(row, x + 2), dx);
  };
  return cubic_through(line(y - 1), line(y), line(y + 1), line(y + 2), dy);
}

void transform(Image& image, const Affine& m, const ImageOp& op) {
  const Image from = image;
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < image.width; ++x) {
      const double column = m.a * (x + 0.5) + m.b * (y + 0.5) + m.c;
      const double row = m.d * (x + 0.5) + m.e * (y + 0.5) + m.f;
      uint8_t* to = image.at(y, x);
      if (column < 0 || column >= image.width || row < 0 || row >= image.height) {
        std::copy_n(op.fill, 3, to);
        continue;
      }
      const double left = std::floor(column - 0.5), top = std::floor(row - 0.5);
      for (int c = 0; c < 3; ++c)
        to[c] = clip8(
            static_cast<int>(sample(from, op.filter, static_cast<int>(left), static_cast<int>(top),
                                    column - 0.5 - left, row - 0.5 - top, c)));
    }
}

Affine rotation(double degrees, int height, int width) {
  const double angle = -degrees * (std::numbers::pi / 180);
  const auto rounded = [](double v) { return std::nearbyint(v * 1e15) / 1e15; };
  const double cos = rounded(std::cos(angle)), sin = rounded(std::sin(angle));
  const double x = width / 2.0, y = height / 2.0;
  return {cos, sin, cos * -x + sin * -y + x, -sin, cos, -sin * -x + cos * -y + y};
}

void fill_box(Image& image, const ImageOp& op) {
  const auto [top, left, height, width] = op.box;
  for (int y = top; y < top + height; ++y)
    for (int x = left; x < left + width; ++x) std::copy_n(op.fill, 3, image.at(y, x));
}

}  // namespace

void apply_policy(const ImageOp& op, Image& image) {
  const double v = static_cast<double>(op.value);
  switch (op.kind) {
    case ImageOpKind::equalize: return map_channels(image, equalized);
    case ImageOpKind::autocontrast: return map_channels(image, stretched);
    case ImageOpKind::sharpness: return sharpen(image, op.value);
    case ImageOpKind::rotate: return transform(image, rotation(v, image.height, image.width), op);
    case ImageOpKind::shear_x: return transform(image, {.b = v}, op);
    case ImageOpKind::shear_y: return transform(image, {.d = v}, op);
    case ImageOpKind::translate_x: return transform(image, {.c = v * image.width}, op);
    case ImageOpKind::translate_y: return transform(image, {.f = v * image.height}, op);
    case ImageOpKind::cutout: return fill_box(image, op);
    default: throw InternalError("an image operation that nobody runs");
  }
}

}  // namespace facet
