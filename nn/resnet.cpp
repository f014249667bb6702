#include "nn/resnet.h"

#include "tensor/text.h"

namespace facet {

// Two 3x3 convolutions (basic) or 1x1, 3x3, 1x1 (bottleneck), around which the input is added.
class ResidualBlock final : public Module {
 public:
  ResidualBlock(int64_t in, int64_t planes, int stride, bool bottleneck) {
    const int64_t out = bottleneck ? planes * 4 : planes;
    const ConvArgs strided{.stride = stride, .padding = 1}, same{.stride = 1, .padding = 1};
    const auto add = [&](int64_t from, int64_t to, int kernel, const ConvArgs& args) {
      conv_.push_back(std::make_unique<Conv2d>(from, to, kernel, args));
      // Every norm is followed by a ReLU; the last one by the addition first.
      norm_.push_back(std::make_unique<BatchNorm>(to, true));
    };
    if (bottleneck) {
      add(in, planes, 1, {});
      add(planes, planes, 3, strided);
      add(planes, out, 1, {});
    } else {
      add(in, planes, 3, strided);
      add(planes, planes, 3, same);
    }
    if (stride != 1 || in != out) {
      shortcut_conv_ = std::make_unique<Conv2d>(in, out, 1, ConvArgs{.stride = stride});
      shortcut_norm_ = std::make_unique<BatchNorm>(out, false);
    }
  }

  Variable operator()(const Variable& x) {
    const Variable shortcut = shortcut_conv_ ? conv_norm(*shortcut_conv_, *shortcut_norm_, x) : x;
    Variable y = x;
    for (size_t i = 0; i + 1 < conv_.size(); ++i) y = conv_norm(*conv_[i], *norm_[i], y);
    return conv_norm(*conv_.back(), *norm_.back(), y, shortcut);
  }

  BatchNorm& last_norm() { return *norm_.back(); }

  void visit(ModuleVisitor& v) override {
    for (size_t i = 0; i < conv_.size(); ++i) {
      v("conv" + std::to_string(i + 1), *conv_[i]);
      v("bn" + std::to_string(i + 1), *norm_[i]);
    }
    if (shortcut_conv_) {
      v("downsample.0", *shortcut_conv_);
      v("downsample.1", *shortcut_norm_);
    }
  }

 private:
  std::vector<std::unique_ptr<Conv2d>> conv_;
  std::vector<std::unique_ptr<BatchNorm>> norm_;
  std::unique_ptr<Conv2d> shortcut_conv_;
  std::unique_ptr<BatchNorm> shortcut_norm_;
};

namespace {

struct Plan {
  const char* name;
  bool bottleneck;
  int blocks[4];
};
constexpr Plan kPlans[] = {{"resnet18", false, {2, 2, 2, 2}},
                           {"resnet34", false, {3, 4, 6, 3}},
                           {"resnet50", true, {3, 4, 6, 3}}};

const Plan& plan_of(const std::string& arch) {
  for (const Plan& plan : kPlans)
    if (arch == plan.name) return plan;
  throw UsageError("unknown architecture '{}': expected resnet18, resnet34 or resnet50", arch);
}

}  // namespace

const std::vector<std::string>& resnet_names() {
  static const std::vector<std::string> names = names_of(kPlans);
  return names;
}

ResNet::ResNet(const ResNetOptions& options)
    : options_(options),
      feature_dim_(options.width * 8 * (plan_of(options.arch).bottleneck ? 4 : 1)),
      conv1_(options.channels, options.width, options.stem == Stem::imagenet ? 7 : 3,
             options.stem == Stem::imagenet
                 ? ConvArgs{.stride = 2, .padding = 3}
                 : ConvArgs{.padding = options.stem == Stem::padded ? 2 : 1}),
      bn1_(options.width, true) {
  const Plan& plan = plan_of(options.arch);
  int64_t in = options.width;
  for (int stage = 0; stage < 4; ++stage) {
    const int64_t planes = options.width << stage;
    layers_.emplace_back();
    for (int block = 0; block < plan.blocks[stage]; ++block) {
      const int stride = stage > 0 && block == 0 ? 2 : 1;
      layers_.back().push_back(
          std::make_unique<ResidualBlock>(in, planes, stride, plan.bottleneck));
      in = plan.bottleneck ? planes * 4 : planes;
    }
  }
  if (options.num_classes > 0) fc_ = std::make_unique<Linear>(feature_dim_, options.num_classes);
}

ResNet::~ResNet() = default;

Variable ResNet::stem(const Variable& x) {
  const Variable y = conv_norm(conv1_, bn1_, x);
  return options_.stem == Stem::imagenet ? max_pool2d(y, {.kernel = 3, .stride = 2, .padding = 1})
                                         : y;
}

VariableList ResNet::stages(const Variable& x) {
  VariableList outputs;
  Variable y = stem(x);
  for (auto& layer : layers_) {
    for (auto& block : layer) y = (*block)(y);
    outputs.push_back(y);
  }
  return outputs;
}

VariableList ResNet::blocks(const Variable& x) {
  VariableList outputs;
  Variable y = stem(x);
  for (auto& layer : layers_)
    for (auto& block : layer) outputs.push_back(y = (*block)(y));
  return outputs;
}

Variable ResNet::features(const Variable& x) {
  Variable y = stem(x);
  for (auto& layer : layers_)
    for (auto& block : layer) y = (*block)(y);
  return global_avg_pool(y);
}

Variable ResNet::logits(const Variable& x) {
  FACET_CHECK(fc_, "ResNet", "{} was built without classes", options_.arch);
  return (*fc_)(features(x));
}

void ResNet::initialize(uint64_t) {
  if (!options_.zero_init_residual) return;
  for (auto& layer : layers_)
    for (auto& block : layer) block->last_norm().weight.value().zero_();
}

void ResNet::visit(ModuleVisitor& v) {
  v("conv1", conv1_);
  v("bn1", bn1_);
  for (size_t stage = 0; stage < layers_.size(); ++stage)
    for (size_t block = 0; block < layers_[stage].size(); ++block)
      v(fmt::format("layer{}.{}", stage + 1, block), *layers_[stage][block]);
  if (fc_) v("fc", *fc_);
}

}  // namespace facet
