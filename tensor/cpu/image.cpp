#include "tensor/image.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "tensor/check.h"
#include "tensor/cpu/pixel_pairs.h"
#include "tensor/pixels.h"

namespace facet {

using namespace pixels;

namespace {

// ---- colour

// Pixels are taken apart a block at a time, so that loops over them run on vectors.
constexpr size_t kBlock = 64;
struct PixelBlock {
  std::array<uint8_t, kBlock> red, green, blue;
};

using Bytes [[gnu::vector_size(16)]] = uint8_t;
constexpr size_t kBytes = sizeof(Bytes);

// Byte i of the result is byte kIndex(i) of a and b behind each other.
template <auto kIndex, size_t... I>
Bytes pick(const Bytes& a, const Bytes& b, std::index_sequence<I...>) {
  return __builtin_shufflevector(a, b, kIndex(static_cast<int>(I))...);
}
template <auto kIndex>
Bytes pick(const Bytes& a, const Bytes& b) {
  return pick<kIndex>(a, b, std::make_index_sequence<kBytes>());
}

// Channel C of the 16 pixels in three vectors.
template <int C>
Bytes channel(const Bytes* pixels) {
  const Bytes begin =
      pick<[](int k) { return 3 * k + C < 32 ? 3 * k + C : 0; }>(pixels[0], pixels[1]);
  return pick<[](int k) { return 3 * k + C < 32 ? k : 3 * k + C - 16; }>(begin, pixels[2]);
}
// Vector J of the three that 16 pixels fill.
template <int J>
Bytes interleaved(const Bytes& r, const Bytes& g, const Bytes& b) {
  const Bytes two = pick<[](int i) {
    const int at = 16 * J + i;
    return at % 3 == 0 ? at / 3 : at % 3 == 1 ? 16 + at / 3 : 0;
  }>(r, g);
  return pick<[](int i) { return (16 * J + i) % 3 == 2 ? 16 + (16 * J + i) / 3 : i; }>(two, b);
}

void take_apart(const uint8_t* pixels, PixelBlock& to) {
  for (size_t i = 0; i < kBlock; i += kBytes) {
    Bytes in[3];
    std::memcpy(in, pixels + i * 3, sizeof in);
    const Bytes r = channel<0>(in), g = channel<1>(in), b = channel<2>(in);
    std::memcpy(&to.red[i], &r, kBytes);
    std::memcpy(&to.green[i], &g, kBytes);
    std::memcpy(&to.blue[i], &b, kBytes);
  }
}
void put_together(const PixelBlock& from, uint8_t* pixels) {
  for (size_t i = 0; i < kBlock; i += kBytes) {
    Bytes r, g, b;
    std::memcpy(&r, &from.red[i], kBytes);
    std::memcpy(&g, &from.green[i], kBytes);
    std::memcpy(&b, &from.blue[i], kBytes);
    const Bytes out[3] = {interleaved<0>(r, g, b), interleaved<1>(r, g, b),
                          interleaved<2>(r, g, b)};
    std::memcpy(pixels + i * 3, out, sizeof out);
  }
}

// `use` gets each block of pixels and how many of them count.
template <typename Use>
void for_each_block(const Image& image, const Use& use) {
  const size_t count = image.pixels.size() / 3;
  PixelBlock block;
  size_t begin = 0;
  for (; begin + kBlock <= count; begin += kBlock) {
    take_apart(&image.pixels[begin * 3], block);
    use(block, begin, kBlock);
  }
  if (begin == count) return;
  std::array<uint8_t, kBlock * 3> rest{};
  std::copy(image.pixels.begin() + static_cast<ptrdiff_t>(begin * 3), image.pixels.end(),
            rest.begin());
  take_apart(rest.data(), block);
  use(block, begin, count - begin);
}

// `change` must not branch.
template <typename Change>
void for_each_pixel(Image& image, const Change& change) {
  for_each_block(image, [&](PixelBlock& block, size_t begin, size_t count) {
#pragma omp simd
    for (size_t i = 0; i < kBlock; ++i) {
      const Rgb after = change(Rgb{block.red[i], block.green[i], block.blue[i]});
      block.red[i] = after.r;
      block.green[i] = after.g;
      block.blue[i] = after.b;
    }
    uint8_t* const to = &image.pixels[begin * 3];
    if (count == kBlock) return put_together(block, to);
    std::array<uint8_t, kBlock * 3> rest;
    put_together(block, rest.data());
    std::copy_n(rest.begin(), count * 3, to);
  });
}

int mean_of(const Image& image) {
  uint64_t sum = 0;
  for_each_block(image, [&](const PixelBlock& block, size_t, size_t count) {
    uint32_t part = 0;
    for (size_t i = 0; i < count; ++i)
      part += luma(Rgb{block.red[i], block.green[i], block.blue[i]});
    sum += part;
  });
  return mean_luma(sum, static_cast<int64_t>(image.pixels.size() / 3));
}

void map_values(const ImageOp& op, Image& image) {
  const int mean = op.kind == ImageOpKind::contrast ? mean_of(image) : 0;
  if (op.kind == ImageOpKind::brightness || op.kind == ImageOpKind::contrast) {
    const float factor = op.value;
    const size_t count = image.pixels.size();
    uint8_t* const values = image.pixels.data();
#pragma omp simd
    for (size_t i = 0; i < count; ++i) values[i] = blend(mean, values[i], factor);
    return;
  }
  std::array<uint8_t, 256> table;
  for (size_t v = 0; v < table.size(); ++v)
    table[v] = value_op(op.kind, op.value, static_cast<int>(v), mean);
  for (uint8_t& v : image.pixels) v = table[v];
}

void flip(Image& image) {
  const size_t size = static_cast<size_t>(image.width) * 3;
  std::vector<uint8_t> row(size + 1);
  for (int y = 0; y < image.height; ++y) {
    uint8_t* to = image.at(y, 0);
    std::memcpy(row.data(), to, size);
    // Four bytes at a time, of which the last is put right by the next pixel.
    const uint8_t* from = row.data() + size - 3;
    for (int x = 1; x < image.width; ++x, to += 3, from -= 3) std::memcpy(to, from, 4);
    std::memcpy(to, from, 3);
  }
}

// ---- box blur

// One pass over `n` values: to = the weighted sum of 2 reach + 3 neighbours, each a line of its
// own.
void box_blur_line(const uint8_t* const* lines, const Box& box, size_t n, uint8_t* to) {
  const int last = 2 * box.reach + 2;
  size_t begin = 0;
#if defined(__AVX2__)
  // Sums of few bytes fit a signed 16-bit number, and so do the halves of 24-bit weights.
  const __m256i high = pair_of(box.weight >> 12, box.far >> 12);
  const __m256i low = pair_of(box.weight & 0xfff, box.far & 0xfff);
  const auto mean = [&](const __m256i& sums) {
    const __m256i upper = _mm256_slli_epi32(_mm256_madd_epi16(sums, high), 12);
    const __m256i sum = _mm256_add_epi32(upper, _mm256_madd_epi16(sums, low));
    return _mm256_srli_epi32(_mm256_add_epi32(sum, _mm256_set1_epi32(1 << 23)), 24);
  };
  for (; box.reach < 64 && begin + kBytes <= n; begin += kBytes) {
    __m256i sum = words_at(lines[1] + begin);
    for (int i = 2; i < last; ++i) sum = _mm256_add_epi16(sum, words_at(lines[i] + begin));
    const __m256i ends =
        _mm256_add_epi16(words_at(lines[0] + begin), words_at(lines[last] + begin));
    store_bytes(mean(_mm256_unpacklo_epi16(sum, ends)), mean(_mm256_unpackhi_epi16(sum, ends)),
                to + begin);
  }
#endif
  std::array<uint32_t, 256> sum;
  for (; begin < n; begin += sum.size()) {
    const size_t count = std::min(sum.size(), n - begin);
    sum.fill(0);
    for (int i = 1; i < last; ++i) {
      const uint8_t* const from = lines[i] + begin;
#pragma omp simd
      for (size_t k = 0; k < count; ++k) sum[k] += from[k];
    }
    const uint8_t *const one = lines[0] + begin, *const other = lines[last] + begin;
#pragma omp simd
    for (size_t k = 0; k < count; ++k)
      to[begin + k] = box(sum[k], static_cast<uint32_t>(one[k]) + other[k]);
  }
}

void box_blur(Image& image, const Box& box) {
  const int margin = box.reach + 1;
  const size_t row = static_cast<size_t>(image.width) * 3, edge = static_cast<size_t>(margin) * 3;
  std::vector<const uint8_t*> lines(static_cast<size_t>(2 * margin) + 1);
  // Along the rows: the neighbours are the row itself, shifted, with its ends repeated.
  std::vector<uint8_t> wide(row + 2 * edge);
  for (size_t i = 0; i < lines.size(); ++i) lines[i] = wide.data() + i * 3;
  for (int y = 0; y < image.height; ++y)
    for (int pass = 0; pass < kBoxPasses; ++pass) {
      uint8_t* const values = image.at(y, 0);
      std::copy_n(values, row, &wide[edge]);
      for (size_t k = 0; k < edge; ++k) {
        wide[k] = values[k % 3];
        wide[edge + row + k] = values[row - 3 + k % 3];
      }
      box_blur_line(lines.data(), box, row, values);
    }
  Image other(image.height, image.width);
  for (int pass = 0; pass < kBoxPasses; ++pass) {
    for (int y = 0; y < image.height; ++y) {
      for (int i = -margin; i <= margin; ++i)
        lines[static_cast<size_t>(i + margin)] =
            image.at(std::clamp(y + i, 0, image.height - 1), 0);
      box_blur_line(lines.data(), box, row, other.at(y, 0));
    }
    std::swap(image.pixels, other.pixels);
  }
}

}  // namespace

Image cut(const uint8_t* picture, int width, const Rectangle& window) {
  Image out(window.height, window.width);
  for (int y = 0; y < window.height; ++y)
    std::copy_n(picture + (static_cast<size_t>(window.top + y) * width + window.left) * 3,
                static_cast<size_t>(window.width) * 3, out.at(y, 0));
  return out;
}

Image crop(const Image& image, int top, int left, int height, int width) {
  FACET_CHECK(top >= 0 && left >= 0 && height > 0 && width > 0 && top + height <= image.height &&
                  left + width <= image.width,
              "crop", "a {}x{} window at ({}, {}) leaves the {}x{} image", height, width, top, left,
              image.height, image.width);
  return cut(image.pixels.data(), image.width, {top, left, height, width});
}

void apply(const ImageOp& op, Image& image) {
  if (is_value_op(op.kind)) return map_values(op, image);
  switch (op.kind) {
    case ImageOpKind::flip: return flip(image);
    case ImageOpKind::saturation:
      return for_each_pixel(image, [&](Rgb p) { return saturate(p, op.value); });
    case ImageOpKind::hue:
      return for_each_pixel(
          image, [turn = static_cast<uint8_t>(op.value)](Rgb p) { return turn_hue(p, turn); });
    case ImageOpKind::gray:
      return for_each_pixel(image, [](Rgb p) { return Rgb{luma(p), luma(p), luma(p)}; });
    case ImageOpKind::blur: return box_blur(image, Box(op.value));
    default: return apply_policy(op, image);
  }
}

Image make_view(const ViewPlan& plan, const uint8_t* picture) {
  const Rectangle& v = plan.view;
  Image image = resize(picture, plan.width, plan.window, plan.resized_height, plan.resized_width,
                       plan.filter);
  if (v.height != image.height || v.width != image.width)
    image = crop(image, v.top, v.left, v.height, v.width);
  for (int i = 0; i < plan.count; ++i) apply(plan.ops[i], image);
  return image;
}

template <typename T>
void normalize(const Image& image, const ChannelScale& s, T* out) {
  // Scale and shift of a block of whole pixels, so that the loop over it runs on vectors.
  constexpr size_t kBlock = 48;
  float scale[kBlock], shift[kBlock];
  for (size_t i = 0; i < kBlock; ++i) {
    scale[i] = s.scale[i % 3];
    shift[i] = s.shift[i % 3];
  }
  const size_t count = image.pixels.size();
  const uint8_t* const from = image.pixels.data();
  size_t begin = 0;
  for (; begin + kBlock <= count; begin += kBlock)
    for (size_t i = 0; i < kBlock; ++i)
      out[begin + i] = normalised<T>(from[begin + i], scale[i], shift[i]);
  for (size_t i = begin; i < count; ++i)
    out[i] = normalised<T>(from[i], scale[i - begin], shift[i - begin]);
}
template void normalize(const Image&, const ChannelScale&, float*);
template void normalize(const Image&, const ChannelScale&, bf16*);
template void normalize(const Image&, const ChannelScale&, double*);
template void normalize(const Image&, const ChannelScale&, uint8_t*);

float hue_turn(double shift) {
  return static_cast<uint8_t>(static_cast<int>(shift * 255));
}

float blur_radius(float sigma) {
  const float sigma2 = sigma * sigma / static_cast<float>(kBoxPasses);
  const float length = static_cast<float>(std::sqrt(12.0 * sigma2 + 1.0));
  const float l = static_cast<float>(std::floor((length - 1.0) / 2.0));
  float a = (2 * l + 1) * (l * (l + 1) - 3 * sigma2);
  a /= 6 * (sigma2 - (l + 1) * (l + 1));
  return l + a;
}

uint8_t luma(const uint8_t* rgb) {
  return pixels::luma({rgb[0], rgb[1], rgb[2]});
}

}  // namespace facet
