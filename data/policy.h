// Augmentation policies as timm defines them: steps of a pipeline that run on the CPU.
#pragma once

#include "data/pipeline.h"

namespace facet {

// Colour that rotations, shears and translations leave behind: ImageNet's mean.
struct PolicyOptions {
  std::array<uint8_t, 3> fill{124, 116, 104};
  std::optional<Filter> filter = {};  // none: bilinear or bicubic, drawn for each operation
};

// Cubuk et al. 2020 as timm's rand-m{magnitude}-mstd{deviation}-inc1: `layers` operations out of 15
// with replacement, each with chance .5 at a level of N(magnitude, deviation) clamped to [0, 10];
// a higher level is always a stronger change.
PipelineStep rand_augment(double magnitude = 9, double deviation = .5, int layers = 2,
                          const PolicyOptions& options = {});
// Cubuk et al. 2019, the ImageNet policy (timm's "original"): one of 25 pairs of operations.
PipelineStep auto_augment(const PolicyOptions& options = {});
// One box of share x the sides (CutoutPIL of Ben-Baruch et al. 2021): its centre anywhere, so that
// it may be cut at a border, in one random colour.
PipelineStep random_cutout(double share);
// timm's supervised training: crop (.08, 1) with either filter, flip, the policy. MAE's fine-tuning
// takes bicubic alone; random erasing and mixing follow on the batch (data/mix.h).
Pipeline policy_pipeline(int size, const Normalization& n, const PipelineStep& policy,
                         double min_area = .08, std::optional<Filter> filter = std::nullopt);

}  // namespace facet
