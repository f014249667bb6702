// Pillow's resampling: a horizontal and a vertical pass with 22-bit weights, 8 bits between them.
#include <algorithm>
#include <cstring>

#include "tensor/check.h"
#include "tensor/cpu/pixel_pairs.h"
#include "tensor/image.h"
#include "tensor/pixels.h"

namespace facet {

using namespace pixels;

namespace {

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

#if defined(__AVX2__)
// Weights in two halves, w = high 2^kLow + low, of two taps each. As many steps of four taps for
// every output, so that no branch depends on its own number: weights beyond are zero.
constexpr int kLow = 11;
struct PairedTaps {
  size_t steps = 0;
  std::vector<int32_t> pairs;  // outputs x steps x (high 0|1, low 0|1, high 2|3, low 2|3)

  explicit PairedTaps(const Taps& taps) {
    const int most = *std::max_element(taps.count.begin(), taps.count.end());
    steps = static_cast<size_t>(most + 3) / 4;
    std::vector<int> w(steps * 4);
    for (size_t o = 0; o < taps.first.size(); ++o) {
      std::fill(
          std::copy_n(&taps.weight[o * static_cast<size_t>(taps.size)], taps.count[o], w.begin()),
          w.end(), 0);
      for (size_t i = 0; i < w.size(); i += 2) {
        const auto low = [](int v) { return v & ((1 << kLow) - 1); };
        pairs.push_back(((w[i] >> kLow) & 0xffff) | (w[i + 1] >> kLow) * 0x10000);
        pairs.push_back(low(w[i]) | low(w[i + 1]) * 0x10000);
      }
    }
  }
};

// The two halves of a sum.
struct Halves {
  __m256i high = _mm256_setzero_si256(), low = _mm256_setzero_si256();

  void add(const __m256i& values, const int32_t* pair) {
    high = _mm256_add_epi32(high, _mm256_madd_epi16(values, _mm256_set1_epi32(pair[0])));
    low = _mm256_add_epi32(low, _mm256_madd_epi16(values, _mm256_set1_epi32(pair[1])));
  }
  __m256i rounded() const {
    const __m256i sum = _mm256_add_epi32(_mm256_slli_epi32(high, kLow), low);
    return _mm256_srai_epi32(_mm256_add_epi32(sum, _mm256_set1_epi32(kHalf)), kPrecision);
  }
};

// The outputs of two rows: a vector's halves hold red, green and blue of two pixels of each.
void resize_two_rows(const uint8_t* const* rows, const Taps& taps, const PairedTaps& paired,
                     uint8_t* to, uint8_t* to_other) {
  const __m256i first = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1));
  const __m256i second = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1));
  const int32_t* pair = paired.pairs.data();
  const size_t width = taps.first.size();
  for (size_t x = 0; x < width; ++x, to += 3, to_other += 3) {
    const ptrdiff_t at = ptrdiff_t{3} * taps.first[x];
    const uint8_t *row = rows[0] + at, *other = rows[1] + at;
    Halves sum;
    for (size_t i = 0; i < paired.steps; ++i, row += 12, other += 12, pair += 4) {
      const __m256i bytes = _mm256_inserti128_si256(
          _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row))),
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(other)), 1);
      sum.add(_mm256_shuffle_epi8(bytes, first), pair);
      sum.add(_mm256_shuffle_epi8(bytes, second), pair + 2);
    }
    const __m256i whole = sum.rounded();
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    const __m128i pixels = _mm_packus_epi16(words, words);  // r g b - r g b -
    const int pixel = _mm_cvtsi128_si32(pixels), pixel_other = _mm_extract_epi32(pixels, 1);
    // The fourth byte is the next pixel's, which comes after; the last pixel has none.
    const size_t bytes = x + 1 < width ? 4 : 3;
    std::memcpy(to_other, &pixel_other, bytes);
    std::memcpy(to, &pixel, bytes);
  }
}

