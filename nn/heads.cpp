#include "nn/heads.h"

#include "nn/init.h"

namespace facet {

ProjectionHead::ProjectionHead(const ProjectionOptions& o) {
  FACET_CHECK(o.num_layers >= 1, "ProjectionHead", "expected at least one layer, got {}",
              o.num_layers);
  const int64_t hidden = o.hidden > 0 ? o.hidden : o.in;
  for (int i = 0; i < o.num_layers; ++i) {
    const bool last = i + 1 == o.num_layers;
    const bool norms = o.form == ProjectionForm::norms;
    linear_.push_back(
        std::make_unique<Linear>(i == 0 ? o.in : hidden, last ? o.out : hidden, !norms));
    if (norms || (o.form == ProjectionForm::hidden_norm && !last))
      norm_.push_back(std::make_unique<BatchNorm>(last ? o.out : hidden, !last, !last));
  }
}

Variable ProjectionHead::operator()(const Variable& x) {
  Variable y = x;
  for (size_t i = 0; i < linear_.size(); ++i) {
    y = (*linear_[i])(y);
    if (i < norm_.size())
      y = (*norm_[i])(y);
    else if (i + 1 < linear_.size())
      y = relu(y);
  }
  return y;
}

void ProjectionHead::visit(ModuleVisitor& v) {
  for (size_t i = 0; i < linear_.size(); ++i) {
    v("layer" + std::to_string(i), *linear_[i]);
    if (i < norm_.size()) v("bn" + std::to_string(i), *norm_[i]);
  }
}

DinoHead::DinoHead(const DinoHeadOptions& o)
    : options_(o),
      weight_g_(Tensor::full({o.out, 1}, 1.0), !o.norm_last_layer),
      weight_v_(Tensor::zeros({o.out, o.bottleneck}), true) {
  const int64_t widths[] = {o.in, o.hidden, o.hidden, o.bottleneck};
  for (int i = 0; i < 3; ++i) {
    linear_.push_back(std::make_unique<Linear>(widths[i], widths[i + 1]));
    if (o.norms && i < 2) norm_.push_back(std::make_unique<BatchNorm>(widths[i + 1]));
  }
}

Variable DinoHead::operator()(const Variable& x) {
  Variable y = x;
  for (size_t i = 0; i < linear_.size(); ++i) {
    y = (*linear_[i])(y);
    if (i < norm_.size()) y = (*norm_[i])(y);
    if (i + 1 < linear_.size()) y = gelu(y);
  }
  Variable weight = l2_normalize(weight_v_);
  if (!options_.norm_last_layer) weight = weight * weight_g_;
  return linear(l2_normalize(y), as_type_of(y, weight), {});
}

void DinoHead::initialize(uint64_t seed) {
  for (size_t i = 0; i < linear_.size(); ++i)
    initialize_normal(*linear_[i], seed, 0.02, "dino_head." + std::to_string(i));
  weight_g_.value().fill_(1.0);
}

void DinoHead::visit(ModuleVisitor& v) {
  size_t index = 0;  // of the official nn.Sequential
  for (size_t i = 0; i < linear_.size(); ++i) {
    v("mlp." + std::to_string(index++), *linear_[i]);
    if (i < norm_.size()) v("mlp." + std::to_string(index++), *norm_[i]);
    ++index;  // the GELU
  }
  v("last_layer.weight_g", weight_g_);
  v("last_layer.weight_v", weight_v_);
}

}  // namespace facet
