// Augmentation policies as timm defines them: steps of a pipeline. Rotations, shears and
// translations leave ImageNet's mean behind and, without a filter, are bilinear or bicubic, drawn
// for each.
#pragma once

#include "data/pipeline.h"

namespace facet {

// Cubuk et al. 2020 as timm's rand-m{magnitude}-mstd{deviation}-inc1: `layers` operations out of 15
// with replacement, each with chance .5 at a level of N(magnitude, deviation) clamped to [0, 10];
// a higher level is always a stronger change.
PipelineStep rand_augment(double magnitude = 9, double deviation = .5, int layers = 2,
                          std::optional<Filter> filter = {});
// Cubuk et al. 2019, the ImageNet policy (timm's "original"): one of 25 pairs of operations.
PipelineStep auto_augment(std::optional<Filter> filter = {});
// One box of share x the sides (CutoutPIL of Ben-Baruch et al. 2021): its centre anywhere, so that
// it may be cut at a border, in one random colour.
PipelineStep random_cutout(double share);

}  // namespace facet
