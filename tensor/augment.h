// What is done to the pictures of a batch, as plain numbers: drawn on the host, executed by the
// backend of the CPU or of a device with the same result to the last bit.
#pragma once

#include <cstdint>

namespace facet {

enum class Filter : uint8_t { bilinear, bicubic };  // bicubic: a = -0.5

struct Rectangle {
  int32_t top = 0, left = 0, height = 0, width = 0;
};

// Operations of Pillow on 8-bit RGB. `value` of an ImageOp is given in brackets.
enum class ImageOpKind : uint8_t {
  flip,  // left to right
  // each value by itself
  brightness,    // blend with black [factor]
  contrast,      // blend with the grey of the mean luma [factor]
  solarize,      // v < threshold ? v : 255 - v [threshold, 0-256]
  solarize_add,  // v < 128 ? min(255, v + n) : v [n]
  posterize,     // keeps the upper bits [bits, 0-8]
  invert,        // 255 - v
  // each pixel by itself
  saturation,  // blend with its luma [factor]
  hue,         // a turn in 8-bit HSV [turn, 0-255]
  gray,
  blur,  // Gaussian by three box blurs an axis [radius of the box]
  // each channel by its histogram
  equalize,
  autocontrast,
  // each pixel by others or by its place
  sharpness,    // blend with the smoothed picture [factor]
  rotate,       // counter-clockwise about the centre [degrees]
  shear_x,      // x + value y
  shear_y,      // y + value x
  translate_x,  // [share of the width]
  translate_y,  // [share of the height]
  cutout,       // `box` gets the colour `fill`
};

struct ImageOp {
  ImageOpKind kind = ImageOpKind::flip;
  Filter filter = Filter::bilinear;  // of rotate, shear and translate, as is the fill
  uint8_t fill[3] = {};
  float value = 0;
  int16_t box[4] = {};  // of cutout: top, left, height, width, inside the picture
};

// One view: `window` of a picture is resized to resized_height x resized_width, `view` is cut out
// of that, then come the operations. Zero-initialise, begin with whole(); it is copied to devices.
struct ViewPlan {
  static constexpr int kMaxOps = 12;

  int64_t offset = 0;             // of the picture's first byte among all pixels
  int32_t height = 0, width = 0;  // of the picture
  Rectangle window;
  int32_t resized_height = 0, resized_width = 0;
  Rectangle view;
  Filter filter = Filter::bilinear;
  int32_t count = 0;
  ImageOp ops[kMaxOps];

  // The picture as it is.
  static ViewPlan whole(int height, int width) {
    ViewPlan plan;
    plan.height = plan.resized_height = height;
    plan.width = plan.resized_width = width;
    plan.window = plan.view = {0, 0, height, width};
    return plan;
  }
};

// v * scale[c] + shift[c], fused
struct ChannelScale {
  float scale[3] = {1, 1, 1}, shift[3] = {};
};

// Random erasing (Zhong et al. 2020): a box of one image of a batch.
struct EraseBox {
  int64_t image = 0;
  Rectangle box;
};
// 0; one normal number a channel of the box; one an element
enum class EraseFill : uint8_t { constant, color, pixel };

}  // namespace facet
