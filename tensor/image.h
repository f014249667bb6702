// 8-bit RGB images and the operations on them, with Pillow's integer arithmetic, so that what a
// network sees is what torchvision would have shown it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tensor/augment.h"

namespace facet {

struct Image {
  int height = 0, width = 0;
  std::vector<uint8_t> pixels;  // height x width x 3

  Image() = default;
  Image(int h, int w) : height(h), width(w), pixels(static_cast<size_t>(h) * w * 3) {}
  uint8_t* at(int y, int x) { return &pixels[(static_cast<size_t>(y) * width + x) * 3]; }
  const uint8_t* at(int y, int x) const {
    return &pixels[(static_cast<size_t>(y) * width + x) * 3];
  }
};

// Pillow's resampling: the filter's support grows with the shrink factor (antialiasing), a
// horizontal and a vertical pass in 22-bit fixed point, 8 bits between them.
Image resize(const Image& image, int height, int width, Filter filter);
// `window` of a picture that is `stride` pixels wide.
Image resize(const uint8_t* picture, int stride, const Rectangle& window, int height, int width,
             Filter filter);
Image crop(const Image& image, int top, int left, int height, int width);  // inside the image
// `window` of a picture whose rows are `width` pixels.
Image cut(const uint8_t* picture, int width, const Rectangle& window);

// Runs one operation in place.
void apply(const ImageOp& op, Image& image);
// The view that a plan describes; `picture`: the plan's height x width x 3 bytes.
Image make_view(const ViewPlan& plan, const uint8_t* picture);
// Writes height x width x 3 values v * scale[c] + shift[c]; as u8: the pixels themselves.
template <typename T>
void normalize(const Image& image, const ChannelScale& scale, T* out);

// ---- the value of an operation from what a user gives

// shift in [-0.5, 0.5] of a turn
float hue_turn(double shift);
// ImageFilter.GaussianBlur(radius = sigma): three passes of an extended box blur along each axis
// (Gwosdek et al., "Theoretical foundations of Gaussian convolution by extended box filtering").
float blur_radius(float sigma);

uint8_t luma(const uint8_t* rgb);  // ITU-R 601-2, (19595 R + 38470 G + 7471 B + 32768) >> 16

// ---- operations that need the whole picture or move pixels, image_policy.cpp
void apply_policy(const ImageOp& op, Image& image);

}  // namespace facet
