#include "ssl/simclr.h"

#include <cmath>

namespace facet {

Simclr::Simclr(std::unique_ptr<Encoder> encoder, const SimclrOptions& options)
    : options_(options),
      encoder_(std::move(encoder)),
      head_({.in = encoder_->feature_dim(), .out = options.projection_dim}) {}

Variable Simclr::loss(const Batch& batch, int64_t) {
  FACET_CHECK(batch.views.size() == 2, "simclr", "expected two views a sample, got {}",
              batch.views.size());
  const Variable images(ops::concat(batch.views));
  const Variable h = head_(encoder_->features(images));
  last_embeddings_ = h.value();
  return nt_xent(h, options_.temperature, *comm_);
}

double Simclr::collapse_loss(int64_t batch_size) const {
  return std::log(2.0 * static_cast<double>(batch_size) - 1.0);
}

void Simclr::visit(ModuleVisitor& v) {
  v("encoder", *encoder_);
  v("head", head_);
}

}  // namespace facet
