#include "nn/heads.h"

namespace facet {

ProjectionHead::ProjectionHead(const ProjectionOptions& o) {
  FACET_CHECK(o.num_layers >= 1, "ProjectionHead", "expected at least one layer, got {}",
              o.num_layers);
  for (int i = 0; i < o.num_layers; ++i) {
    const bool last = i + 1 == o.num_layers;
    const bool norms = o.form == ProjectionForm::norms;
    linear_.push_back(
        std::make_unique<Linear>(i == 0 ? o.in : o.hidden, last ? o.out : o.hidden, !norms));
    if (norms || (o.form == ProjectionForm::hidden_norm && !last))
      norm_.push_back(std::make_unique<BatchNorm>(last ? o.out : o.hidden, !last, !last));
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

}  // namespace facet
