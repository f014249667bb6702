// What is done to a whole batch after the views: mixup (Zhang et al. 2018), CutMix (Yun et al.
// 2019) and random erasing (Zhong et al. 2020), drawn as timm draws them.
#pragma once

#include <vector>

#include "tensor/ops.h"

namespace facet {

struct MixOptions {
  double mixup = 0.8, cutmix = 1.0;  // alpha of Beta(alpha, alpha); 0: never
  double probability = 1.0;          // of mixing a batch at all
  double switch_probability = 0.5;   // of cutmix where both are on
};

// One batch: image i is mixed with image B - 1 - i, inside `box` as `inside` of itself. `weight`
// is the share of its own label: cutmix takes it from the area that the clipped box leaves.
struct Mix {
  double weight = 1, inside = 1;
  Rectangle box;
};
Mix draw_mix(const MixOptions& options, int64_t height, int64_t width, RandomSequence& random);
// The box of int(side sqrt(1 - lambda)) around (y, x), clipped.
Mix cutmix_at(double lambda, int64_t height, int64_t width, int64_t y, int64_t x);
// (B, H, W, C) -> the same; B is even.
Tensor mix_images(const Tensor& images, const Mix& mix);
// Labels i64 (B) -> (B, classes) f32 on their device: one-hots smoothed to (1 - smoothing) + s and
// s = smoothing / classes, mixed.
Tensor mix_targets(const Tensor& labels, int64_t classes, double smoothing, const Mix& mix);

struct EraseOptions {
  double probability = 0.25;
  double min_area = 0.02, max_area = 1.0 / 3.0;  // share of the image
  double min_aspect = 0.3;                       // to 1 / min_aspect, log-uniform
};
// One box for each image that is drawn and where one of ten tries fits.
std::vector<EraseBox> draw_erase_boxes(const EraseOptions& options, int64_t images, int64_t height,
                                       int64_t width, RandomSequence& random);

}  // namespace facet
