// JPEG by libjpeg-turbo, with limits on what a hostile file can cost. Throws std::runtime_error
// with the decoder's message.
#pragma once

#include <span>
#include <string>

#include "tensor/image.h"

namespace facet::jpeg {

struct Size {
  int height, width;
};
// What the decoder forgave, as Pillow does: how often, and the first in words.
struct Warnings {
  int count = 0;
  std::string first;
};
Size read_size(std::span<const uint8_t> bytes);
// A window inside of the picture, equal to that part of the whole, with the columns beside it that
// had to be decoded, too: `window` becomes what is returned. Grey becomes three equal channels,
// CMYK and YCCK become RGB with Pillow's integers.
Image decode(std::span<const uint8_t> bytes, Rectangle& window, Warnings* warnings = nullptr);

}  // namespace facet::jpeg
