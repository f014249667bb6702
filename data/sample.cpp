#include "data/sample.h"

#include "data/pipeline.h"

namespace facet {

int Sample::height() const {
  if (const Raw* raw = std::get_if<Raw>(&picture_)) return raw->height;
  if (const EncodedPicture* file = encoded()) return file->height();
  return std::get<Image>(picture_).height;
}

int Sample::width() const {
  if (const Raw* raw = std::get_if<Raw>(&picture_)) return raw->width;
  if (const EncodedPicture* file = encoded()) return file->width();
  return std::get<Image>(picture_).width;
}

Image Sample::decode() const {
  if (const EncodedPicture* file = encoded()) return file->decode();
  if (const Raw* raw = std::get_if<Raw>(&picture_))
    return cut(raw->pixels, raw->width, {0, 0, raw->height, raw->width});
  return std::get<Image>(picture_);
}

const uint8_t* Sample::shown(std::span<ViewPlan> plans, Image& buffer) const {
  if (const Raw* raw = std::get_if<Raw>(&picture_)) return raw->pixels;
  if (const EncodedPicture* file = encoded()) {
    Rectangle part = shown_part(plans);
    buffer = file->decode_around(part);
    narrow(plans, part);
    return buffer.pixels.data();
  }
  return std::get<Image>(picture_).pixels.data();
}

}  // namespace facet
