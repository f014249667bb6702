// A pipeline turns an image into what the network sees: a list of steps, then normalisation.
#pragma once

#include <array>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "tensor/image.h"
#include "tensor/random.h"

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

// One step: appends its operations, with its own chance and factors drawn from `random`, to the
// plan of a view. At most one step crops or resizes, and it is the first.
struct PipelineStep {
  std::function<void(ViewPlan& plan, RandomSequence& random)> draw;

  void apply(Image& image, RandomSequence& random) const;
};
void add(ViewPlan& plan, const ImageOp& op);

// The window of torchvision's RandomResizedCrop: up to ten draws of area in [low, high] of the
// image and log-uniform aspect in [3/4, 4/3], else the largest central window of that range.
Rectangle random_resized_window(int height, int width, double low, double high,
                                RandomSequence& random);
// Without a filter: bilinear or bicubic, drawn after the window (as timm).
PipelineStep random_resized_crop(int size, double low, double high, std::optional<Filter> filter);
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
  // What is to be done to a picture of height x width; its offset is left to the caller.
  ViewPlan plan(int height, int width, RandomSequence random) const;
  ChannelScale scale() const;  // the normalisation: (v / 255 - mean) / std
  Image view(const Image& image, RandomSequence random) const;  // before normalisation

 private:
  int size_ = 0;
  Normalization normalization_{};
  std::vector<PipelineStep> steps_;
};

// The smallest part of a picture that holds what all these views of it show.
Rectangle shown_part(std::span<const ViewPlan> plans);
// Changes plans of a picture to be of a part of it that holds what they show.
void narrow(std::span<ViewPlan> plans, const Rectangle& part);

// Without the blur that small images have no room for. Of about 32 pixels (SimCLR, appendix B.9):
// crop, flip, jitter at strength .5 p .8, grey p .2. Grey images, where hue, saturation and greying
// do nothing: crop, flip, and brightness and contrast at strength 1 (measured on Fashion-MNIST
// after one epoch of 30,000: kNN 80.0 % against 78.6 % at strength .5 and 66.4 % without, where
// brightness gives the pair away). solarize: p .2, last.
Pipeline small_pipeline(int size, const Normalization& n, double low, double high, Filter filter,
                        bool grey, bool solarize = false);
// MoCo v2: crop (.2, 1) bilinear, jitter (.4, .4, .4, .1) p .8, grey p .2, blur p .5, flip.
Pipeline moco_v2_pipeline(int size, const Normalization& n, double min_area = .2);
// SimCLR as ported to Pillow (VISSL), areas (.08, 1), and SwAV, (.14, 1) for 224 and (.05, .14) for
// 96: crop bilinear, flip, jitter (.8, .8, .8, .2) p .8, grey p .2, blur p .5.
Pipeline swav_pipeline(int size, const Normalization& n, double low, double high);
// DINO: crop bicubic, flip, jitter (.4, .4, .2, .1) p .8, grey p .2, blur p 1, .1, .5 and, in the
// second global view alone, solarize p .2. Areas (.4, 1) and (.05, .4) for ViT.
enum class DinoView : uint8_t { global1, global2, local };
Pipeline dino_pipeline(int size, const Normalization& n, DinoView view, double low, double high);
// MAE pretraining: crop (.2, 1) bicubic, flip.
Pipeline mae_pipeline(int size, const Normalization& n, double min_area = .2);
// SupCon: crop (.2, 1) bilinear, flip, jitter (.4, .4, .4, .1) p .8, grey p .2.
Pipeline supcon_pipeline(int size, const Normalization& n, double min_area = .2);
// Supervised training: crop (.08, 1) on photographs, (min_area, 1) where given; flip.
Pipeline supervised_pipeline(int size, const Normalization& n, double min_area = 0.08);
// Evaluation: the shorter side to size / crop_ratio and the centre; ratio 1 squashes to size x
// size.
Pipeline eval_pipeline(int size, const Normalization& n, double crop_ratio = 1.0,
                       Filter filter = Filter::bilinear);

}  // namespace facet
