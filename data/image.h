// 8-bit RGB images and the operations on them, with Pillow's integer arithmetic, so that what a
// network sees is what torchvision would have shown it.
#pragma once

#include <cstdint>
#include <vector>

#include "tensor/random.h"

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

enum class Filter : uint8_t { bilinear, bicubic };  // bicubic: a = -0.5

// Pillow's resampling: the filter's support grows with the shrink factor (antialiasing), a
// horizontal and a vertical pass in 22-bit fixed point, 8 bits between them.
Image resize(const Image& image, int height, int width, Filter filter);
Image crop(const Image& image, int top, int left, int height, int width);  // inside the image
void flip_horizontal(Image& image);

// ITU-R 601-2 luma, (19595 R + 38470 G + 7471 B + 32768) >> 16.
uint8_t luma(const uint8_t* rgb);
void to_gray(Image& image);
// Enhancements: blend(a, image, factor) = a + factor (image - a), truncated and clipped, with a =
// black, the grey of the mean luma, the grey image.
void adjust_brightness(Image& image, float factor);
void adjust_contrast(Image& image, float factor);
void adjust_saturation(Image& image, float factor);
// shift in [-0.5, 0.5] of a turn, in 8-bit HSV.
void adjust_hue(Image& image, double shift);
void solarize(Image& image, int threshold = 128);  // v < threshold ? v : 255 - v

// ImageFilter.GaussianBlur(radius = sigma): three passes of an extended box blur along each axis
// (Gwosdek et al., "Theoretical foundations of Gaussian convolution by extended box filtering").
void gaussian_blur(Image& image, float sigma);

// The window of torchvision's RandomResizedCrop: up to ten draws of area in [low, high] of the
// image and log-uniform aspect in [3/4, 4/3], else the largest central window of that range.
struct Window {
  int top, left, height, width;
};
Window random_resized_window(int height, int width, double low, double high,
                             RandomSequence& random);

}  // namespace facet
