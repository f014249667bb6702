// JPEG by libjpeg-turbo, with limits on what a hostile file can cost. Throws std::runtime_error
// with the decoder's message.
#pragma once

#include <span>
#include <string>
#include <utility>

#include "tensor/image.h"

namespace facet::jpeg {

std::pair<int, int> read_size(std::span<const uint8_t> bytes);  // height and width
// A window inside of the picture, equal to that part of the whole, with the columns beside it that
// had to be decoded, too: `window` becomes what is returned. Grey becomes three equal channels,
// CMYK and YCCK become RGB with Pillow's integers. `warnings`: what the decoder forgave, as Pillow
// does, "7 warnings: " and the first of them; or nothing.
Image decode(std::span<const uint8_t> bytes, Rectangle& window, std::string& warnings);

}  // namespace facet::jpeg
