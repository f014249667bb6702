#include "ssl/supcon.h"

#include <cmath>

namespace facet {

Supcon::Supcon(std::unique_ptr<Encoder> encoder, const SupconOptions& options,
               int64_t projection_dim)
    : options_(options),
      encoder_(std::move(encoder)),
      head_({.in = encoder_->feature_dim(), .out = projection_dim, .form = ProjectionForm::plain}) {
}

Variable Supcon::loss(const Batch& batch, int64_t) {
  FACET_CHECK(batch.views.size() == 2, "supcon", "expected two views a sample, got {}",
              batch.views.size());
  const Variable h = head_(encoder_->features(Variable(ops::concat(batch.views))));
  last_embeddings_ = h.value();
  return supcon(h, batch.labels, options_, *comm_);
}

double Supcon::collapse_loss(int64_t batch_size) const {
  return options_.temperature / options_.base_temperature *
         std::log(2.0 * static_cast<double>(batch_size) - 1.0);
}

void Supcon::visit(ModuleVisitor& v) {
  v("encoder", *encoder_);
  v("head", head_);
}

}  // namespace facet
