#include "data/pipeline.h"

#include <algorithm>
#include <cmath>

#include "tensor/check.h"

namespace facet {
namespace {
const char* name(Filter filter) {
  return filter == Filter::bilinear ? "bilinear" : "bicubic";
}
}  // namespace

PipelineStep random_resized_crop(int size, double low, double high, Filter filter) {
  return {fmt::format("RandomResizedCrop({}, area {}-{}, {})", size, low, high, name(filter)),
          [=](Image& image, RandomSequence& random) {
            const Window w = random_resized_window(image.height, image.width, low, high, random);
            image = resize(crop(image, w.top, w.left, w.height, w.width), size, size, filter);
          }};
}

PipelineStep random_flip(double probability) {
  return {fmt::format("HorizontalFlip(p {})", probability),
          [=](Image& image, RandomSequence& random) {
            if (random.bernoulli(probability)) flip_horizontal(image);
          }};
}

PipelineStep color_jitter(double brightness, double contrast, double saturation, double hue,
                          double probability) {
  return {fmt::format("ColorJitter({}, {}, {}, {}, p {})", brightness, contrast, saturation, hue,
                      probability),
          [=](Image& image, RandomSequence& random) {
            if (!random.bernoulli(probability)) return;
            std::array<int, 4> order{0, 1, 2, 3};
            random.shuffle(order);
            const auto factor = [&](double x) {
              return static_cast<float>(random.uniform(std::max(0.0, 1.0 - x), 1.0 + x));
            };
            const float b = factor(brightness), c = factor(contrast), s = factor(saturation);
            const double h = random.uniform(-hue, hue);
            for (const int op : order) {
              if (op == 0 && brightness > 0) adjust_brightness(image, b);
              if (op == 1 && contrast > 0) adjust_contrast(image, c);
              if (op == 2 && saturation > 0) adjust_saturation(image, s);
              if (op == 3 && hue > 0) adjust_hue(image, h);
            }
          }};
}

PipelineStep random_gray(double probability) {
  return {fmt::format("Gray(p {})", probability), [=](Image& image, RandomSequence& random) {
            if (random.bernoulli(probability)) to_gray(image);
          }};
}

PipelineStep random_blur(double probability, double low, double high) {
  return {fmt::format("GaussianBlur(sigma {}-{}, p {})", low, high, probability),
          [=](Image& image, RandomSequence& random) {
            if (!random.bernoulli(probability)) return;
            gaussian_blur(image, static_cast<float>(random.uniform(low, high)));
          }};
}

PipelineStep random_solarize(double probability, int threshold) {
  return {fmt::format("Solarize({}, p {})", threshold, probability),
          [=](Image& image, RandomSequence& random) {
            if (random.bernoulli(probability)) solarize(image, threshold);
          }};
}

PipelineStep resize_and_center_crop(int size_to, int size, Filter filter) {
  return {fmt::format("Resize({}), CenterCrop({}), {}", size_to, size, name(filter)),
          [=](Image& image, RandomSequence&) {
            const int h = image.height, w = image.width, shorter = std::min(h, w);
            image = resize(image, static_cast<int>(static_cast<int64_t>(size_to) * h / shorter),
                           static_cast<int>(static_cast<int64_t>(size_to) * w / shorter), filter);
            // torchvision rounds halves to even
            const auto offset = [&](int extent) {
              return static_cast<int>(std::nearbyint((extent - size) / 2.0));
            };
            image = crop(image, offset(image.height), offset(image.width), size, size);
          }};
}

PipelineStep resize_to(int size, Filter filter) {
  return {fmt::format("Resize({} x {}, {})", size, size, name(filter)),
          [=](Image& image, RandomSequence&) { image = resize(image, size, size, filter); }};
}

std::string Pipeline::describe() const {
  std::string text;
  for (const PipelineStep& step : steps_) text += step.text + " > ";
  return text + fmt::format("Normalize(({}), ({}))", fmt::join(normalization_.mean, ", "),
                            fmt::join(normalization_.std, ", "));
}

Image Pipeline::view(Image image, RandomSequence random) const {
  for (const PipelineStep& step : steps_) step.apply(image, random);
  FACET_CHECK(image.height == size_ && image.width == size_, "pipeline",
              "expected {0}x{0} after the last step, got {1}x{2}", size_, image.height,
              image.width);
  return image;
}

void Pipeline::operator()(Image image, RandomSequence random, float* out) const {
  const Image final_image = view(std::move(image), random);
  float scale[3], shift[3];
  for (size_t c = 0; c < 3; ++c) {
    scale[c] = 1.0f / (255.0f * normalization_.std[c]);
    shift[c] = -normalization_.mean[c] / normalization_.std[c];
  }
  for (size_t i = 0; i < final_image.pixels.size(); i += 3)
    for (size_t c = 0; c < 3; ++c)
      out[i + c] = static_cast<float>(final_image.pixels[i + c]) * scale[c] + shift[c];
}

Pipeline simclr_pipeline(int size, const Normalization& n, double min_area) {
  return {size,
          n,
          {random_resized_crop(size, min_area, 1, Filter::bilinear), random_flip(),
           color_jitter(.8, .8, .8, .2, .8), random_gray(.2), random_blur(.5, .1, 2)}};
}

Pipeline simclr_small_pipeline(int size, const Normalization& n, double min_area) {
  return {size,
          n,
          {random_resized_crop(size, min_area, 1, Filter::bicubic), random_flip(),
           color_jitter(.4, .4, .4, .1, .8), random_gray(.2)}};
}

Pipeline simclr_gray_pipeline(int size, const Normalization& n, double min_area) {
  return {size,
          n,
          {random_resized_crop(size, min_area, 1, Filter::bilinear), random_flip(),
           color_jitter(.8, .8, 0, 0, .8)}};
}

Pipeline supervised_pipeline(int size, const Normalization& n, double min_area) {
  return {size, n, {random_resized_crop(size, min_area, 1, Filter::bilinear), random_flip()}};
}

Pipeline eval_pipeline(int size, const Normalization& n, double crop_ratio) {
  if (crop_ratio == 1.0) return {size, n, {resize_to(size, Filter::bilinear)}};
  const int larger = static_cast<int>(std::nearbyint(size / crop_ratio));
  return {size, n, {resize_and_center_crop(larger, size, Filter::bilinear)}};
}

}  // namespace facet
