// Weights with the shapes and names of ResNet-50's 53 convolutions, for timing what reads weights.
#pragma once

#include <cstdint>
#include <vector>

#include "metrics/diversity.h"

namespace facet {

// f32 (Cout, kh, kw, Cin) each. A feature is uniform noise in [-1, 1) plus a base vector, uniform
// in [-1, 1), that all features of the layer share, so that clusters form at all similarities.
// Noise and base of layer i are the random tensors of key.child(i).child(0) and .child(1), where
// key = random_key(seed, RandomPurpose::synthetic). tests/peers/diversity_peer.py makes the same.
std::vector<NamedWeight> resnet50_weights(uint64_t seed = 0);

// Seconds of the fastest of `repeats` measurements of both diversities, and the values.
struct DiversityTiming {
  double seconds = 0.0;
  ModelDiversity diversity;
};
DiversityTiming time_diversity(std::span<const NamedWeight> weights, int repeats);

}  // namespace facet
