// Networks from options, from run folders and from files of weights.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <variant>

#include "apps/machine.h"
#include "apps/options.h"
#include "metrics/diversity.h"
#include "nn/resnet.h"
#include "nn/vit.h"
#include "tensor/serialize.h"

namespace facet {

// Pixels a side of pictures that have no room for large steps, blurs and margins.
inline constexpr int64_t kSmallImage = 64;

using Architecture = std::variant<ResNetOptions, VitOptions>;
std::unique_ptr<Encoder> make_encoder(const Architecture& architecture);
int attention_heads(const Encoder& encoder);  // 0 for a ResNet
// What torchvision and timm call the classifier of such a network: "fc" or "head".
std::string head_name(const Encoder& encoder);

struct NetworkOptions {
  std::string arch = "resnet18";
  std::string stem = "auto";  // small, padded, imagenet; auto: small for images of up to 64 pixels
  int64_t width = 0;          // 0: the architecture's
  int64_t image_size = 28;
  int64_t patch_size = 0;        // of a ViT; 0: 4 for images of up to 64 pixels, else 16
  int64_t depth = 0, heads = 0;  // of a ViT; 0: the architecture's
  double drop_path = 0.0;
  std::string init = "normal";  // or xavier
  bool zero_init_residual = false;

  void add_to(Options& options);
  Architecture resolve() const;
  bool is_vit() const { return arch.starts_with("vit"); }
  int64_t patch() const;  // 1 for a ResNet
};

// A trained network as `facet` hands it on: weights under torchvision's or timm's names, with a
// classifier ("fc", a ViT's "head") where it has one, and what is needed to show it images.
struct TrainedNetwork {
  Architecture architecture;  // without classes: the encoder alone
  std::unique_ptr<Encoder> encoder;
  Tensor head_weight, head_bias;  // undefined without a classifier
  // "facet.image_size", "facet.data", "facet.method" (a file of others: its layout), "facet.start"
  // (the method before labels were injected) ...
  Metadata metadata;
  std::string name;

  int heads() const { return attention_heads(*encoder); }
};

// From a run folder (its model.safetensors) or any file of weights that apps/weights.h knows:
// PyTorch checkpoints, safetensors, .npz. The architecture is read off the names and shapes of the
// weights, but for the heads of a ViT: "facet.heads" of the metadata or, without it, width / 64.
// `arch` other than "auto" is what is expected.
TrainedNetwork load_network(const std::filesystem::path& path, Device device = {},
                            const std::string& arch = "auto");
void save_network(const std::filesystem::path& path, Encoder& encoder, const Tensor& head_weight,
                  const Tensor& head_bias, Metadata metadata);
// Shapes as files have them, (Cout, Cin, kh, kw), under torchvision's or timm's names.
Architecture architecture_of(const std::map<std::string, std::vector<int64_t>>& shapes,
                             const Metadata& metadata, const std::string& file,
                             const std::string& arch = "auto");
std::vector<std::string> architecture_names();

std::vector<NamedWeight> named_weights(Module& module);

// Thresholds tau of a diversity: 0, 1/steps ... 1.
std::vector<double> even_thresholds(int64_t steps);
// [{name, n, d, D_C, D_S, C_tau}], C_tau where there were thresholds.
Json describe_layers(const ModelDiversity& diversity);

}  // namespace facet
