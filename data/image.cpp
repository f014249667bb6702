#include "data/image.h"

#include <algorithm>
#include <cmath>

#include "tensor/check.h"

namespace facet {
namespace {

uint8_t clip8(int v) {
  return static_cast<uint8_t>(std::clamp(v, 0, 255));
}

// ---- resampling

constexpr int kPrecision = 32 - 8 - 2;

double triangle(double x) {
  x = std::fabs(x);
  return x < 1.0 ? 1.0 - x : 0.0;
}

double cubic(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

// For each output position the first input position and its fixed-point weights.
struct Taps {
  int size = 0;  // weights an output
  std::vector<int> first, count, weight;
};

Taps make_taps(int in, int out, Filter filter) {
  const double scale = static_cast<double>(in) / out, shrink = std::max(scale, 1.0);
  const double support = (filter == Filter::bilinear ? 1.0 : 2.0) * shrink;
  Taps taps;
  taps.size = static_cast<int>(std::ceil(support)) * 2 + 1;
  taps.weight.assign(static_cast<size_t>(taps.size) * out, 0);
  std::vector<double> k(static_cast<size_t>(taps.size));
  for (int o = 0; o < out; ++o) {
    const double centre = (o + 0.5) * scale;
    const int first = std::max(0, static_cast<int>(centre - support + 0.5));
    const int last = std::min(in, static_cast<int>(centre + support + 0.5));
    double sum = 0;
    for (int i = first; i < last; ++i) {
      const double x = (i - centre + 0.5) / shrink;
      k[static_cast<size_t>(i - first)] = filter == Filter::bilinear ? triangle(x) : cubic(x);
      sum += k[static_cast<size_t>(i - first)];
    }
    for (int i = 0; i < last - first; ++i) {
      const double w = k[static_cast<size_t>(i)] / sum * (1 << kPrecision);
      taps.weight[static_cast<size_t>(o) * taps.size + i] =
          static_cast<int>(w < 0 ? w - 0.5 : w + 0.5);
    }
    taps.first.push_back(first);
    taps.count.push_back(last - first);
  }
  return taps;
}

Image resize_rows(const Image& image, int width, Filter filter) {
  const Taps taps = make_taps(image.width, width, filter);
  Image out(image.height, width);
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < width; ++x) {
      int sum[3] = {1 << (kPrecision - 1), 1 << (kPrecision - 1), 1 << (kPrecision - 1)};
      const int* w = &taps.weight[static_cast<size_t>(x) * taps.size];
      const uint8_t* from = image.at(y, taps.first[static_cast<size_t>(x)]);
      for (int i = 0; i < taps.count[static_cast<size_t>(x)]; ++i, from += 3)
        for (int c = 0; c < 3; ++c) sum[c] += from[c] * w[i];
      for (int c = 0; c < 3; ++c) out.at(y, x)[c] = clip8(sum[c] >> kPrecision);
    }
  return out;
}

Image resize_columns(const Image& image, int height, Filter filter) {
  const Taps taps = make_taps(image.height, height, filter);
  Image out(height, image.width);
  const size_t row = static_cast<size_t>(image.width) * 3;
  std::vector<int> sum(row);
  for (int y = 0; y < height; ++y) {
    std::fill(sum.begin(), sum.end(), 1 << (kPrecision - 1));
    const int* w = &taps.weight[static_cast<size_t>(y) * taps.size];
    for (int i = 0; i < taps.count[static_cast<size_t>(y)]; ++i) {
      const uint8_t* from = image.at(taps.first[static_cast<size_t>(y)] + i, 0);
      for (size_t k = 0; k < row; ++k) sum[k] += from[k] * w[i];
    }
    uint8_t* to = out.at(y, 0);
    for (size_t k = 0; k < row; ++k) to[k] = clip8(sum[k] >> kPrecision);
  }
  return out;
}

// ---- blending

template <typename Other>
void blend(Image& image, float factor, Other other) {
  for (size_t i = 0; i < image.pixels.size(); i += 3) {
    uint8_t* p = &image.pixels[i];
    uint8_t base[3];
    other(p, base);
    for (int c = 0; c < 3; ++c) {
      const float v =
          static_cast<float>(base[c]) +
          factor * static_cast<float>(static_cast<int>(p[c]) - static_cast<int>(base[c]));
      p[c] = v <= 0.0f ? 0 : v >= 255.0f ? 255 : static_cast<uint8_t>(v);
    }
  }
}

// ---- box blur

// One pass along a line of `n` pixels that lie `step` bytes apart.
void box_blur_line(const uint8_t* in, uint8_t* out, int n, size_t step, float float_radius) {
  const int radius = static_cast<int>(float_radius);
  const auto weight = static_cast<uint32_t>(static_cast<float>(1 << 24) / (float_radius * 2 + 1));
  const uint32_t far = ((1u << 24) - static_cast<uint32_t>(radius * 2 + 1) * weight) / 2;
  const auto at = [&](int x) {
    return static_cast<uint32_t>(in[static_cast<size_t>(std::clamp(x, 0, n - 1)) * step]);
  };
  uint32_t sum = 0;
  for (int x = -radius - 1; x < radius; ++x) sum += at(x);
  for (int x = 0; x < n; ++x) {
    sum += at(x + radius) - at(x - radius - 1);
    const uint32_t bulk = sum * weight + (at(x - radius - 1) + at(x + radius + 1)) * far;
    out[static_cast<size_t>(x) * step] = static_cast<uint8_t>((bulk + (1u << 23)) >> 24);
  }
}

float box_radius(float sigma, int passes) {
  const float sigma2 = sigma * sigma / static_cast<float>(passes);
  const float length = static_cast<float>(std::sqrt(12.0 * sigma2 + 1.0));
  const float l = static_cast<float>(std::floor((length - 1.0) / 2.0));
  float a = (2 * l + 1) * (l * (l + 1) - 3 * sigma2);
  a /= 6 * (sigma2 - (l + 1) * (l + 1));
  return l + a;
}

}  // namespace

Image resize(const Image& image, int height, int width, Filter filter) {
  FACET_CHECK(height > 0 && width > 0 && image.height > 0 && image.width > 0, "resize",
              "cannot resize {}x{} to {}x{}", image.height, image.width, height, width);
  Image out = image.width == width ? image : resize_rows(image, width, filter);
  return out.height == height ? out : resize_columns(out, height, filter);
}

Image crop(const Image& image, int top, int left, int height, int width) {
  FACET_CHECK(top >= 0 && left >= 0 && height > 0 && width > 0 && top + height <= image.height &&
                  left + width <= image.width,
              "crop", "a {}x{} window at ({}, {}) leaves the {}x{} image", height, width, top, left,
              image.height, image.width);
  Image out(height, width);
  for (int y = 0; y < height; ++y)
    std::copy_n(image.at(top + y, left), static_cast<size_t>(width) * 3, out.at(y, 0));
  return out;
}

void flip_horizontal(Image& image) {
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < image.width / 2; ++x)
      std::swap_ranges(image.at(y, x), image.at(y, x) + 3, image.at(y, image.width - 1 - x));
}

