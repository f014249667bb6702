// Picture families drawn by formula and seed: downstream tasks that need no download. Sample i of a
// split depends on (seed, split, i) alone; classes are balanced.
#pragma once

#include "data/dataset.h"

namespace facet {

struct SyntheticOptions {
  int64_t count = 2000;
  int size = 28;  // pixels a side
  uint64_t seed = 0;
};

// Ten kinds of plane figures, filled or outlined, at random place, size, turn and colours.
DatasetPtr make_shapes(const SyntheticOptions& options, Split split);
// Ten kinds of textures: stripes, checks, dots, rings, waves, noise of three scales ...
DatasetPtr make_textures(const SyntheticOptions& options, Split split);
// The ten digits as strokes of random thickness under a random affine map.
DatasetPtr make_digits(const SyntheticOptions& options, Split split);
// One to four figures of eight kinds in a picture; the label says which kinds are there.
DatasetPtr make_scene(const SyntheticOptions& options, Split split);
// One to five small figures of any kinds and colours, none touching another: how many.
DatasetPtr make_counts(const SyntheticOptions& options, Split split);

}  // namespace facet
