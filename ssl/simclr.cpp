#include "ssl/simclr.h"

#include <cmath>

namespace facet {

Variable nt_xent(const Variable& h, double temperature) {
  FACET_CHECK(h.value().rank() == 2 && h.dim(0) >= 4 && h.dim(0) % 2 == 0, "nt_xent",
              "expected (2N, D) with N >= 2, got {}", h.shape());
  FACET_CHECK(temperature > 0, "nt_xent", "expected a positive temperature, got {}", temperature);
  const int64_t rows = h.dim(0), n = rows / 2;
  std::vector<int64_t> partner(static_cast<size_t>(rows));
  for (int64_t i = 0; i < rows; ++i) partner[static_cast<size_t>(i)] = (i + n) % rows;
  const Tensor positive = Tensor::from(partner, {rows}).to(h.device());
  const ops::Normalized unit = ops::l2_normalize(h.value().cast(acc_dtype(h.dtype())));
  const Tensor& z = unit.y;
  // An anchor is no candidate of its own: the official code subtracts 1e9 there. The diagonal of
  // a square matrix is every (rows + 1)-th element.
  std::vector<double> row(static_cast<size_t>(rows + 1), 0.0);
  row[0] = -1e9;
  const Tensor first_masked = Tensor::from(row, {rows + 1}).cast(z.dtype()).to(h.device());
  Tensor logits = ops::broadcast_to(first_masked, {rows, rows + 1})
                      .flatten()
                      .narrow(0, rows * rows)
                      .reshape({rows, rows});
  const double scale = 1.0 / temperature;
  ops::matmul_into(z, z, {.trans_b = true, .alpha = scale, .beta = 1.0}, logits);
  const auto [loss, lse] = ops::cross_entropy(logits, positive);
  return Variable::result(
      "nt_xent", ops::reduce(ReduceOp::mean, loss), {h},
      [=, lse = lse, type = h.dtype()](const Tensor& dy) -> TensorList {
        const Tensor each =
            ops::broadcast_to(ops::affine(1.0 / static_cast<double>(rows), dy, 0.0), {rows});
        const Tensor dlogits = ops::cross_entropy_backward(logits, positive, 0.0, lse, each);
        // logits = z z^T / T: both factors get their share.
        Tensor dz = Tensor::empty_like(unit.y);
        ops::matmul_into(dlogits, unit.y, {.alpha = scale}, dz);
        ops::matmul_into(dlogits, unit.y, {.trans_a = true, .alpha = scale, .beta = 1.0}, dz);
        return {ops::l2_normalize_backward(unit.y, unit.norm, dz).cast(type)};
      });
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
