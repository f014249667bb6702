#include "nn/heads.h"

namespace facet {

ProjectionHead::ProjectionHead(const ProjectionOptions& o) {
  FACET_CHECK(o.num_layers >= 1, "ProjectionHead", "expected at least one layer, got {}",
              o.num_layers);
  for (int i = 0; i < o.num_layers; ++i) {
    const bool last = i + 1 == o.num_layers;
    linear_.push_back(
        std::make_unique<Linear>(i == 0 ? o.in : o.hidden, last ? o.out : o.hidden, !o.batch_norm));
    if (o.batch_norm)
      norm_.push_back(std::make_unique<BatchNorm>(last ? o.out : o.hidden, !last, !last));
  }
}

Variable ProjectionHead::operator()(const Variable& x) {
  Variable y = x;
  for (size_t i = 0; i < linear_.size(); ++i) {
    y = (*linear_[i])(y);
    if (!norm_.empty())
      y = (*norm_[i])(y);
    else if (i + 1 < linear_.size())
      y = relu(y);
  }
  return y;
}

void ProjectionHead::visit(ModuleVisitor& v) {
  for (size_t i = 0; i < linear_.size(); ++i) {
    v("layer" + std::to_string(i), *linear_[i]);
    if (!norm_.empty()) v("bn" + std::to_string(i), *norm_[i]);
  }
}

}  // namespace facet
