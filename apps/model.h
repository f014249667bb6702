// Networks from options, from run folders and from safetensors files.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "apps/options.h"
#include "metrics/diversity.h"
#include "nn/resnet.h"
#include "tensor/serialize.h"

namespace facet {

struct NetworkOptions {
  std::string arch = "resnet18";
  std::string stem = "auto";  // small, imagenet; auto: small for images of up to 64 pixels
  int64_t width = 64;
  int64_t image_size = 28;

  void add_to(Options& options);
  ResNetOptions resolve() const;
};

// A trained network as `facet` hands it on: weights under torchvision's names, with a classifier
// ("fc") where it has one, and what is needed to show it images.
struct TrainedNetwork {
  ResNetOptions architecture;  // without classes: the encoder alone
  std::unique_ptr<ResNet> encoder;
  Tensor head_weight, head_bias;  // undefined without a classifier
  Metadata metadata;              // "facet.image_size", "facet.data", "facet.method" ...
  std::string name;
};

// From a run folder (its model.safetensors) or a .safetensors file, ours or any with torchvision's
// names. The architecture is read off the names and shapes of the weights.
TrainedNetwork load_network(const std::filesystem::path& path, Device device = {});
void save_network(const std::filesystem::path& path, Encoder& encoder, const Tensor& head_weight,
                  const Tensor& head_bias, Metadata metadata);
ResNetOptions architecture_of(const std::vector<NamedTensor>& weights, const std::string& file);

std::vector<NamedWeight> named_weights(Module& module);

}  // namespace facet
