#include "apps/model.h"

#include <algorithm>

namespace facet {

namespace fs = std::filesystem;

void NetworkOptions::add_to(Options& options) {
  options.choice("--arch,--model", arch, resnet_names(), "Network");
  options.choice("--stem", stem, {"auto", "small", "imagenet"}, "First layers");
  options.add("--width", width, "Channels of the first stage (64 in the papers)");
  options.add("--image-size,--img-size", image_size, "Height and width of the views, in pixels");
}

ResNetOptions NetworkOptions::resolve() const {
  if (width < 1) throw UsageError(fmt::format("--width: expected at least 1, got {}", width));
  if (image_size < 8)
    throw UsageError(fmt::format("--image-size: expected at least 8, got {}", image_size));
  const bool small = stem == "small" || (stem == "auto" && image_size <= 64);
  return {.arch = arch, .stem = small ? Stem::small : Stem::imagenet, .width = width};
}

ResNetOptions architecture_of(const std::vector<NamedTensor>& weights, const std::string& file) {
  const auto find = [&](const std::string& name) {
    return std::find_if(weights.begin(), weights.end(),
                        [&](const NamedTensor& t) { return t.name == name; });
  };
  const auto conv1 = find("conv1.weight");
  if (conv1 == weights.end() || conv1->value.rank() != 4)
    throw FileError(fmt::format("{}: no ResNet: expected a tensor conv1.weight", file));
  ResNetOptions options;
  options.width = conv1->value.dim(0);
  options.stem = conv1->value.dim(1) == 7 ? Stem::imagenet : Stem::small;
  options.channels = conv1->value.dim(3);
  const bool bottleneck = find("layer1.0.conv3.weight") != weights.end();
  const bool deep = find("layer1.2.conv1.weight") != weights.end();
  options.arch = bottleneck ? "resnet50" : deep ? "resnet34" : "resnet18";
  return options;
}

TrainedNetwork load_network(const fs::path& path, Device device) {
  fs::path file = path;
  if (fs::is_directory(path)) {
    file = path / "model.safetensors";
    if (!fs::exists(file))
      throw FileError(
          fmt::format("{}: expected a finished run with model.safetensors in it", path.string()));
  }
  TensorFile content = load_safetensors(file);
  std::vector<NamedTensor> weights = from_file_layout(content.tensors);
  TrainedNetwork network;
  network.architecture = architecture_of(weights, file.string());
  network.metadata = std::move(content.metadata);
  network.name = fs::is_directory(path) ? fs::weakly_canonical(path).filename().string()
                                        : path.stem().string();
  std::erase_if(weights, [&](const NamedTensor& t) {
    if (t.name == "fc.weight") network.head_weight = t.value.to(device);
    if (t.name == "fc.bias") network.head_bias = t.value.to(device);
    return t.name == "fc.weight" || t.name == "fc.bias";
  });
  network.encoder = std::make_unique<ResNet>(network.architecture);
  try {
    load_state(*network.encoder, weights);
  } catch (const FileError& e) {
    throw FileError(fmt::format("{}: {}", file.string(), e.what()));
  }
  network.encoder->eval();
  to_device(*network.encoder, device);
  return network;
}

void save_network(const fs::path& path, Encoder& encoder, const Tensor& head_weight,
                  const Tensor& head_bias, Metadata metadata) {
  std::vector<NamedTensor> weights = state(encoder);
  if (head_weight.defined()) weights.push_back({"fc.weight", head_weight});
  if (head_bias.defined()) weights.push_back({"fc.bias", head_bias});
  for (NamedTensor& weight : weights) weight.value = weight.value.to(Device{});
  save_safetensors(path, to_file_layout(weights), std::move(metadata));
}

std::vector<NamedWeight> named_weights(Module& module) {
  std::vector<NamedWeight> weights;
  for (const NamedParameter& p : parameters(module)) weights.push_back({p.name, p.value.value()});
  return weights;
}

}  // namespace facet
