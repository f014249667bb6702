// Pictures that any program can make, and the hash by which they are compared.
#pragma once

#include "tensor/hash.h"
#include "tensor/image.h"

namespace facet::test {

inline Image scrambled(int height = 37, int width = 53) {
  Image image(height, width);
  for (uint32_t k = 0; k < image.pixels.size(); ++k)
    image.pixels[k] = static_cast<uint8_t>(k * 2654435761u >> 13);
  return image;
}

// Few dark values.
inline Image smooth() {
  Image image(37, 53);
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < image.width; ++x) {
      uint8_t* p = image.at(y, x);
      p[0] = static_cast<uint8_t>(40 + x);
      p[1] = static_cast<uint8_t>(60 + 2 * y);
      p[2] = static_cast<uint8_t>(30 + x * y / 20);
    }
  return image;
}

inline uint64_t hash(const Image& image) {
  return fnv1a({reinterpret_cast<const char*>(image.pixels.data()), image.pixels.size()});
}

}  // namespace facet::test
