#include "data/sample.h"

#include "data/pipeline.h"

namespace facet {

Image Sample::decode() const {
  if (const EncodedPicture* file = encoded()) return file->decode();
  if (const auto* const pixels = std::get_if<const uint8_t*>(&picture_))
    return cut(*pixels, width_, {0, 0, height_, width_});
  return std::get<Image>(picture_);
}

const uint8_t* Sample::shown(std::span<ViewPlan> plans, Image& buffer) const {
  if (const auto* const pixels = std::get_if<const uint8_t*>(&picture_)) return *pixels;
  if (const EncodedPicture* file = encoded()) {
    Rectangle part = shown_part(plans);
    buffer = file->decode_around(part);
    narrow(plans, part);
    return buffer.pixels.data();
  }
  return std::get<Image>(picture_).pixels.data();
}

}  // namespace facet
