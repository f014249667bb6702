// Pictures in files: what Pillow's Image.open(file).convert("RGB") gives, from files that need not
// be what they claim.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tensor/image.h"

namespace facet {

enum class PictureKind : uint8_t { jpeg, png, gif, bmp };
const char* name(PictureKind kind);

inline constexpr int64_t kMaxPictureSide = 65'535, kMaxPicturePixels = 100'000'000;

// A picture whose kind is known by its content and whose header keeps the limits. Alpha is dropped,
// not composited; 16 bits a channel become the upper 8; EXIF's orientation and colour profiles are
// ignored; of a GIF the first frame counts. Decoding is thread-safe.
class EncodedPicture {
 public:
  // `file`: for messages. Throws a FileError that names it. `banner`: rows at the bottom that are
  // left out.
  EncodedPicture(std::vector<uint8_t> bytes, std::string file, int banner = 0);

  PictureKind kind() const { return kind_; }
  int height() const { return height_; }
  int width() const { return width_; }
  Image decode() const { return decode({0, 0, height_, width_}); }
  // These pixels of decode(). In a JPEG only the blocks of the window's rows and columns are
  // transformed, and what lies below is not read, so that its damage goes unseen. `warnings`: a
  // line on what a decoder forgave, or nothing.
  Image decode(const Rectangle& window, std::string* warnings = nullptr) const;
  // The same with the pixels around it that came along, uncut: `window` becomes what is returned.
  Image decode_around(Rectangle& window, std::string* warnings = nullptr) const;

 private:
  std::string_view content() const {
    return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()};
  }
  template <typename Read>
  void guarded(const char* part, const Read& read) const;

  std::vector<uint8_t> bytes_;
  std::string file_;
  PictureKind kind_{};
  int height_ = 0, width_ = 0;
};

}  // namespace facet
