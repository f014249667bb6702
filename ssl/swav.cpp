#include "ssl/swav.h"

#include <cmath>

namespace facet {

// diag(u) exp(scores / epsilon) diag(v) with the scales u of samples and v of prototypes: the
// matrix itself is written once before and once after the iterations.
Tensor sinkhorn(const Tensor& scores, double epsilon, int iterations, Comm& comm) {
  FACET_CHECK(scores.rank() == 2 && scores.numel() > 0, "sinkhorn",
              "expected scores (samples, prototypes), got {}", scores.shape());
  FACET_CHECK(epsilon > 0 && iterations >= 1, "sinkhorn",
              "expected a positive epsilon and iterations, got {} and {}", epsilon, iterations);
  const int64_t samples = scores.dim(0), prototypes = scores.dim(1);
  const auto all = static_cast<double>(samples * comm.size());
  const Tensor largest =
      ops::reduce(ReduceOp::max, comm.all_gather(ops::reduce(ReduceOp::max, scores).reshape({1})));
  const Tensor e = ops::exp(ops::affine(1.0 / epsilon, ops::sub(scores, largest), 0.0));
  const auto inverse = [](const Tensor& sums, double factor) {
    return ops::reciprocal(ops::affine(factor, sums, 0.0));
  };
  Tensor u = Tensor::full({samples, 1}, 1.0, scores.dtype(), scores.device()), v;
  for (int i = 0; i < iterations; ++i) {
    Tensor mass = ops::matmul(e, u, true, false);  // (K, 1)
    comm.all_reduce(mass);
    v = inverse(mass, static_cast<double>(prototypes));
    u = inverse(ops::matmul(e, v), all);
  }
  return ops::mul(ops::mul(e, ops::affine(all, u, 0.0)), v.reshape({1, prototypes}));
}

Swav::Swav(std::unique_ptr<Encoder> encoder, const SwavOptions& options)
    : options_(options),
      encoder_(std::move(encoder)),
      head_({.in = encoder_->feature_dim(),
             .out = options.projection_dim,
             .form = ProjectionForm::hidden_norm}),
      prototypes_(Tensor::zeros({options.prototypes, options.projection_dim}), true),
      queue_rows_(Tensor::zeros({}, DType::i64)) {
  if (options.prototypes < 2 || options.queue < 0)
    throw UsageError("SwAV: expected at least two prototypes and no negative queue, got {} and {}",
                     options.prototypes, options.queue);
  if (options.queue > 0) queue_ = Tensor::zeros({kAssigned, options.queue, options.projection_dim});
}

void Swav::begin(uint64_t) {
  prototypes_.value().copy_(ops::l2_normalize(prototypes_.value()).y);
  queue_rows_.zero_();
  if (queue_.defined()) queue_.zero_();
}

void Swav::check_batch(int64_t batch_size) const {
  if (options_.queue % batch_size != 0)
    throw UsageError("--queue: expected a multiple of the batch size, got {} with batches of {}",
                     options_.queue, batch_size);
}

Variable Swav::loss(const Batch& batch, int64_t step) {
  const size_t crops = batch.views.size();
  FACET_CHECK(crops >= 2, "swav", "expected two crops or more a sample, got {}", crops);
  const Variable h = head_(crop_features(*encoder_, batch.views));
  last_embeddings_ = h.value();
  const Variable z = l2_normalize(cast(h, acc_dtype(h.dtype())));
  prototypes_.value().copy_(ops::l2_normalize(prototypes_.value()).y);
  const Variable scores = linear(z, prototypes_, {});

  const int64_t samples = batch.views[0].dim(0);
  TensorList assignments;
  for (int64_t i = 0; i < kAssigned; ++i) {
    Tensor own = scores.value().narrow(i * samples, samples);
    newest_[static_cast<size_t>(i)] = z.value().narrow(i * samples, samples);
    if (!uses_queue(step)) {
      assignments.push_back(sinkhorn(own, options_.epsilon, options_.iterations, *comm_));
      continue;
    }
    // Every rank has the whole queue and brings its share of it.
    const int64_t share = options_.queue / comm_->size();
    const Tensor rows = queue_.narrow(i, 1).reshape({options_.queue, queue_.dim(2)});
    const Tensor earlier =
        ops::matmul(rows.narrow(comm_->rank() * share, share), prototypes_.value(), false, true);
    const Tensor all = ops::concat(TensorList{earlier, own});
    assignments.push_back(
        sinkhorn(all, options_.epsilon, options_.iterations, *comm_).narrow(share, samples));
  }
  return swapped_prediction(scores, assignments, options_.temperature);
}

bool Swav::uses_queue(int64_t step) const {
  return queue_.defined() && step >= options_.queue_from &&
         *queue_rows_.data<int64_t>() == options_.queue;
}

void Swav::update(Optimizer& optimizer, double lr, int64_t step, double clip) {
  if (step < options_.freeze_steps) prototypes_.clear_grad();  // no step, no decay, no momentum
  Objective::update(optimizer, lr, step, clip);
}

// Newest embeddings first; the oldest fall off.
void Swav::after_step(int64_t step) {
  if (!queue_.defined() || step < options_.queue_from) return;
  const int64_t n = newest_[0].dim(0) * comm_->size(), rest = options_.queue - n;
  for (int64_t i = 0; i < kAssigned; ++i) {
    Tensor rows = queue_.narrow(i, 1).reshape({options_.queue, queue_.dim(2)});
    const Tensor kept = rows.narrow(0, rest).clone();
    rows.narrow(0, n).copy_(comm_->all_gather(newest_[static_cast<size_t>(i)]).cast(rows.dtype()));
    if (rest > 0) rows.narrow(n, rest).copy_(kept);
  }
  int64_t& filled = *queue_rows_.data<int64_t>();
  filled = std::min(options_.queue, filled + n);
}

double Swav::collapse_loss(int64_t) const {
  return std::log(static_cast<double>(options_.prototypes));
}

void Swav::visit(ModuleVisitor& v) {
  v("encoder", *encoder_);
  v("head", head_);
  v("prototypes.weight", prototypes_);
  v("queue", queue_);
  v("queue_rows", queue_rows_);
}

}  // namespace facet
