// ResNet-18/34/50 (He et al. 2016) with torchvision's names and its v1.5 bottleneck, whose stride
// is on the 3x3 convolution.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "nn/encoder.h"
#include "nn/layers.h"

namespace facet {

enum class Stem : uint8_t {
  imagenet,  // 7x7 stride 2, batch norm, ReLU, 3x3 max pool stride 2
  small,     // 3x3 stride 1 without pooling, for images of about 32 pixels
  padded,    // as small, but that 2 pixels surround the images: solo-learn's
};

struct ResNetOptions {
  std::string arch = "resnet50";  // resnet18, resnet34 or resnet50
  Stem stem = Stem::imagenet;
  int64_t width = 64;       // channels of the first stage; torchvision's networks have 64
  int64_t num_classes = 0;  // 0: no fc layer
  int64_t channels = 3;
  // Weight 0 for the last norm of every block, so that each starts as its shortcut (Goyal et al.
  // 2017): timm's and SimCLR's start, not torchvision's.
  bool zero_init_residual = false;
};

class ResidualBlock;

class ResNet final : public Encoder {
 public:
  explicit ResNet(const ResNetOptions& options);
  ~ResNet() override;

  Variable features(const Variable& x) override;
  Variable logits(const Variable& x);  // needs num_classes > 0
  // Outputs of the four stages (N, H, W, C), for CKA.
  VariableList stages(const Variable& x) override;
  VariableList blocks(const Variable& x) override;
  int64_t feature_dim() const override { return feature_dim_; }
  const ResNetOptions& options() const { return options_; }
  void initialize(uint64_t seed) override;
  void visit(ModuleVisitor& v) override;

 private:
  Variable stem(const Variable& x);

  ResNetOptions options_;
  int64_t feature_dim_;
  Conv2d conv1_;
  BatchNorm bn1_;
  std::vector<std::vector<std::unique_ptr<ResidualBlock>>> layers_;
  std::unique_ptr<Linear> fc_;
};

// The architectures by name, for option checks and help texts.
const std::vector<std::string>& resnet_names();

}  // namespace facet