// The rows of a window of a picture that is `stride` pixels wide.
Image resize_rows(const uint8_t* picture, int stride, const Rectangle& window, int width,
                  Filter filter) {
  const Taps taps(window.width, width, filter);
  const PairedTaps paired(taps);
  Image out(window.height, width);
  // Loads pass the end of a row; rows for which that would leave the window go by a copy.
  const ptrdiff_t reach =
      ptrdiff_t{3} * taps.first.back() + 12 * static_cast<ptrdiff_t>(paired.steps) + 4;
  const auto row_of = [&](int y) {
    return picture + (static_cast<ptrdiff_t>(window.top + y) * stride + window.left) * 3;
  };
  const uint8_t* const end = row_of(window.height - 1) + ptrdiff_t{3} * window.width;
  std::vector<uint8_t> copies[2];
  for (int y = 0; y < window.height; y += 2) {
    const int other = std::min(y + 1, window.height - 1);
    const uint8_t* rows[] = {row_of(y), row_of(other)};
    for (size_t r = 0; r < 2; ++r)
      if (end - rows[r] < reach) {
        copies[r].assign(rows[r], rows[r] + ptrdiff_t{3} * window.width);
        copies[r].resize(static_cast<size_t>(reach));
        rows[r] = copies[r].data();
      }
    resize_two_rows(rows, taps, paired, out.at(y, 0), out.at(other, 0));
  }
  return out;
}
#else
Image resize_rows(const uint8_t* picture, int stride, const Rectangle& window, int width,
                  Filter filter) {
  const Taps taps(window.width, width, filter);
  Image out(window.height, width);
  for (int y = 0; y < window.height; ++y)
    for (int x = 0; x < width; ++x) {
      const auto at = static_cast<size_t>(x);
      const uint8_t* from =
          picture +
          (static_cast<ptrdiff_t>(window.top + y) * stride + window.left + taps.first[at]) * 3;
      int sum[3] = {kHalf, kHalf, kHalf};
      for (int i = 0; i < taps.count[at]; ++i)
        for (int& channel : sum)
          channel += *from++ * taps.weight[at * static_cast<size_t>(taps.size) + i];
      for (int c = 0; c < 3; ++c) out.at(y, x)[c] = clip8(sum[c] >> kPrecision);
    }
  return out;
}
#endif

// A picture whose rows are `width` pixels.
Image resize_columns(const uint8_t* picture, int width, int from_height, int height,
                     Filter filter) {
  const Taps taps(from_height, height, filter);
  Image out(height, width);
  const size_t row = static_cast<size_t>(width) * 3;
#if defined(__AVX2__)
  const PairedTaps paired(taps);
  const int32_t* pairs = paired.pairs.data();
#endif
  for (int y = 0; y < height; ++y) {
    const auto at = static_cast<size_t>(y);
    const uint8_t* const first = picture + static_cast<size_t>(taps.first[at]) * row;
    uint8_t* const to = out.at(y, 0);
    size_t k = 0;
#if defined(__AVX2__)
    const int count = taps.count[at];
    for (; k + 16 <= row; k += 16) {
      Halves a, b;
      for (int i = 0; i < count; i += 2) {
        const uint8_t* const from = first + static_cast<size_t>(i) * row + k;
        const __m256i one = words_at(from);
        const __m256i other = words_at(i + 1 < count ? from + row : from);
        a.add(_mm256_unpacklo_epi16(one, other), pairs + i);
        b.add(_mm256_unpackhi_epi16(one, other), pairs + i);
      }
      store_bytes(a.rounded(), b.rounded(), to + k);
    }
    pairs += 4 * paired.steps;
#endif
    const int* const w = &taps.weight[at * static_cast<size_t>(taps.size)];
    for (; k < row; ++k) {
      int sum = kHalf;
      for (int i = 0; i < taps.count[at]; ++i)
        sum += first[static_cast<size_t>(i) * row + k] * w[i];
      to[k] = clip8(sum >> kPrecision);
    }
  }
  return out;
}

}  // namespace

Image resize(const uint8_t* picture, int stride, const Rectangle& window, int height, int width,
             Filter filter) {
  if (window.width == width && window.height == height) return cut(picture, stride, window);
  if (window.height == height) return resize_rows(picture, stride, window, width, filter);
  const Image rows = window.width == width ? cut(picture, stride, window)
                                           : resize_rows(picture, stride, window, width, filter);
  return resize_columns(rows.pixels.data(), width, window.height, height, filter);
}

Image resize(const Image& image, int height, int width, Filter filter) {
  FACET_CHECK(height > 0 && width > 0 && image.height > 0 && image.width > 0, "resize",
              "cannot resize {}x{} to {}x{}", image.height, image.width, height, width);
  return resize(image.pixels.data(), image.width, {0, 0, image.height, image.width}, height, width,
                filter);
}

}  // namespace facet
