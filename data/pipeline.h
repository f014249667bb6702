// A pipeline turns an image into what the network sees: a list of steps, then normalisation.
#pragma once

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "data/image.h"

namespace facet {

struct Normalization {
  std::array<float, 3> mean, std;
};
inline constexpr Normalization kImagenetNormalization{{.485f, .456f, .406f}, {.229f, .224f, .225f}};
inline constexpr Normalization kCifar10Normalization{{.4914f, .4822f, .4465f},
                                                     {.2023f, .1994f, .2010f}};
inline constexpr Normalization kCifar100Normalization{{.5071f, .4867f, .4408f},
                                                      {.2675f, .2565f, .2761f}};
inline constexpr Normalization kFashionMnistNormalization{{.2860f, .2860f, .2860f},
                                                          {.3530f, .3530f, .3530f}};
inline constexpr Normalization kHalfNormalization{{.5f, .5f, .5f}, {.5f, .5f, .5f}};

// One operation with its own chance and factors, all drawn from `random`.
struct PipelineStep {
  std::string text;  // for the configuration: "RandomResizedCrop(224, 0.2-1, bilinear)"
  std::function<void(Image& image, RandomSequence& random)> apply;
};

PipelineStep random_resized_crop(int size, double low, double high, Filter filter);
PipelineStep random_flip(double probability = 0.5);
// Brightness, contrast, saturation in [max(0, 1 - x), 1 + x] and hue in [-h, h], in a random order;
// the order and all four factors are drawn on every call.
PipelineStep color_jitter(double brightness, double contrast, double saturation, double hue,
                          double probability);
PipelineStep random_gray(double probability);
PipelineStep random_blur(double probability, double low, double high);  // sigma
PipelineStep random_solarize(double probability, int threshold = 128);
// Shorter side to `resize` (aspect kept), then the central size x size.
PipelineStep resize_and_center_crop(int resize, int size, Filter filter);
PipelineStep resize_to(int size, Filter filter);  // both sides: the whole picture, squashed

class Pipeline {
 public:
  Pipeline() = default;
  Pipeline(int size, Normalization normalization, std::vector<PipelineStep> steps)
      : size_(size), normalization_(normalization), steps_(std::move(steps)) {}

  int size() const { return size_; }
  std::string describe() const;
  // Writes (size, size, 3) f32, normalised: (v / 255 - mean) / std.
  void operator()(Image image, RandomSequence random, float* out) const;
  Image view(Image image, RandomSequence random) const;  // before normalisation

 private:
  int size_ = 0;
  Normalization normalization_{};
  std::vector<PipelineStep> steps_;
};

// SimCLR as ported to Pillow (VISSL): crop (.08, 1) bilinear, flip, jitter (.8, .8, .8, .2) p .8,
// grey p .2, blur p .5.
Pipeline simclr_pipeline(int size, const Normalization& n, double min_area = .08);
// SimCLR for images of about 32 pixels (appendix B.9): crop (.08, 1) bicubic, flip, jitter at
// strength .5 p .8, grey p .2, no blur.
Pipeline simclr_small_pipeline(int size, const Normalization& n, double min_area = .08);
// The same for grey images, where hue, saturation and greying do nothing: a milder crop, flip, and
// brightness and contrast at strength 1 (measured on Fashion-MNIST after one epoch of 30,000: kNN
// 80.0 % against 78.6 % at strength .5 and 66.4 % without, where brightness gives the pair away).
Pipeline simclr_gray_pipeline(int size, const Normalization& n, double min_area = .3);
// Supervised training: crop (.08, 1) on photographs, (min_area, 1) where given; flip.
Pipeline supervised_pipeline(int size, const Normalization& n, double min_area = 0.08);
// Evaluation: the shorter side to size / crop_ratio and the centre; ratio 1 squashes to size x
// size.
Pipeline eval_pipeline(int size, const Normalization& n, double crop_ratio = 1.0);

}  // namespace facet
