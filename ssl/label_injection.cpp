#include "ssl/label_injection.h"

namespace facet {

LabelInjection::LabelInjection(std::unique_ptr<Encoder> encoder, int64_t num_classes,
                               const InjectionOptions& options)
    : Supervised(std::move(encoder), num_classes, options.smoothing), options_(options) {
  using Norm = InjectionOptions::Norm;
  FACET_CHECK(options.cycle >= 0, "inject", "expected a control cycle T >= 1 or infinity, got {}",
              options.cycle);
  FACET_CHECK(options.phase != InjectionOptions::Phase::per_epoch || options.steps_per_epoch > 0,
              "inject", "counting the cycle per epoch needs the steps of an epoch");
  const bool frozen = options.norm == Norm::eval ||
                      (options.norm == Norm::automatic && options.cycle == 0);
  set_norm_mode(this->encoder(), frozen                                  ? NormMode::frozen
                                 : options.norm == Norm::batch_no_update ? NormMode::batch_no_update
                                                                         : NormMode::training);
}

std::vector<ParamGroup> LabelInjection::groups(double weight_decay) {
  ParamGroup backbone, head;
  backbone.name = "backbone";
  backbone.cycle = options_.cycle;
  backbone.skipped = options_.skipped;
  backbone.lr_scale = options_.backbone_lr_scale;
  head.name = "head";
  backbone.weight_decay = head.weight_decay = weight_decay;
  std::vector<NamedParameter> below, above;
  for (const NamedParameter& p : parameters(*this))
    (p.name.starts_with("encoder.") ? below : above).push_back(p);
  std::vector<ParamGroup> groups = decay_groups(below, backbone);
  for (ParamGroup& group : decay_groups(above, head)) groups.push_back(std::move(group));
  return groups;
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

bool LabelInjection::needs_backbone_gradient(int64_t step) const {
  const bool accumulates = options_.skipped == SkippedStep::accumulate_mean ||
                           options_.skipped == SkippedStep::accumulate_sum;
  return options_.cycle != 0 && (accumulates || backbone_steps(step));
}

// Without a gradient nothing is recorded: no activation is kept.
Variable LabelInjection::features(const Batch& batch, bool with_gradient) {
  FACET_CHECK(batch.views.size() == 1, "inject", "expected one view a sample, got {}",
              batch.views.size());
  const GradScope scope(with_gradient && grad_enabled());
  return encoder().features(Variable(batch.views[0]));
}

Variable LabelInjection::loss(const Batch& batch, int64_t step) {
  return classify(features(batch, needs_backbone_gradient(step)), batch.labels);
}

double LabelInjection::train_step(const Batch& batch, Optimizer& optimizer, double lr,
                                  int64_t step, double clip) {
  const int64_t t = cycle_step(step);
  optimizer.clear_grads();
  const bool backbone = needs_backbone_gradient(step);
  const Variable feature = features(batch, backbone);
  if (options_.order == InjectionOptions::Order::joint || !backbone) {
    const double value =
        guarded_backward(classify(feature, batch.labels), optimizer, t, clip);
    optimizer.step(lr, t);
    return value;
  }
  // The head first, on features cut off from the backbone; then the backbone against the new head.
  const auto is_head = [](const ParamGroup& group) { return group.name.starts_with("head"); };
  const auto is_backbone = [&](const ParamGroup& group) { return !is_head(group); };
  const double value =
      guarded_backward(classify(feature.detach(), batch.labels), optimizer, t, clip);
  optimizer.step(lr, t, is_head);
  optimizer.clear_grads();
  guarded_backward(classify(feature, batch.labels), optimizer, t, clip);
  optimizer.step(lr, t, is_backbone);
  return value;
}

Tensor class_centroids(const Tensor& features, const Tensor& labels, int64_t num_classes,
                       bool unit_rows) {
  FACET_CHECK(features.rank() == 2, "class_centroids", "expected (N, D), got {}",
              features.shape());
  const Tensor x = unit_rows ? ops::l2_normalize(features).y : features;
  const Tensor sums = ops::scatter_add_rows(x, labels, {num_classes, x.dim(1)});
  std::vector<double> share(static_cast<size_t>(num_classes), 0.0);
  for (const int64_t label : labels.to_vector<int64_t>()) share[static_cast<size_t>(label)] += 1;
  for (double& v : share) v = v > 0 ? 1.0 / v : 0.0;
  return ops::mul(sums, Tensor::from(share, {num_classes, 1}).cast(x.dtype()).to(x.device()));
}

}  // namespace facet