uint8_t luma(const uint8_t* rgb) {
  return static_cast<uint8_t>((19595 * rgb[0] + 38470 * rgb[1] + 7471 * rgb[2] + 32768) >> 16);
}

void to_gray(Image& image) {
  for (size_t i = 0; i < image.pixels.size(); i += 3)
    std::fill_n(&image.pixels[i], 3, luma(&image.pixels[i]));
}

void adjust_brightness(Image& image, float factor) {
  blend(image, factor, [](const uint8_t*, uint8_t* base) { std::fill_n(base, 3, uint8_t{0}); });
}

void adjust_contrast(Image& image, float factor) {
  double sum = 0;
  for (size_t i = 0; i < image.pixels.size(); i += 3) sum += luma(&image.pixels[i]);
  const double count = static_cast<double>(image.pixels.size() / 3);
  const auto mean = static_cast<uint8_t>(sum / count + 0.5);
  blend(image, factor, [mean](const uint8_t*, uint8_t* base) { std::fill_n(base, 3, mean); });
}

void adjust_saturation(Image& image, float factor) {
  blend(image, factor, [](const uint8_t* p, uint8_t* base) { std::fill_n(base, 3, luma(p)); });
}

void adjust_hue(Image& image, double shift) {
  const auto turn = static_cast<uint8_t>(static_cast<int>(shift * 255));
  for (size_t i = 0; i < image.pixels.size(); i += 3) {
    uint8_t* p = &image.pixels[i];
    const int high = std::max({p[0], p[1], p[2]}), low = std::min({p[0], p[1], p[2]});
    if (high == low) continue;  // saturation 0: any hue gives the same grey
    const float range = static_cast<float>(high - low);
    const float rc = static_cast<float>(high - p[0]) / range;
    const float gc = static_cast<float>(high - p[1]) / range;
    const float bc = static_cast<float>(high - p[2]) / range;
    float h = p[0] == high   ? bc - gc
              : p[1] == high ? static_cast<float>(2.0 + rc - bc)
                             : static_cast<float>(4.0 + gc - rc);
    h = static_cast<float>(std::fmod(h / 6.0 + 1.0, 1.0));
    const uint8_t saturation = clip8(static_cast<int>(range / static_cast<float>(high) * 255.0));
    const auto hue = static_cast<uint8_t>(clip8(static_cast<int>(h * 255.0)) + turn);
    if (saturation == 0) {
      std::fill_n(p, 3, static_cast<uint8_t>(high));
      continue;
    }
    const float sector = static_cast<float>(static_cast<float>(hue) * 6.0 / 255.0);
    const int index = static_cast<int>(std::floor(sector));
    const float f =
        static_cast<float>(static_cast<float>(hue) * 6.0 / 255.0 - static_cast<float>(index));
    const float s = static_cast<float>(saturation / 255.0), v = static_cast<float>(high);
    const uint8_t a = clip8(static_cast<int>(std::round(v * (1.0 - s))));
    const uint8_t q = clip8(static_cast<int>(std::round(v * (1.0 - s * f))));
    const uint8_t t = clip8(static_cast<int>(std::round(v * (1.0 - s * (1.0 - f)))));
    const auto top = static_cast<uint8_t>(high);
    const uint8_t table[6][3] = {{top, t, a}, {q, top, a}, {a, top, t},
                                 {a, q, top}, {t, a, top}, {top, a, q}};
    std::copy_n(table[index % 6], 3, p);
  }
}

