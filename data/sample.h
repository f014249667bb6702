// A sample of a dataset before it is shown: in memory, or in a file of which only the part that is
// shown needs decoding.
#pragma once

#include <span>
#include <variant>

#include "data/picture.h"

namespace facet {

class Sample {
 public:
  explicit Sample(Image image)
      : height_(image.height), width_(image.width), picture_(std::move(image)) {}
  explicit Sample(EncodedPicture picture)
      : height_(picture.height()), width_(picture.width()), picture_(std::move(picture)) {}
  // height x width x 3 bytes that outlive the sample.
  Sample(const uint8_t* pixels, int height, int width)
      : height_(height), width_(width), picture_(pixels) {}

  int height() const { return height_; }
  int width() const { return width_; }
  Image decode() const;
  // Null for a sample that was decoded before.
  const EncodedPicture* encoded() const { return std::get_if<EncodedPicture>(&picture_); }
  // The pixels that the plans are of: of the whole picture, or of the part that they show, and then
  // the plans are changed to be of that. `buffer` holds what had to be decoded.
  const uint8_t* shown(std::span<ViewPlan> plans, Image& buffer) const;

 private:
  int height_, width_;
  std::variant<Image, EncodedPicture, const uint8_t*> picture_;
};

}  // namespace facet
