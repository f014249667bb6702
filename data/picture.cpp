#include "data/picture.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string_view>
#include <tuple>

#include "data/jpeg.h"
#include "tensor/check.h"
#include "tensor/hash.h"

namespace {
// stb_image grows its buffers as the data say; a picture within the limits needs no block as large.
constexpr size_t kMaxBlock = size_t{1} << 30;
void* bounded_malloc(size_t size) {
  return size > kMaxBlock ? nullptr : std::malloc(size);
}
void* bounded_realloc(void* block, size_t size) {
  return size > kMaxBlock ? nullptr : std::realloc(block, size);
}
}  // namespace
#define STBI_MALLOC bounded_malloc
#define STBI_REALLOC bounded_realloc
#define STBI_FREE std::free
#define STBI_MAX_DIMENSIONS 65535
#define STBI_NO_STDIO
#define STBI_ONLY_PNG
#define STBI_ONLY_BMP
#define STBI_ONLY_GIF
#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#include <stb/stb_image.h>

namespace facet {
namespace {

// What stb_image reads from. Past the end it reads zeros, as if a cut file were whole: that is
// noted.
struct Source {
  const std::vector<uint8_t>& bytes;
  size_t at = 0;
  bool overrun = false;

  size_t left() const { return bytes.size() - at; }
};
constexpr stbi_io_callbacks kCallbacks = {
    [](void* user, char* to, int size) {
      auto& source = *static_cast<Source*>(user);
      const size_t count = std::min(static_cast<size_t>(size), source.left());
      source.overrun |= count == 0;
      std::copy_n(source.bytes.begin() + static_cast<int64_t>(source.at), count, to);
      source.at += count;
      return static_cast<int>(count);
    },
    [](void* user, int size) {  // negative: what was read too far
      auto& source = *static_cast<Source*>(user);
      const auto to = static_cast<int64_t>(source.at) + size;
      source.overrun |= to > static_cast<int64_t>(source.bytes.size());
      source.at = std::min(static_cast<size_t>(std::max<int64_t>(to, 0)), source.bytes.size());
    },
    [](void* user) { return static_cast<int>(static_cast<Source*>(user)->left() == 0); }};

std::optional<PictureKind> kind_of(std::string_view start) {
  if (start.starts_with("\xff\xd8\xff")) return PictureKind::jpeg;
  if (start.starts_with("\x89PNG\r\n\x1a\n")) return PictureKind::png;
  if (start.starts_with("GIF87a") || start.starts_with("GIF89a")) return PictureKind::gif;
  if (start.starts_with("BM")) return PictureKind::bmp;
  return std::nullopt;
}

// What else a file may be, for a message.
const char* other_kind(std::string_view start) {
  if (start.starts_with("RIFF") && start.substr(0, 12).ends_with("WEBP")) return "WebP";
  if (start.starts_with(std::string_view("II*\0", 4)) ||
      start.starts_with(std::string_view("MM\0*", 4)))
    return "TIFF";
  if (start.size() > 1 && start[0] == 'P' && start[1] >= '1' && start[1] <= '6') return "PNM";
  return "something else";
}

}  // namespace

const char* name(PictureKind kind) {
  constexpr const char* kNames[] = {"JPEG", "PNG", "GIF", "BMP"};
  return kNames[static_cast<size_t>(kind)];
}

EncodedPicture::EncodedPicture(std::vector<uint8_t> bytes, std::string file, int banner)
    : bytes_(std::move(bytes)), file_(std::move(file)) {
  const std::optional<PictureKind> kind = kind_of(content());
  if (!kind)
    throw FileError("{}: expected a JPEG, PNG, GIF or BMP picture, got {} bytes of {}", file_,
                    bytes_.size(), other_kind(content()));
  kind_ = *kind;
  guarded("header", [&] {
    if (kind_ == PictureKind::jpeg) {
      std::tie(height_, width_) = jpeg::read_size(bytes_);
    } else {
      Source source{bytes_};
      int channels;
      if (!stbi_info_from_callbacks(&kCallbacks, &source, &width_, &height_, &channels))
        throw std::runtime_error("unknown variant, or of too many pixels");
    }
    if (height_ < 1 || width_ < 1 || height_ > kMaxPictureSide || width_ > kMaxPictureSide ||
        int64_t{height_} * width_ > kMaxPicturePixels)
      throw std::runtime_error(
          fmt::format("{} x {} pixels, at most {} are read", width_, height_, kMaxPicturePixels));
    if (height_ <= banner)
      throw std::runtime_error(fmt::format("{} rows, {} of them a banner", height_, banner));
    height_ -= banner;
  });
}

// Runs `read`; what a decoder says becomes an error with the file's name.
template <typename Read>
void EncodedPicture::guarded(const char* part, const Read& read) const {
  try {
    read();
  } catch (const std::runtime_error& error) {
    throw FileError("{}: damaged {} {}: {} ({} bytes, sha256 {:.12})", file_, facet::name(kind_),
                    part, error.what(), bytes_.size(), sha256(content()));
  }
}

Image EncodedPicture::decode(const Rectangle& window, std::string* warnings) const {
  Rectangle part = window;
  Image image = decode_around(part, warnings);
  if (part.width == window.width) return image;
  return crop(image, window.top - part.top, window.left - part.left, window.height, window.width);
}

Image EncodedPicture::decode_around(Rectangle& window, std::string* warnings) const {
  FACET_CHECK(window.top >= 0 && window.left >= 0 && window.height > 0 && window.width > 0 &&
                  window.top + window.height <= height_ && window.left + window.width <= width_,
              "decode", "a {}x{} window at ({}, {}) leaves the {}x{} picture {}", window.height,
              window.width, window.top, window.left, height_, width_, file_);
  Image image;
  guarded("picture", [&] {
    if (kind_ == PictureKind::jpeg) {
      std::string forgiven;
      image = jpeg::decode(bytes_, window, forgiven);
      if (warnings && !forgiven.empty()) *warnings = fmt::format("{}: {}", file_, forgiven);
      return;
    }
    Source source{bytes_};
    int width = 0, height = 0, channels = 0;
    const std::unique_ptr<uint8_t, void (*)(void*)> pixels(
        stbi_load_from_callbacks(&kCallbacks, &source, &width, &height, &channels, 3), std::free);
    if (source.overrun) throw std::runtime_error("the file ends too early");
    if (!pixels) throw std::runtime_error(stbi_failure_reason());
    image = cut(pixels.get(), width, window);
    // Depth and kind of colour stand at fixed places of the header.
    const bool grey16 = kind_ == PictureKind::png && bytes_[24] == 16 && (bytes_[25] & 2) == 0;
    if (warnings && grey16)
      *warnings = fmt::format("{}: 16 bits of grey: the upper 8 are kept, Pillow clips", file_);
  });
  return image;
}

}  // namespace facet