void solarize(Image& image, int threshold) {
  for (uint8_t& v : image.pixels)
    if (v >= threshold) v = static_cast<uint8_t>(255 - v);
}

void gaussian_blur(Image& image, float sigma) {
  constexpr int kPasses = 3;
  const float radius = box_radius(sigma, kPasses);
  Image other(image.height, image.width);
  const size_t row = static_cast<size_t>(image.width) * 3;
  for (int pass = 0; pass < kPasses; ++pass) {
    for (int y = 0; y < image.height; ++y)
      for (int c = 0; c < 3; ++c)
        box_blur_line(image.at(y, 0) + c, other.at(y, 0) + c, image.width, 3, radius);
    std::swap(image.pixels, other.pixels);
  }
  for (int pass = 0; pass < kPasses; ++pass) {
    for (size_t k = 0; k < row; ++k)
      box_blur_line(image.pixels.data() + k, other.pixels.data() + k, image.height, row, radius);
    std::swap(image.pixels, other.pixels);
  }
}

Window random_resized_window(int height, int width, double low, double high,
                             RandomSequence& random) {
  constexpr double kLowAspect = 3.0 / 4.0, kHighAspect = 4.0 / 3.0;
  const double area = static_cast<double>(height) * width;
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double target = area * random.uniform(low, high);
    const double aspect = std::exp(random.uniform(std::log(kLowAspect), std::log(kHighAspect)));
    const int w = static_cast<int>(std::nearbyint(std::sqrt(target * aspect)));
    const int h = static_cast<int>(std::nearbyint(std::sqrt(target / aspect)));
    if (w <= 0 || w > width || h <= 0 || h > height) continue;
    const int top = static_cast<int>(random.below(static_cast<uint64_t>(height - h + 1)));
    const int left = static_cast<int>(random.below(static_cast<uint64_t>(width - w + 1)));
    return {top, left, h, w};
  }
  const double aspect = static_cast<double>(width) / height;
  int w = width, h = height;
  if (aspect < kLowAspect)
    h = static_cast<int>(std::nearbyint(w / kLowAspect));
  else if (aspect > kHighAspect)
    w = static_cast<int>(std::nearbyint(h * kHighAspect));
  return {(height - h) / 2, (width - w) / 2, h, w};
}

}  // namespace facet
