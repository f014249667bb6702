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

void map_channels(Image& image, ImageOpKind kind) {
  for (size_t c = 0; c < 3; ++c) {
    std::array<int, 256> histogram{};
    for (size_t i = c; i < image.pixels.size(); i += 3) ++histogram[image.pixels[i]];
    const Levels levels(histogram.data(), static_cast<int64_t>(image.pixels.size() / 3));
    std::array<uint8_t, 256> to;
    int below = 0;
    for (size_t v = 0; v < to.size(); below += histogram[v++])
      to[v] = levels(kind, static_cast<int>(v), below);
    for (size_t i = c; i < image.pixels.size(); i += 3) image.pixels[i] = to[image.pixels[i]];
  }
}

void fill_box(Image& image, const ImageOp& op) {
  const auto [top, left, height, width] = op.box;
  for (int y = top; y < top + height; ++y)
    for (int x = left; x < left + width; ++x) std::copy_n(op.fill, 3, image.at(y, x));
}

}  // namespace

Gather pixels::gather_of(const ImageOp& op, int height, int width) {
  Gather g{.op = op, .height = height, .width = width};
  const double v = static_cast<double>(op.value);
  switch (op.kind) {
    case ImageOpKind::sharpness: break;
    case ImageOpKind::flip: g.a = -1, g.c = width; break;
    case ImageOpKind::rotate: {
      const double angle = -v * (std::numbers::pi / 180), x = width / 2.0, y = height / 2.0;
      const auto rounded = [](double value) { return std::nearbyint(value * 1e15) / 1e15; };
      g.a = g.e = rounded(std::cos(angle));
      g.b = rounded(std::sin(angle));
      g.d = -g.b;
      g.c = g.a * -x + g.b * -y + x;
      g.f = g.d * -x + g.e * -y + y;
      break;
    }
    case ImageOpKind::shear_x: g.b = v; break;
    case ImageOpKind::shear_y: g.d = v; break;
    case ImageOpKind::translate_x: g.c = v * width; break;
    case ImageOpKind::translate_y: g.f = v * height; break;
    default: throw InternalError("an image operation that nobody runs");
  }
  return g;
}

void apply_policy(const ImageOp& op, Image& image) {
  if (uses_histogram(op.kind)) return map_channels(image, op.kind);
  if (op.kind == ImageOpKind::cutout) return fill_box(image, op);
  const Gather gather = gather_of(op, image.height, image.width);
  const Image from = image;
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < image.width; ++x) {
      const Rgb p = gather(from.pixels.data(), y, x);
      uint8_t* const to = image.at(y, x);
      to[0] = p.r, to[1] = p.g, to[2] = p.b;
    }
}

}  // namespace facet
