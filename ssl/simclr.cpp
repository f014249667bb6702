#include "ssl/simclr.h"

#include <cmath>

namespace facet {

Variable nt_xent(const Variable& h, double temperature) {
  FACET_CHECK(h.value().rank() == 2 && h.dim(0) >= 4 && h.dim(0) % 2 == 0, "nt_xent",
              "expected (2N, D) with N >= 2, got {}", h.shape());
  FACET_CHECK(temperature > 0, "nt_xent", "expected a positive temperature, got {}", temperature);
  const int64_t rows = h.dim(0), n = rows / 2;
  std::vector<int64_t> positive(static_cast<size_t>(rows));
  for (int64_t i = 0; i < rows; ++i) positive[static_cast<size_t>(i)] = (i + n) % rows;
  // An anchor is no candidate of its own: the official code subtracts 1e9 there.
  std::vector<double> self(static_cast<size_t>(rows * rows), 0.0);
  for (int64_t i = 0; i < rows; ++i) self[static_cast<size_t>(i * rows + i)] = -1e9;
  const Variable z = l2_normalize(h);
  const Variable similarity = matmul(affine(1.0 / temperature, z), z, false, true);
  const Tensor mask = Tensor::from(self, {rows, rows}).cast(h.dtype()).to(h.device());
  return cross_entropy(add(similarity, Variable(mask)),
                       Tensor::from(positive, {rows}).to(h.device()));
}

Simclr::Simclr(std::unique_ptr<Encoder> encoder, const SimclrOptions& options)
    : options_(options),
      encoder_(std::move(encoder)),
      head_({.in = encoder_->feature_dim(),
             .hidden = encoder_->feature_dim(),
             .out = options.projection_dim,
             .num_layers = options.projection_layers,
             .batch_norm = options.projection_norm}) {}

Variable Simclr::loss(const Batch& batch, int64_t) {
  FACET_CHECK(batch.views.size() == 2, "simclr", "expected two views a sample, got {}",
              batch.views.size());
  const Variable images(ops::concat(batch.views));
  const Variable h = head_(encoder_->features(images));
  last_embeddings_ = h.value();
  const Variable loss = nt_xent(h, options_.temperature);
  return options_.official_scale ? affine(2.0, loss) : loss;
}

double Simclr::collapse_loss(int64_t batch_size) const {
  return std::log(2.0 * static_cast<double>(batch_size) - 1.0) *
         (options_.official_scale ? 2.0 : 1.0);
}

std::vector<NamedMetric> Simclr::metrics() const {
  return last_embeddings_.defined() ? embedding_spread(last_embeddings_)
                                    : std::vector<NamedMetric>{};
}

void Simclr::visit(ModuleVisitor& v) {
  v("encoder", *encoder_);
  v("head", head_);
}

}  // namespace facet
