#pragma once

#include "data/picture.h"
#include "tests/fuzz/fuzz.h"

namespace facet::fuzz {

// Whatever the bytes are: a picture of the promised size, the same every time, whose windows are
// parts of the whole; or a FileError.
inline void picture(const uint8_t* data, size_t size) {
  constexpr int64_t kMaxPixels = 1 << 20;  // more takes time and shows nothing new
  expect_value_or_file_error([&] {
    const EncodedPicture picture({data, data + size}, "fuzz");
    if (int64_t{picture.height()} * picture.width() > kMaxPixels) return;
    const Image whole = picture.decode();
    require(whole.pixels.size() == size_t(picture.height()) * size_t(picture.width()) * 3);
    require(whole.pixels == picture.decode().pixels);
    const Rectangle window{picture.height() / 3, picture.width() / 3, (picture.height() + 2) / 3,
                           (picture.width() + 2) / 3};
    require(picture.decode(window).pixels ==
            crop(whole, window.top, window.left, window.height, window.width).pixels);
  });
}

}  // namespace facet::fuzz
