#include "ssl/moco.h"

#include <cmath>
#include <numeric>

namespace facet {

MomentumContrast::MomentumContrast(std::unique_ptr<Encoder> query, std::unique_ptr<Encoder> key,
                                   const MocoOptions& options)
    : options_(options),
      query_(std::move(query)),
      key_(std::move(key)),
      query_head_({.in = query_->feature_dim(),
                   .out = options.projection_dim,
                   .form = ProjectionForm::plain}),
      key_head_({.in = query_->feature_dim(),
                 .out = options.projection_dim,
                 .form = ProjectionForm::plain}),
      queue_(Tensor::zeros({options.queue, options.projection_dim})),
      pointer_(Tensor::zeros({}, DType::i64)) {
  if (options.queue < 1 || options.splits < 1)
    throw UsageError("MoCo: expected a positive queue and splits, got {} and {}", options.queue,
                     options.splits);
  for (Module* module : {static_cast<Module*>(key_.get()), static_cast<Module*>(&key_head_)})
    set_requires_grad(*module, false);
  for (Encoder* encoder : {query_.get(), key_.get()}) set_norm_splits(*encoder, options.splits);
}

void MomentumContrast::begin(uint64_t seed) {
  copy_state(*query_, *key_);
  copy_state(query_head_, key_head_);
  const Tensor rows = ops::random_normal(queue_.shape(), random_key(seed, RandomPurpose::queue));
  queue_.copy_(ops::l2_normalize(rows).y);
  pointer_.zero_();
}

void MomentumContrast::check_batch(int64_t batch_size) const {
  if (batch_size % options_.splits != 0 || batch_size / options_.splits < 2)
    throw UsageError(
        "--norm-splits: expected batches of at least two pictures in each of {} equal splits, got "
        "{}; try --batch-size {} or fewer splits",
        options_.splits, batch_size, 2 * options_.splits);
}

// The keys' images in an order drawn over all ranks, and the way back: what this rank takes of all.
// None where batch norm sees the whole batch anyway.
TensorList MomentumContrast::shuffles(int64_t local, int64_t step) const {
  const int64_t all = local * comm_->size();
  if (options_.splits == 1 && comm_->size() == 1) return {};
  std::vector<int64_t> order(static_cast<size_t>(all)), back(order.size());
  std::iota(order.begin(), order.end(), 0);
  // The same on every rank.
  RandomSequence random(random_key(options_.seed, RandomPurpose::order)
                            .child(0x6d6f636f)
                            .child(static_cast<uint64_t>(step)));
  random.shuffle(order);
  for (size_t i = 0; i < order.size(); ++i)
    back[static_cast<size_t>(order[i])] = static_cast<int64_t>(i);
  const auto mine = [&](const std::vector<int64_t>& list) {
    return Tensor::from(list, {all}).narrow(comm_->rank() * local, local).clone();
  };
  return {mine(order), mine(back)};
}

void MomentumContrast::prepare(Batch& batch, int64_t step) {
  batch.extra = shuffles(batch.labels.dim(0), step);
}

// The keys (N, D) of images, in their order. Batch norm sees them in another one, so that a query's
// statistics do not give its key away.
Tensor MomentumContrast::keys_of(const Tensor& images, const TensorList& shuffles) {
  const NoGrad none;
  const auto embed = [&](const Tensor& x) {
    return ops::l2_normalize(
               key_head_(key_->features(Variable(x))).value().cast(acc_dtype(x.dtype())))
        .y;
  };
  if (shuffles.empty()) return embed(images);
  const auto taken = [&](const Tensor& rows, const Tensor& at) {
    return ops::gather_rows(comm_->all_gather(rows), at.to(images.device()));
  };
  return taken(embed(taken(images, shuffles[0])), shuffles[1]);
}

Variable MomentumContrast::query_features(const Batch& batch) {
  FACET_CHECK(batch.views.size() == 2, name(), "expected two views a sample, got {}",
              batch.views.size());
  return query_->features(Variable(batch.views[0]));
}

Variable MomentumContrast::contrast(const Variable& features, const Batch& batch, int64_t step) {
  const Variable h = query_head_(features);
  last_embeddings_ = h.value();
  const Tensor& images = batch.views[1];
  keys_ = keys_of(images, batch.extra.empty() ? shuffles(images.dim(0), step) : batch.extra);
  const DType acc = acc_dtype(h.dtype());
  return info_nce(l2_normalize(cast(h, acc)), keys_, queue_.cast(acc), options_.temperature);
}

void MomentumContrast::after_step(int64_t) {
  // The next step's keys come from the moved networks, as where they are moved before its forward;
  // at the first one both are copies, which moving leaves alone.
  average_parameters(*key_, *query_, options_.momentum);
  average_parameters(key_head_, query_head_, options_.momentum);

  const Tensor keys = comm_->all_gather(keys_).cast(queue_.dtype());
  int64_t& at = *pointer_.data<int64_t>();
  // Where the queue does not hold whole batches, the last keys go on at its start.
  for (int64_t done = 0; done < keys.dim(0);) {
    const int64_t n = std::min(keys.dim(0) - done, queue_.dim(0) - at);
    queue_.narrow(at, n).copy_(keys.narrow(done, n));
    done += n;
    at = (at + n) % queue_.dim(0);
  }
}

double MomentumContrast::collapse_loss(int64_t) const {
  return std::log1p(static_cast<double>(options_.queue));
}

void MomentumContrast::visit(ModuleVisitor& v) {
  v("encoder", *query_);
  v("head", query_head_);
  v("key_encoder", *key_);
  v("key_head", key_head_);
  v("queue", queue_);
  v("queue_pointer", pointer_);
}

std::vector<ParamGroup> MomentumContrast::groups(double weight_decay) {
  ParamGroup group;
  group.name = name();
  group.weight_decay = weight_decay;
  for (const NamedParameter& p : parameters(*this))
    if (p.value.requires_grad()) group.parameters.push_back(p);
  return {group};
}

void Moco::check_batch(int64_t batch_size) const {
  if (options_.queue % batch_size != 0)
    throw UsageError("--queue: expected a multiple of the batch size, got {} with batches of {}",
                     options_.queue, batch_size);
  MomentumContrast::check_batch(batch_size);
}

CeSelfSupcon::CeSelfSupcon(std::unique_ptr<Encoder> query, std::unique_ptr<Encoder> key,
                           int64_t num_classes, const HybridOptions& options)
    : MomentumContrast(std::move(query), std::move(key), options.moco),
      weight_(options.weight),
      classifier_(encoder().feature_dim(), num_classes) {}

Variable CeSelfSupcon::loss(const Batch& batch, int64_t step) {
  const Variable features = query_features(batch);
  const Variable labelled = cross_entropy(classifier_(features), batch.labels);
  return labelled + affine(weight_, contrast(features, batch, step));
}

double CeSelfSupcon::collapse_loss(int64_t batch_size) const {
  return std::log(static_cast<double>(classifier_.weight.dim(0))) +
         weight_ * MomentumContrast::collapse_loss(batch_size);
}

void CeSelfSupcon::visit(ModuleVisitor& v) {
  MomentumContrast::visit(v);
  v("classifier", classifier_);
}

}  // namespace facet
