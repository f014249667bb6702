#include "data/png.h"

#include "tensor/check.h"

#define STBI_WRITE_NO_STDIO
#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image_write.h>

namespace facet {

std::string encode_png(const Image& image) {
  std::string bytes;
  const int written = stbi_write_png_to_func(
      [](void* to, void* data, int size) {
        static_cast<std::string*>(to)->append(static_cast<const char*>(data),
                                              static_cast<size_t>(size));
      },
      &bytes, image.width, image.height, 3, image.pixels.data(), image.width * 3);
  FACET_CHECK(written, "png", "no memory for a picture of {} x {}", image.width, image.height);
  return bytes;
}

}  // namespace facet
