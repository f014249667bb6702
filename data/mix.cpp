#include "data/mix.h"

#include <algorithm>
#include <cmath>

namespace facet {
namespace {

// Marsaglia and Tsang, "A simple method for generating gamma variables" (2000).
double draw_gamma(double alpha, RandomSequence& random) {
  if (alpha < 1) return draw_gamma(alpha + 1, random) * std::pow(1 - random.uniform(), 1 / alpha);
  const double d = alpha - 1.0 / 3.0, c = 1 / std::sqrt(9 * d);
  while (true) {
    const double x = random.normal(), v = std::pow(1 + c * x, 3);
    if (v > 0 && std::log(1 - random.uniform()) < .5 * x * x + d - d * v + d * std::log(v))
      return d * v;
  }
}
double draw_beta(double alpha, RandomSequence& random) {
  const double a = draw_gamma(alpha, random), b = draw_gamma(alpha, random);
  return a + b > 0 ? a / (a + b) : .5;
}

}  // namespace

Mix draw_mix(const MixOptions& options, int64_t height, int64_t width, RandomSequence& random) {
  if (!random.bernoulli(options.probability) || (options.mixup <= 0 && options.cutmix <= 0))
    return {};
  const bool cuts = options.mixup > 0 && options.cutmix > 0
                        ? random.bernoulli(options.switch_probability)
                        : options.cutmix > 0;
  const double lambda = draw_beta(cuts ? options.cutmix : options.mixup, random);
  if (!cuts)
    return {lambda, lambda, {0, 0, static_cast<int32_t>(height), static_cast<int32_t>(width)}};
  const auto y = static_cast<int64_t>(random.below(static_cast<uint64_t>(height)));
  return cutmix_at(lambda, height, width, y,
                   static_cast<int64_t>(random.below(static_cast<uint64_t>(width))));
}

Mix cutmix_at(double lambda, int64_t height, int64_t width, int64_t y, int64_t x) {
  const double ratio = std::sqrt(1 - lambda);
  const auto half = [&](int64_t side) {
    return static_cast<int64_t>(static_cast<double>(side) * ratio) / 2;
  };
  const int64_t top = std::max<int64_t>(y - half(height), 0),
                bottom = std::min(y + half(height), height);
  const int64_t left = std::max<int64_t>(x - half(width), 0),
                right = std::min(x + half(width), width);
  const Rectangle box{static_cast<int32_t>(top), static_cast<int32_t>(left),
                      static_cast<int32_t>(bottom - top), static_cast<int32_t>(right - left)};
  const double area = static_cast<double>((bottom - top) * (right - left));
  return {1 - area / static_cast<double>(height * width), 0, box};
}

Tensor mix_images(const Tensor& images, const Mix& mix) {
  FACET_CHECK(images.rank() == 4 && images.dim(0) % 2 == 0, "mix_images",
              "expected an even number of images (N, H, W, C), got {}", images.str());
  return mix.weight == 1 ? images : ops::mix_reversed(images, mix.inside, mix.box);
}

Tensor mix_targets(const Tensor& labels, int64_t classes, double smoothing, const Mix& mix) {
  const double off = smoothing / static_cast<double>(classes);
  std::vector<float> rows(static_cast<size_t>(classes * classes), static_cast<float>(off));
  for (int64_t c = 0; c < classes; ++c)
    rows[static_cast<size_t>(c * classes + c)] = static_cast<float>(1 - smoothing + off);
  const Tensor one_hot =
      ops::gather_rows(Tensor::from(rows, {classes, classes}).to(labels.device()), labels);
  if (mix.weight == 1) return one_hot;
  return ops::mix_reversed(one_hot.reshape({labels.numel(), 1, 1, classes}), mix.weight,
                           {0, 0, 1, 1})
      .reshape({labels.numel(), classes});
}

std::vector<EraseBox> draw_erase_boxes(const EraseOptions& options, int64_t images, int64_t height,
                                       int64_t width, RandomSequence& random) {
  std::vector<EraseBox> boxes;
  const double widest = -std::log(options.min_aspect);
  for (int64_t i = 0; i < images; ++i) {
    if (!random.bernoulli(options.probability)) continue;
    for (int attempt = 0; attempt < 10; ++attempt) {
      const double area =
          random.uniform(options.min_area, options.max_area) * static_cast<double>(height * width);
      const double aspect = std::exp(random.uniform(-widest, widest));
      const auto h = static_cast<int32_t>(std::nearbyint(std::sqrt(area * aspect)));
      const auto w = static_cast<int32_t>(std::nearbyint(std::sqrt(area / aspect)));
      if (h >= height || w >= width) continue;
      const auto top = static_cast<int32_t>(random.below(static_cast<uint64_t>(height - h + 1)));
      const auto left = static_cast<int32_t>(random.below(static_cast<uint64_t>(width - w + 1)));
      boxes.push_back({i, {top, left, h, w}});
      break;
    }
  }
  return boxes;
}

}  // namespace facet
