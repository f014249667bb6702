#include "apps/model.h"

#include <cmath>
#include <cstdlib>

#include "apps/weights.h"

namespace facet {

namespace fs = std::filesystem;

namespace {

constexpr const char* kStem = "facet.stem";  // what shapes do not say

using Shapes = std::map<std::string, std::vector<int64_t>>;

ResNetOptions resnet_of(const Shapes& shapes, const std::vector<int64_t>& first,
                        const Metadata& metadata) {
  ResNetOptions options;
  options.width = first[0];
  options.stem = first[2] == 7                           ? Stem::imagenet
                 : value_of(metadata, kStem) == "padded" ? Stem::padded
                                                         : Stem::small;
  options.channels = first[1];
  const bool bottleneck = shapes.contains("layer1.0.conv3.weight");
  const bool deep = shapes.contains("layer1.2.conv1.weight");
  options.arch = bottleneck ? "resnet50" : deep ? "resnet34" : "resnet18";
  return options;
}

VitOptions vit_of(const Shapes& shapes, const std::vector<int64_t>& patches,
                  const Metadata& metadata, const std::string& file) {
  const auto position = shapes.find("pos_embed");
  if (position == shapes.end() || position->second.size() != 3)
    throw FileError("{}: no ViT: expected a tensor pos_embed of three axes", file);
  const int64_t places = position->second[1];
  const auto grid = std::llround(std::sqrt(static_cast<double>(places - 1)));
  if (grid < 1 || grid * grid != places - 1)
    throw FileError("{}: expected a pos_embed of a class token and a square of patches, got ({})",
                    file, fmt::join(position->second, ", "));
  VitOptions options;
  options.width = patches[0];
  options.patch = patches[2];
  options.channels = patches[1];
  options.image_size = grid * options.patch;
  while (shapes.contains(fmt::format("blocks.{}.norm1.weight", options.depth))) ++options.depth;
  options.arch = options.width >= 768   ? "vit_base"
                 : options.width >= 384 ? "vit_small"
                                        : "vit_tiny";
  if (const std::string heads = value_of(metadata, "facet.heads"); !heads.empty()) {
    options.heads = std::strtol(heads.c_str(), nullptr, 10);
    if (options.heads < 1)
      throw FileError("{}: expected a number of heads as facet.heads, got '{}'", file, heads);
  }
  if (shapes.contains("fc_norm.weight")) options.pool = VitOptions::Pool::mean;
  return options;
}

}  // namespace

std::unique_ptr<Encoder> make_encoder(const Architecture& architecture) {
  if (const auto* vit = std::get_if<VitOptions>(&architecture)) return std::make_unique<Vit>(*vit);
  return std::make_unique<ResNet>(std::get<ResNetOptions>(architecture));
}

std::vector<std::string> architecture_names() {
  std::vector<std::string> names = resnet_names();
  names.insert(names.end(), vit_names().begin(), vit_names().end());
  return names;
}

int attention_heads(const Encoder& encoder) {
  const auto* const vit = dynamic_cast<const Vit*>(&encoder);
  return vit ? static_cast<int>(vit->options().heads) : 0;
}

std::string head_name(const Encoder& encoder) {
  return dynamic_cast<const Vit*>(&encoder) ? "head" : "fc";
}

void NetworkOptions::add_to(Options& options) {
  options.choice("--arch,--model", arch, architecture_names(), "Network");
  options.choice("--stem", stem, {"auto", "small", "padded", "imagenet"},
                 "ResNet: first layers; padded: small as solo-learn's");
  options.flag("--zero-init-residual", zero_init_residual,
               "ResNet: the last norm of each block starts at 0, as in timm and SimCLR");
  options.add("--width", width, "Channels of a ResNet's first stage, or of a ViT (0: its own)");
  options.add("--image-size,--img-size", image_size, "Height and width of the views, in pixels");
  options.add("--patch-size", patch_size,
              "ViT: pixels a side of a patch (0: 4 for images of up to 64 pixels, else 16)");
  options.add("--depth", depth, "ViT: blocks (0: its own)");
  options.add("--heads", heads, "ViT: attention heads (0: one for every 64 channels)");
  options.add("--drop-path", drop_path, "ViT: chance to drop a branch of the last block");
  options.choice("--init", init, {"normal", "xavier"},
                 "ViT: weights of N(0, .02), or of a variance that suits narrow layers, as MAE's");
}

int64_t NetworkOptions::patch() const {
  if (!is_vit()) return 1;
  return patch_size > 0 ? patch_size : image_size <= kSmallImage ? 4 : 16;
}

Architecture NetworkOptions::resolve() const {
  if (width < 0 || depth < 0 || heads < 0 || patch_size < 0)
    throw UsageError(
        "--width, --depth, --heads and --patch-size: expected at least 0, got {}, {}, {} and {}",
        width, depth, heads, patch_size);
  need(image_size >= 8, "--image-size", "at least 8", image_size);
  if (is_vit())
    return resolved({.arch = arch,
                     .patch = patch(),
                     .image_size = image_size,
                     .width = width,
                     .depth = depth,
                     .heads = heads,
                     .init = init == "xavier" ? VitOptions::Init::xavier : VitOptions::Init::normal,
                     .drop_path = drop_path});
  if (patch_size > 0 || depth > 0 || heads > 0 || drop_path > 0)
    throw UsageError("--patch-size, --depth, --heads and --drop-path are a ViT's: {} has none",
                     arch);
  const bool small = stem == "small" || (stem == "auto" && image_size <= kSmallImage);
  return ResNetOptions{.arch = arch,
                       .stem = stem == "padded" ? Stem::padded
                               : small          ? Stem::small
                                                : Stem::imagenet,
                       .width = width > 0 ? width : ResNetOptions{}.width,
                       .zero_init_residual = zero_init_residual};
}

Architecture architecture_of(const Shapes& shapes, const Metadata& metadata,
                             const std::string& file, const std::string& arch) {
  const auto conv1 = shapes.find("conv1.weight");
  const auto patches = shapes.find("patch_embed.proj.weight");
  const bool is_resnet = conv1 != shapes.end() && conv1->second.size() == 4;
  if (!is_resnet && (patches == shapes.end() || patches->second.size() != 4))
    throw FileError(
        "{}: neither ResNet nor ViT: expected a tensor conv1.weight or patch_embed.proj.weight",
        file);
  if (arch != "auto" && arch.starts_with("vit") == is_resnet)
    throw FileError("{}: expected {}, got a {}", file, arch, is_resnet ? "ResNet" : "ViT");
  if (is_resnet) {
    ResNetOptions options = resnet_of(shapes, conv1->second, metadata);
    if (arch != "auto") options.arch = arch;
    return options;
  }
  VitOptions options = vit_of(shapes, patches->second, metadata, file);
  if (arch != "auto") {
    options.arch = arch;
    options.width = options.depth = 0;  // the architecture's
  }
  try {
    return resolved(options);
  } catch (const UsageError& e) {
    throw FileError("{}: {}", file, e.what());
  }
}

TrainedNetwork load_network(const fs::path& path, Device device, const std::string& arch) {
  fs::path file = path;
  if (fs::is_directory(path)) {
    file = path / "model.safetensors";
    if (!fs::exists(file))
      throw FileError("{}: expected a finished run with model.safetensors in it", path.string());
  }
  const WeightsFile content(file);
  const MappedWeights mapped = map_weights(content, arch);
  std::vector<NamedTensor> weights = load_mapped(content, mapped);
  TrainedNetwork network;
  network.architecture = mapped.architecture;
  network.metadata = content.content().metadata;
  network.metadata.try_emplace("facet.method", mapped.mapping);
  std::string& start = network.metadata["facet.start"];
  if (start.empty()) start = network.metadata["facet.method"];
  // SwAV trains with crops of several sizes, too.
  if (auto* const vit = std::get_if<VitOptions>(&network.architecture))
    vit->resize =
        start == "dino" || start == "swav" ? VitOptions::Resize::dino : VitOptions::Resize::timm;
  network.name = fs::is_directory(path) ? fs::weakly_canonical(path).filename().string()
                                        : path.stem().string();
  network.encoder = make_encoder(network.architecture);
  std::erase_if(weights, [&](const NamedTensor& t) {
    const bool is_weight = t.name == mapped.head + ".weight";
    const bool is_bias = t.name == mapped.head + ".bias";
    if (is_weight) network.head_weight = t.value.cast(DType::f32).to(device);
    if (is_bias) network.head_bias = t.value.cast(DType::f32).to(device);
    return is_weight || is_bias;
  });
  load_state(*network.encoder, weights, false);
  network.encoder->eval();
  to_device(*network.encoder, device);
  return network;
}

void save_network(const fs::path& path, Encoder& encoder, const Tensor& head_weight,
                  const Tensor& head_bias, Metadata metadata) {
  std::vector<NamedTensor> weights = state(encoder);
  if (const int heads = attention_heads(encoder)) metadata["facet.heads"] = std::to_string(heads);
  const auto* const resnet = dynamic_cast<ResNet*>(&encoder);
  if (resnet && resnet->options().stem == Stem::padded) metadata[kStem] = "padded";
  const std::string head = head_name(encoder);
  if (head_weight.defined()) weights.push_back({head + ".weight", head_weight});
  if (head_bias.defined()) weights.push_back({head + ".bias", head_bias});
  for (NamedTensor& weight : weights) weight.value = weight.value.to(Device{});
  save_safetensors(path, to_file_layout(weights), std::move(metadata));
}

std::vector<NamedWeight> named_weights(Module& module) {
  std::vector<NamedWeight> weights;
  for (const NamedParameter& p : parameters(module)) weights.push_back({p.name, p.value.value()});
  return weights;
}

std::vector<double> even_thresholds(int64_t steps) {
  std::vector<double> list;
  for (int64_t i = 0; i <= steps; ++i)
    list.push_back(static_cast<double>(i) / static_cast<double>(steps));
  return list;
}

Json describe_layers(const ModelDiversity& diversity) {
  Json list = Json::array();
  for (const LayerDiversity& layer : diversity.layers) {
    list.push_back({{"name", layer.name},
                    {"n", layer.n},
                    {"d", layer.d},
                    {"D_C", layer.clustering},
                    {"D_S", layer.spectral}});
    if (!layer.remaining.empty()) list.back()["C_tau"] = layer.remaining;
  }
  return list;
}

}  // namespace facet
