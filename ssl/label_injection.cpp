#include "ssl/label_injection.h"

#include "nn/init.h"

namespace facet {

LabelInjection::LabelInjection(std::unique_ptr<Encoder> encoder, int64_t num_classes,
                               const InjectionOptions& options)
    : Supervised(std::move(encoder), num_classes, options.smoothing), options_(options) {
  FACET_CHECK(options.cycle >= 0, "inject", "expected a control cycle T >= 1 or infinity, got {}",
              options.cycle);
  FACET_CHECK(options.phase != InjectionOptions::Phase::per_epoch || options.steps_per_epoch > 0,
              "inject", "counting the cycle per epoch needs the steps of an epoch");
}

std::vector<ParamGroup> LabelInjection::groups(double weight_decay) {
  ParamGroup backbone, head;
  backbone.name = "backbone";
  backbone.cycle = options_.cycle;
  backbone.skipped = options_.skipped;
  backbone.lr_scale = options_.backbone_lr_scale;
  head.name = "head";
  backbone.weight_decay = head.weight_decay = weight_decay;
  return make_groups(backbone, head);
}

int64_t LabelInjection::cycle_step(int64_t step) const {
  switch (options_.phase) {
    case InjectionOptions::Phase::zero_based: return step;
    case InjectionOptions::Phase::per_epoch: return step % options_.steps_per_epoch + 1;
    default: return step + 1;
  }
}

bool LabelInjection::backbone_steps(int64_t step) const {
  return options_.cycle != 0 && cycle_step(step) % options_.cycle == 0;
}

int64_t LabelInjection::backbone_updates(int64_t step) const {
  const int64_t cycle = options_.cycle, per_epoch = options_.steps_per_epoch;
  if (cycle == 0) return 0;
  if (options_.phase == InjectionOptions::Phase::zero_based) return (step + cycle - 1) / cycle;
  if (options_.phase == InjectionOptions::Phase::global) return step / cycle;
  return step / per_epoch * (per_epoch / cycle) + step % per_epoch / cycle;
}

bool LabelInjection::learns(int64_t step) const {
  const bool accumulates = options_.skipped == SkippedStep::accumulate_mean ||
                           options_.skipped == SkippedStep::accumulate_sum;
  return options_.cycle != 0 && (accumulates || backbone_steps(step));
}

bool LabelInjection::needs_backbone_gradient(int64_t step) const {
  return learns(step) || (options_.clip_all && options_.cycle != 0);
}

// Without a gradient nothing is recorded: no activation is kept.
Variable LabelInjection::features(const Batch& batch, int64_t step) {
  const bool with_gradient = needs_backbone_gradient(step);
  using Norm = InjectionOptions::Norm;
  Norm norm = options_.norm;
  if (norm == Norm::automatic) norm = options_.cycle == 0 ? Norm::eval : Norm::train;
  if (learns(step)) norm = Norm::train;
  encoder().train(training() && norm != Norm::eval);
  set_update_running(encoder(), norm != Norm::batch_no_update);
  const GradScope scope(with_gradient && grad_enabled());
  const Variable y = encoder().features(Variable(batch.views[0]));
  encoder().train(training());
  set_update_running(encoder(), true);
  return y;
}

Variable LabelInjection::loss(const Batch& batch, int64_t step) {
  return classify(features(batch, step), batch);
}

bool LabelInjection::is_sequential(int64_t step) const {
  return options_.order != InjectionOptions::Order::joint && learns(step);
}

std::optional<double> LabelInjection::replay_key(int64_t step) const {
  if (is_sequential(step)) return std::nullopt;
  return learns(step);
}

void LabelInjection::update(Optimizer& optimizer, double lr, int64_t step, double clip) {
  optimizer.step(lr, cycle_step(step), clip);
}

double LabelInjection::train_step(const Batch& batch, Optimizer& optimizer, double lr, int64_t step,
                                  double clip) {
  if (!is_sequential(step)) return Supervised::train_step(batch, optimizer, lr, step, clip);
  const int64_t t = cycle_step(step);
  const Batch whole = mixed(batch, step);
  const auto part = [&](int64_t i) { return whole.part(i, parts_); };
  VariableList kept;  // of all parts at once
  for (int64_t i = 0; i < parts_; ++i) kept.push_back(features(part(i), step));
  const auto feature = [&](int64_t i) { return kept[static_cast<size_t>(i)]; };
  // The head first, on features cut off from the backbone; then the backbone against the new head.
  const auto is_head = [](const ParamGroup& group) { return group.name.starts_with("head"); };
  const auto is_backbone = [&](const ParamGroup& group) { return !is_head(group); };
  const double value = guarded_backward(
      [&](int64_t i) { return classify(feature(i).detach(), part(i)); }, optimizer, step + 1);
  optimizer.step(lr, t, clip, is_head);
  guarded_backward([&](int64_t i) { return classify(feature(i), part(i)); }, optimizer, step + 1);
  optimizer.step(lr, t, clip, is_backbone);
  return value;
}

void LabelInjection::reset_head(uint64_t seed, double stddev) {
  initialize_normal(classifier(), seed, stddev);
}

Tensor class_centroids(const Tensor& features, const Tensor& labels, int64_t num_classes,
                       const CentroidOptions& options) {
  FACET_CHECK(features.rank() == 2 && labels.shape() == Shape{features.dim(0)}, "class_centroids",
              "expected features (N, D) with labels (N), got {} and {}", features.shape(),
              labels.shape());
  std::vector<int64_t> rows, classes;
  std::vector<double> share(static_cast<size_t>(num_classes), 0.0);
  const std::vector<int64_t> all = labels.to_vector<int64_t>();
  for (size_t i = 0; i < all.size(); ++i) {
    FACET_CHECK(all[i] < num_classes, "class_centroids", "expected labels below {}, got {}",
                num_classes, all[i]);
    if (all[i] < 0) continue;
    rows.push_back(static_cast<int64_t>(i));
    classes.push_back(all[i]);
    share[static_cast<size_t>(all[i])] += 1;
  }
  for (double& v : share) v = v > 0 ? 1.0 / v : 0.0;
  const auto n = static_cast<int64_t>(rows.size());
  const auto index = [&](const std::vector<int64_t>& v) {
    return Tensor::from(v, {n}).to(features.device());
  };
  const Tensor labelled = n == features.dim(0) ? features : ops::gather_rows(features, index(rows));
  const Tensor x = options.unit_features ? ops::l2_normalize(labelled).y : labelled;
  const Tensor sums = ops::scatter_add_rows(x, index(classes), {num_classes, x.dim(1)});
  Tensor means =
      ops::mul(sums, Tensor::from(share, {num_classes, 1}).cast(x.dtype()).to(x.device()));
  if (options.unit_rows) means = ops::l2_normalize(means).y;
  return options.scale == 1.0 ? means : ops::affine(options.scale, means, 0.0);
}

Tensor nearest_centroid_bias(const Tensor& centroids) {
  return ops::affine(-0.5, ops::reduce(ReduceOp::sum_squares, centroids, 1), 0.0);
}

}  // namespace facet
