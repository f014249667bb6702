#include "metrics/resnet50_weights.h"

#include <chrono>

#include "tensor/ops.h"

namespace facet {
namespace {

struct Convolution {
  std::string name;
  Shape shape;
};

// He et al. 2016, table 1, bottleneck blocks, in torchvision's names and order.
std::vector<Convolution> convolutions() {
  std::vector<Convolution> list = {{"conv1.weight", {64, 7, 7, 3}}};
  const int blocks[] = {3, 4, 6, 3};
  int64_t in = 64;
  for (int stage = 0; stage < 4; ++stage) {
    const int64_t width = int64_t{64} << stage, out = 4 * width;
    for (int block = 0; block < blocks[stage]; ++block) {
      const std::string prefix = fmt::format("layer{}.{}.", stage + 1, block);
      list.push_back({prefix + "conv1.weight", {width, 1, 1, in}});
      list.push_back({prefix + "conv2.weight", {width, 3, 3, width}});
      list.push_back({prefix + "conv3.weight", {out, 1, 1, width}});
      if (block == 0) list.push_back({prefix + "downsample.0.weight", {out, 1, 1, in}});
      in = out;
    }
  }
  return list;
}

}  // namespace

std::vector<NamedWeight> resnet50_weights(uint64_t seed) {
  const RandomKey key = random_key(seed, RandomPurpose::synthetic);
  std::vector<NamedWeight> weights;
  for (const auto& [name, shape] : convolutions()) {
    const RandomKey layer = key.child(weights.size());
    const Shape base_shape = {1, shape[1], shape[2], shape[3]};
    const Tensor noise = ops::random_uniform(shape, layer.child(0), -1.0, 1.0);
    const Tensor base = ops::random_uniform(base_shape, layer.child(1), -1.0, 1.0);
    weights.push_back({name, ops::add(noise, base)});
  }
  return weights;
}

DiversityTiming time_diversity(std::span<const NamedWeight> weights, int repeats) {
  FACET_CHECK(repeats >= 1, "time_diversity", "{} repeats", repeats);
  DiversityTiming best;
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    best.diversity = model_diversity(weights);
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    if (i == 0 || time.count() < best.seconds) best.seconds = time.count();
  }
  return best;
}

}  // namespace facet
