#include "apps/weights.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

#include "apps/log.h"
#include "tensor/ops.h"
#include "tensor/parallel.h"
#include "tensor/text.h"

namespace facet {
namespace {

using Names = std::vector<std::string_view>;
using Weights = std::map<std::string, const StoredTensor*>;

// One layout of checkpoints. The state dict lies under one of `tops`; the names of the backbone
// begin with one of `inner`, after "module." (data parallel) and "_orig_mod." (compiled); what else
// there is are heads, momentum encoders and queues.
struct Layout {
  const char* name;
  Names tops, inner;
  Names marks = {};  // beginnings of names, one of which must be there; "@": of a metadata key
  Names drops = {};  // beginnings of names behind `inner` that are no part of the backbone
  Names absent = {};
  enum class Network : uint8_t { any, resnet, vit } network = Network::any;
};

// The first that fits is taken, so the special ones stand before the general ones.
const std::vector<Layout>& layouts() {
  using Network = Layout::Network;
  // Where training scripts put a state dict; averaged weights first, as timm chooses.
  static const Names plain = {"state_dict_ema", "model_ema",        "state_dict",
                              "model",          "model_state_dict", ""};
  static const Names heads = {"projection_head.", "prototypes.", "projector.", "predictor."};
  static const std::vector<Layout> table = {
      // facet's own runs and checkpoints
      {"facet", {"", "model"}, {"", "encoder.", "teacher."}, {"@facet."}},
      // MoCo v1 and v2: the query encoder; its fc is the projection
      {"moco", {"state_dict", ""}, {"encoder_q."}, {}, {"fc."}},
      {"moco-v3", {"state_dict", ""}, {"base_encoder."}, {}, {"fc.", "head."}},
      // Islam et al. 2021 (Lightning): children of a Sequential; the same again under moco.
      {"islam", {"state_dict"}, {"feature."}},
      {"vissl", {"classy_state_dict.base_model.model.trunk"}, {"_feature_blocks."}},
      // a full checkpoint of DINO
      {"dino", {"teacher"}, {"backbone."}, {}, {"head.", "fc."}},
      {"supcon", {"model"}, {"encoder."}},
      // older solo-learn says encoder instead of backbone
      {"solo-learn",
       {"state_dict"},
       {"backbone.", "encoder."},
       {"classifier.", "projector.", "momentum_backbone.", "momentum_encoder."},
       {"fc."}},
      {"lightly", {"state_dict", ""}, {"backbone."}, {}, {"fc."}},
      {"mae",
       {"model", ""},
       {""},
       {"decoder_embed.", "mask_token", "fc_norm."},
       {"mask_token", "decoder_"}},
      {"mae", {"model"}, {""}, {}, {}, {"head.", "heads."}, Network::vit},
      {"swav", {"", "state_dict"}, {""}, {"prototypes.", "projection_head."}, heads},
      // SimCLR's TensorFlow weights after the converter that leaves the classifier's bias out
      {"simclr-tf", {"state_dict"}, {""}, {"fc.weight"}, heads, {"fc.bias"}, Network::resnet},
      // DINO's backbones alone are as timm's, without a classifier
      {"dino", {""}, {""}, {}, {}, {"head.", "heads."}, Network::vit},
      {"timm", plain, {""}, {}, heads, {}, Network::vit},
      {"torchvision", plain, {""}, {}, heads, {}, Network::resnet},
  };
  return table;
}

bool begins_with_any(std::string_view name, const Names& beginnings) {
  return std::ranges::any_of(beginnings, [&](const auto b) { return name.starts_with(b); });
}

std::string_view without_wrappers(std::string_view name) {
  for (bool again = true; again;) {
    again = false;
    for (const std::string_view wrapper : {"module.", "_orig_mod."})
      if (name.starts_with(wrapper)) {
        name.remove_prefix(wrapper.size());
        again = true;
      }
  }
  return name;
}

// ---- names of the same networks elsewhere

using Renames = std::vector<std::pair<std::string_view, std::string_view>>;

// torchvision's ViT to timm's. "N." stands for the number of a block and its dot.
const Renames kTorchvisionVit = {
    {"class_token", "cls_token"},
    {"conv_proj.", "patch_embed.proj."},
    {"encoder.pos_embedding", "pos_embed"},
    {"encoder.ln.", "norm."},
    {"heads.head.", "head."},
    {"heads.", "head."},
    {"ln_1.", "norm1."},
    {"ln_2.", "norm2."},
    {"self_attention.in_proj_", "attn.qkv."},
    {"self_attention.out_proj.", "attn.proj."},
    {"mlp.linear_1.", "mlp.fc1."},
    {"mlp.linear_2.", "mlp.fc2."},
    {"mlp.0.", "mlp.fc1."},
    {"mlp.3.", "mlp.fc2."},
};
// A ResNet whose children became an nn.Sequential.
const Renames kSequential = {{"0.", "conv1."},  {"1.", "bn1."},    {"4.", "layer1."},
                             {"5.", "layer2."}, {"6.", "layer3."}, {"7.", "layer4."}};

std::string replaced_start(std::string_view name, const Renames& renames) {
  for (const auto& [from, to] : renames)
    if (name.starts_with(from)) return std::string(to) + std::string(name.substr(from.size()));
  return std::string(name);
}

std::string from_torchvision_vit(std::string_view name) {
  constexpr std::string_view kBlock = "encoder.layers.encoder_layer_";
  if (!name.starts_with(kBlock)) return replaced_start(name, kTorchvisionVit);
  name.remove_prefix(kBlock.size());
  const size_t dot = std::min(name.find('.'), name.size() - 1) + 1;
  return fmt::format("blocks.{}{}", name.substr(0, dot),
                     replaced_start(name.substr(dot), kTorchvisionVit));
}

void rename_all(Weights& weights) {
  const auto apply = [&](const auto& rename) {
    Weights renamed;
    for (const auto& [name, tensor] : weights) renamed.emplace(rename(name), tensor);
    weights = std::move(renamed);
  };
  if (weights.contains("conv_proj.weight"))
    apply(from_torchvision_vit);
  else if (weights.contains("0.weight") && weights.contains("4.0.conv1.weight"))
    apply([](const std::string& name) { return replaced_start(name, kSequential); });
  else if (weights.contains("layer2.0.shortcut.0.weight"))  // SupCon's networks for small images
    apply([](const std::string& name) {
      const size_t at = name.find(".shortcut.");
      return at == std::string::npos ? name
                                     : name.substr(0, at) + ".downsample." + name.substr(at + 10);
    });
}

// ---- fitting a layout

Layout::Network network_in(const Weights& weights) {
  const auto is_convolution = [&](const char* name) {
    const auto found = weights.find(name);
    return found != weights.end() && found->second->shape.size() == 4;
  };
  if (is_convolution("conv1.weight")) return Layout::Network::resnet;
  return is_convolution("patch_embed.proj.weight") ? Layout::Network::vit : Layout::Network::any;
}

// The backbone under this top and inner name; nothing where there is none.
Weights backbone_under(const StoredContent& content, const Layout& layout, std::string_view top,
                       std::string_view inner, std::vector<std::string>& dropped) {
  Weights weights;
  bool is_marked = layout.marks.empty();
  for (const std::string_view mark : layout.marks)
    if (mark.starts_with('@'))
      for (const auto& [key, value] : content.metadata)
        is_marked = is_marked || key.starts_with(mark.substr(1));
  for (const StoredTensor& tensor : content.tensors) {
    std::string_view name = tensor.name;
    if (!top.empty()) {
      if (!name.starts_with(top) || name.size() <= top.size() || name[top.size()] != '.') continue;
      name.remove_prefix(top.size() + 1);
    }
    name = without_wrappers(name);
    is_marked = is_marked || begins_with_any(name, layout.marks);
    if (begins_with_any(name, layout.absent)) return {};
    if (name.starts_with(inner)) {
      name = without_wrappers(name.substr(inner.size()));
      if (!begins_with_any(name, layout.drops)) {
        weights.emplace(name, &tensor);
        continue;
      }
    }
    dropped.push_back(tensor.name);
  }
  if (!is_marked) return {};
  rename_all(weights);
  return weights;
}

// What stands before the names of a network where no layout of the table says it.
std::vector<std::string_view> backbone_prefixes(const StoredContent& content) {
  std::set<std::string_view> names, prefixes;
  for (const StoredTensor& tensor : content.tensors) names.insert(tensor.name);
  for (const std::string_view name : names)
    for (const auto& [first, second] :
         {std::pair<std::string_view, std::string_view>{"conv1.weight", "layer1.0.conv1.weight"},
          {"patch_embed.proj.weight", "blocks.0.norm1.weight"}})
      if (name.ends_with(first)) {
        const std::string_view prefix = name.substr(0, name.size() - first.size());
        if (names.contains(std::string(prefix) + std::string(second)))
          prefixes.insert(without_wrappers(prefix));
      }
  return {prefixes.begin(), prefixes.end()};
}

std::vector<int64_t> file_shape(const Shape& shape) {
  if (shape.rank() != 4) return {shape.begin(), shape.end()};
  return {shape[0], shape[3], shape[1], shape[2]};
}

// A file may name a network far larger than itself: nothing is made for it before what it holds
// shows that it could be one.
void check_size(const std::string& file, const MappedWeights& mapped) {
  constexpr double kResNet50 = 25.6e6 * sizeof(float), kSlack = 512 << 20;
  double held = 0, needed = 0;
  for (const auto& [name, tensor] : mapped.weights) {
    if (tensor->numel() == 0) throw FileError("{}: tensor '{}' is empty", file, tensor->name);
    held += static_cast<double>(tensor->bytes());
  }
  if (const auto* const vit = std::get_if<VitOptions>(&mapped.architecture)) {
    const auto width = static_cast<double>(vit->width), grid = std::sqrt(held);
    const auto side = static_cast<double>(vit->image_size / vit->patch);
    needed = 12 * width * width * static_cast<double>(vit->depth) * sizeof(float) +
             (side > grid ? INFINITY : 0);
  } else {
    const auto width = static_cast<double>(std::get<ResNetOptions>(mapped.architecture).width);
    needed = kResNet50 * (width / 64) * (width / 64);
  }
  if (needed > 4 * held + kSlack)
    throw FileError("{}: a {} of this width needs {:.0f} MB, the file holds {:.0f}", file,
                    mapped.arch, needed / 1e6, held / 1e6);
}

// What the architecture has and the file has not, and the other way round.
void compare(MappedWeights& mapped) {
  const std::unique_ptr<Encoder> encoder = make_encoder(mapped.architecture);
  mapped.head = head_name(*encoder);
  Weights rest = mapped.weights;
  // Besides the encoder's: parts of ViTs with which it would compute something else.
  std::set<std::string> parts = {"dist_token", "reg_token", "register_tokens", "norm_pre"};
  for (const auto& [name, value] : state(*encoder)) {
    parts.insert(name.substr(0, name.find('.')));
    const auto found = rest.find(name);
    if (found == rest.end()) {
      // Old files have no counts of batches; nothing that is computed depends on them.
      if (!name.ends_with(".num_batches_tracked")) mapped.missing.push_back(name);
      continue;
    }
    const std::vector<int64_t> expected = file_shape(value.shape());
    if (found->second->shape != expected)
      mapped.mismatched.push_back(fmt::format("{} (expected ({}), got ({}))", name,
                                              fmt::join(expected, ", "),
                                              fmt::join(found->second->shape, ", ")));
    rest.erase(found);
  }
  const auto weight = rest.find(mapped.head + ".weight");
  if (weight != rest.end() && weight->second->shape.size() == 2 &&
      weight->second->shape[1] == encoder->feature_dim()) {
    mapped.has_head = true;
    rest.erase(weight);
    rest.erase(mapped.head + ".bias");
  }
  for (const auto& [name, tensor] : rest) {
    mapped.weights.erase(name);
    mapped.unexpected.push_back(name);
    mapped.unfit = mapped.unfit || parts.contains(name.substr(0, name.find('.')));
  }
  mapped.unfit = mapped.unfit || !mapped.missing.empty() || !mapped.mismatched.empty();
}

}  // namespace

std::string MappedWeights::problems() const {
  std::string text;
  const auto list = [&](const char* kind, const std::vector<std::string>& names) {
    if (names.empty()) return;
    text +=
        fmt::format("{}{} {}: {}", text.empty() ? "" : "; ", names.size(), kind, some_of(names, 5));
  };
  list("missing", missing);
  list("mismatched", mismatched);
  list("unexpected", unexpected);
  return text;
}

void MappedWeights::expect_fit(const std::string& file) const {
  if (unfit) throw FileError("{}: no {} (read as {}): {}", file, arch, mapping, problems());
}

MappedWeights map_weights(const WeightsFile& file, const std::string& arch) {
  const StoredContent& content = file.content();
  const std::string path = file.path().string();
  const auto fit = [&](const Layout& layout, std::string_view top,
                       std::string_view inner) -> std::optional<MappedWeights> {
    MappedWeights mapped;
    mapped.weights = backbone_under(content, layout, top, inner, mapped.dropped);
    const Layout::Network network = network_in(mapped.weights);
    if (network == Layout::Network::any) return {};
    if (layout.network != Layout::Network::any && layout.network != network) return {};
    mapped.mapping = layout.name;
    std::map<std::string, std::vector<int64_t>> shapes;
    for (const auto& [name, tensor] : mapped.weights) shapes[name] = tensor->shape;
    mapped.architecture = architecture_of(shapes, content.metadata, path, arch);
    auto* const resnet = std::get_if<ResNetOptions>(&mapped.architecture);
    if (mapped.mapping == "solo-learn" && resnet && resnet->stem == Stem::small)
      resnet->stem = Stem::padded;
    mapped.arch = std::visit([](const auto& o) { return o.arch; }, mapped.architecture);
    check_size(path, mapped);
    compare(mapped);
    return mapped;
  };
  for (const Layout& layout : layouts())
    for (const std::string_view top : layout.tops)
      for (const std::string_view inner : layout.inner)
        if (auto mapped = fit(layout, top, inner)) return std::move(*mapped);
  const std::vector<std::string_view> prefixes = backbone_prefixes(content);
  if (prefixes.size() > 1)
    throw FileError("{}: several networks, under '{}': expected one", path,
                    fmt::join(prefixes, "', '"));
  if (prefixes.size() == 1)
    if (auto mapped = fit({"prefix", {""}, prefixes}, "", prefixes[0])) return std::move(*mapped);
  std::string names;
  for (const Layout& layout : layouts())
    if (names.find(layout.name) == std::string::npos)
      names += (names.empty() ? "" : ", ") + std::string(layout.name);
  const auto& tensors = content.tensors;
  throw FileError(
      "{}: neither ResNet nor ViT: expected a tensor conv1.weight or patch_embed.proj.weight in a "
      "layout of {}; got {} tensors{}",
      path, names, tensors.size(),
      tensors.empty() ? "" : fmt::format(", the first '{}'", tensors.front().name));
}

std::vector<NamedTensor> load_mapped(const WeightsFile& file, const MappedWeights& mapped) {
  mapped.expect_fit(file.path().string());
  if (!mapped.unexpected.empty()) log_info("{}: {}", file.path().string(), mapped.problems());
  std::vector<NamedTensor> loaded;
  for (const auto& [name, tensor] : mapped.weights) loaded.push_back({name, {}});
  parallel_for(std::ssize(loaded), 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      NamedTensor& target = loaded[static_cast<size_t>(i)];
      const Tensor tensor = file.load(*mapped.weights.at(target.name));
      target.value = tensor.rank() == 4 ? ops::permute(tensor, {0, 2, 3, 1}) : tensor;
    }
  });
  return loaded;
}

}  // namespace facet
