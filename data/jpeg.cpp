#include "data/jpeg.h"

#include <fmt/format.h>

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <stdexcept>

// clang-format off: these want FILE declared, and jpeglib.h before jerror.h
#include <jerror.h>
#include <jpeglib.h>
// clang-format on

namespace facet::jpeg {
namespace {

// Every scan of a progressive file costs a pass over all coefficients.
constexpr int kMaxScans = 100;
// The coefficients of a progressive file stay in memory: 8 bytes a pixel of the largest picture.
constexpr long kMaxMemory = 1L << 30;

// libjpeg reports errors by a function that must not return. It jumps back, so nothing with a
// destructor may be made between setjmp and the calls.
struct Decoder {
  jpeg_decompress_struct info{};
  jpeg_error_mgr errors{};
  jpeg_progress_mgr progress{};
  std::jmp_buf back;
  char message[JMSG_LENGTH_MAX] = {};

  explicit Decoder(std::span<const uint8_t> bytes) : bytes_(bytes) {
    info.err = jpeg_std_error(&errors);
    info.client_data = this;
    errors.error_exit = [](j_common_ptr common) {
      auto* const self = static_cast<Decoder*>(common->client_data);
      self->errors.format_message(common, self->message);
      std::longjmp(self->back, 1);
    };
    // Most warnings are harmless and left to Pillow's indulgence; the end of the data is not.
    errors.emit_message = [](j_common_ptr common, int level) {
      if (level >= 0) return;
      if (common->err->msg_code == JWRN_JPEG_EOF) common->err->error_exit(common);
      if (common->err->num_warnings++ == 0)
        common->err->format_message(common, static_cast<Decoder*>(common->client_data)->message);
    };
    progress.progress_monitor = [](j_common_ptr common) {
      auto* const self = static_cast<Decoder*>(common->client_data);
      if (self->info.input_scan_number <= kMaxScans) return;
      std::snprintf(self->message, sizeof self->message, "more than %d scans", kMaxScans);
      std::longjmp(self->back, 1);
    };
  }
  ~Decoder() { jpeg_destroy_decompress(&info); }
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  void read_header() {
    jpeg_create_decompress(&info);
    info.progress = &progress;
    info.mem->max_memory_to_use = kMaxMemory;
    jpeg_mem_src(&info, bytes_.data(), bytes_.size());
    jpeg_read_header(&info, TRUE);
    if (info.data_precision != 8) throw std::runtime_error("more than 8 bits a sample");
  }

 private:
  std::span<const uint8_t> bytes_;
};

// Pillow takes four channels for Adobe's inverted ones: nk = 255 - K, out = nk - nk C / 255.
void cmyk_to_rgb(const uint8_t* from, int width, uint8_t* to) {
  for (int x = 0; x < width; ++x, from += 4, to += 3) {
    const int nk = from[3];
    for (int c = 0; c < 3; ++c) {
      const int product = (255 - from[c]) * nk + 128;
      to[c] = static_cast<uint8_t>(nk - ((product + (product >> 8)) >> 8));
    }
  }
}

[[gnu::noinline]] void make_image(const Rectangle& window, Image& out) {
  out = Image(window.height, window.width);
}

void read_rows(jpeg_decompress_struct& info, Rectangle& window, Image& out) {
  // What the smooth upsampling of colour looks at beside a window is one block; where a progressive
  // file lacks its last scans, blocks are made from the five by five around them.
  const int blocks = info.progressive_mode ? 3 : 1, right = window.left + window.width;
  const int margin = blocks * DCTSIZE * std::max(2, info.max_h_samp_factor);
  JDIMENSION first = static_cast<JDIMENSION>(std::max(0, window.left - margin));
  JDIMENSION count =
      static_cast<JDIMENSION>(std::min<int>(static_cast<int>(info.output_width), right + margin)) -
      first;
  if (count < info.output_width) jpeg_crop_scanline(&info, &first, &count);
  if (window.top > 0) jpeg_skip_scanlines(&info, static_cast<JDIMENSION>(window.top));
  window.left = static_cast<int>(first);
  window.width = static_cast<int>(info.output_width);
  make_image(window, out);
  const bool cmyk = info.out_color_space == JCS_CMYK;
  JSAMPROW four = nullptr;
  if (cmyk)
    four = static_cast<JSAMPROW>(info.mem->alloc_large(reinterpret_cast<j_common_ptr>(&info),
                                                       JPOOL_IMAGE, size_t{info.output_width} * 4));
  for (int y = 0; y < window.height; ++y) {
    JSAMPROW row = cmyk ? four : out.at(y, 0);
    jpeg_read_scanlines(&info, &row, 1);
    if (cmyk) cmyk_to_rgb(four, window.width, out.at(y, 0));
  }
}

// `out` is the caller's: nothing with a destructor is made where libjpeg's errors jump back to.
void decode_into(Decoder& decoder, Rectangle& window, Image& out) {
  if (setjmp(decoder.back)) throw std::runtime_error(decoder.message);
  decoder.read_header();
  jpeg_decompress_struct& info = decoder.info;
  info.out_color_space = info.num_components == 4 ? JCS_CMYK : JCS_RGB;
  info.dct_method = JDCT_ISLOW;
  jpeg_start_decompress(&info);
  read_rows(info, window, out);
  // The end of the file matters where the picture was read to its end.
  if (info.output_scanline == info.output_height) jpeg_finish_decompress(&info);
}

}  // namespace

std::pair<int, int> read_size(std::span<const uint8_t> bytes) {
  Decoder decoder(bytes);
  if (setjmp(decoder.back)) throw std::runtime_error(decoder.message);
  decoder.read_header();
  return {static_cast<int>(decoder.info.image_height), static_cast<int>(decoder.info.image_width)};
}

Image decode(std::span<const uint8_t> bytes, Rectangle& window, std::string& warnings) {
  Decoder decoder(bytes);
  Image out;
  decode_into(decoder, window, out);
  if (const long count = decoder.errors.num_warnings)
    warnings = fmt::format("{} warnings: {}", count, decoder.message);
  return out;
}

}  // namespace facet::jpeg
