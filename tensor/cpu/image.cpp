#include "tensor/image.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "tensor/check.h"
#include "tensor/pixels.h"

namespace facet {

using namespace pixels;

namespace {

// ---- resampling

constexpr int kHalf = 1 << (kPrecision - 1);

// For each output position the first input position and its fixed-point weights.
struct Taps {
  int size = 0;  // weights an output
  std::vector<int> first, count, weight;

  Taps(int in, int out, Filter filter) {
    const Resampling sampling(in, out, filter);
    size = sampling.max_taps();
    weight.assign(static_cast<size_t>(size) * out, 0);
    for (int o = 0; o < out; ++o) {
      first.push_back(sampling.first(o));
      count.push_back(sampling.last(o) - first.back());
      sampling.weights(o, &weight[static_cast<size_t>(o) * size]);
    }
  }
};

// Two rows side by side, so that a vector holds the pixels of one column: four values each, of
// which the last is not used.
constexpr int kRows = 2;
using Lanes [[gnu::vector_size(32)]] = int32_t;
constexpr size_t kLanes = sizeof(Lanes) / sizeof(int32_t);

// Bytes to lanes, and lanes clipped to bytes, as instructions that GCC 12 does not find.
void widen(const uint8_t* bytes, Lanes& lanes) {
#if defined(__AVX2__)
  lanes = reinterpret_cast<Lanes>(
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes))));
#else
  for (size_t i = 0; i < kLanes; ++i) lanes[i] = bytes[i];
#endif
}
void clip(const Lanes& lanes, uint8_t* bytes) {
#if defined(__AVX2__)
  const auto all = reinterpret_cast<__m256i>(lanes);
  const __m128i words =
      _mm_packs_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(bytes), _mm_packus_epi16(words, words));
#else
  for (size_t i = 0; i < kLanes; ++i) bytes[i] = clip8(lanes[i]);
#endif
}

// The rows of a window of a picture that is `stride` pixels wide.
Image resize_rows(const uint8_t* picture, int stride, const Rectangle& window, int width,
                  Filter filter) {
  const Taps taps(window.width, width, filter);
  Image out(window.height, width);
  // As many for every output, so that the loop over them is foreseen: weights beyond are zero.
  const int count = *std::max_element(taps.count.begin(), taps.count.end());
  const auto columns = static_cast<size_t>(window.width);
  std::vector<uint8_t> block((columns + static_cast<size_t>(count)) * kLanes);
  for (int y = 0; y < window.height; y += kRows) {
    const int rows = std::min(kRows, window.height - y);
    for (int r = 0; r < rows; ++r) {
      const uint8_t* from =
          picture + (static_cast<size_t>(window.top + y + r) * stride + window.left) * 3;
      uint8_t* to = &block[static_cast<size_t>(r) * 4];
      for (size_t x = 0; x + 1 < columns; ++x, from += 3, to += kLanes) std::memcpy(to, from, 4);
      std::memcpy(to, from, 3);
    }
    const int* w = taps.weight.data();
    for (int x = 0; x < width; ++x, w += taps.size) {
      Lanes sum = kHalf - Lanes{};
      const uint8_t* from =
          &block[static_cast<size_t>(taps.first[static_cast<size_t>(x)]) * kLanes];
      for (int i = 0; i < count; ++i, from += kLanes) {
        Lanes values;
        widen(from, values);
        sum += values * w[i];
      }
      uint8_t pixels[kLanes];
      clip(sum >> kPrecision, pixels);
      for (int r = 0; r < rows; ++r) std::memcpy(out.at(y + r, x), pixels + 4 * r, 3);
    }
  }
  return out;
}

// A picture whose rows are `width` pixels.
Image resize_columns(const uint8_t* picture, int width, int from_height, int height,
                     Filter filter) {
  const Taps taps(from_height, height, filter);
  Image out(height, width);
  const size_t row = static_cast<size_t>(width) * 3;
  std::vector<int> sum(row);
  for (int y = 0; y < height; ++y) {
    std::fill(sum.begin(), sum.end(), kHalf);
    const int* w = &taps.weight[static_cast<size_t>(y) * taps.size];
    for (int i = 0; i < taps.count[static_cast<size_t>(y)]; ++i) {
      const uint8_t* from = picture + (taps.first[static_cast<size_t>(y)] + i) * row;
      for (size_t k = 0; k < row; ++k) sum[k] += from[k] * w[i];
    }
    uint8_t* to = out.at(y, 0);
    for (size_t k = 0; k < row; ++k) to[k] = clip8(sum[k] >> kPrecision);
  }
  return out;
}

// A window of a picture that is `stride` pixels wide.
Image resize_window(const uint8_t* picture, int stride, const Rectangle& window, int height,
                    int width, Filter filter) {
  if (window.width == width && window.height == height) return cut(picture, stride, window);
  if (window.height == height) return resize_rows(picture, stride, window, width, filter);
  const Image rows = window.width == width ? cut(picture, stride, window)
                                           : resize_rows(picture, stride, window, width, filter);
  return resize_columns(rows.pixels.data(), width, window.height, height, filter);
}

// ---- colour

// Pixels are taken apart a block at a time, so that `change` runs on vectors: it must not branch.
template <typename Change>
void for_each_pixel(Image& image, const Change& change) {
  constexpr size_t kBlock = 64;
  std::array<uint8_t, kBlock> red, green, blue;
  const size_t count = image.pixels.size() / 3;
  for (size_t begin = 0; begin < count; begin += kBlock) {
    const size_t n = std::min(kBlock, count - begin);
    uint8_t* const p = &image.pixels[begin * 3];
    for (size_t i = 0; i < n; ++i) {
      red[i] = p[i * 3];
      green[i] = p[i * 3 + 1];
      blue[i] = p[i * 3 + 2];
    }
#pragma omp simd
    for (size_t i = 0; i < kBlock; ++i) {
      const Rgb after = change(Rgb{red[i], green[i], blue[i]});
      red[i] = after.r;
      green[i] = after.g;
      blue[i] = after.b;
    }
    for (size_t i = 0; i < n; ++i) {
      p[i * 3] = red[i];
      p[i * 3 + 1] = green[i];
      p[i * 3 + 2] = blue[i];
    }
  }
}

int mean_of(const Image& image) {
  uint64_t sum = 0;
  for (size_t i = 0; i < image.pixels.size(); i += 3) sum += luma(&image.pixels[i]);
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

// ---- box blur

// One pass over `n` values: to = the weighted sum of 2 reach + 3 neighbours, each a line of its
// own.
void box_blur_line(const uint8_t* const* lines, const Box& box, size_t n, uint8_t* to) {
  const int last = 2 * box.reach + 2;
  std::array<uint32_t, 256> sum;
  for (size_t begin = 0; begin < n; begin += sum.size()) {
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

Image resize(const Image& image, int height, int width, Filter filter) {
  FACET_CHECK(height > 0 && width > 0 && image.height > 0 && image.width > 0, "resize",
              "cannot resize {}x{} to {}x{}", image.height, image.width, height, width);
  return resize_window(image.pixels.data(), image.width, {0, 0, image.height, image.width}, height,
                       width, filter);
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
    case ImageOpKind::flip:
      for (int y = 0; y < image.height; ++y)
        for (int x = 0; x < image.width / 2; ++x)
          std::swap_ranges(image.at(y, x), image.at(y, x) + 3, image.at(y, image.width - 1 - x));
      return;
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
  Image image = resize_window(picture, plan.width, plan.window, plan.resized_height,
                              plan.resized_width, plan.filter);
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
