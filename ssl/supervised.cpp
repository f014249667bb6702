#include "ssl/supervised.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <map>

namespace facet {
namespace {

// Which layer of `depth` blocks a parameter of a ViT belongs to (timm's names).
int64_t layer_of(const std::string& name, int64_t depth) {
  if (name == "cls_token" || name == "pos_embed" || name.starts_with("patch_embed.")) return 0;
  if (!name.starts_with("blocks.")) return depth + 1;
  int64_t block = 0;
  std::from_chars(name.data() + 7, name.data() + name.size(), block);
  return block + 1;
}

// x^power of numbers in [0, 1].
Tensor pow_of(const Tensor& x, double power) {
  if (power == 0) return Tensor::full({1}, 1.0, x.dtype(), x.device());
  const Tensor tiny = Tensor::full({1}, 1e-30, x.dtype(), x.device());
  return ops::exp(ops::affine(power, ops::log(ops::maximum(x, tiny)), 0.0));
}

}  // namespace

Variable asymmetric_loss(const Variable& logits, const Tensor& targets,
                         const AsymmetricOptions& options) {
  FACET_CHECK(targets.shape() == logits.shape(), "asymmetric_loss",
              "expected targets of {}, got {}", logits.shape(), targets.shape());
  const auto number = [&](double v) {
    return Variable(Tensor::full({1}, v, logits.dtype(), logits.device()));
  };
  const Variable there(targets.cast(logits.dtype())), absent = affine(-1, there, 1);
  const Variable p = sigmoid(logits);
  const Variable q = minimum(affine(-1, p, 1 + options.clip), number(1));
  const auto factor = [](const Variable& probability, double gamma) {
    return Variable(pow_of(ops::affine(-1, probability.value(), 1), gamma));
  };
  const auto term = [&](const Variable& truth, const Variable& probability, double gamma) {
    return truth * log(maximum(probability, number(1e-8))) * factor(probability, gamma);
  };
  return affine(
      -1, sum(term(there, p, options.gamma_positive) + term(absent, q, options.gamma_negative)));
}

Supervised::Supervised(std::unique_ptr<Encoder> encoder, int64_t num_classes, double smoothing)
    : encoder_(std::move(encoder)),
      classifier_(encoder_->feature_dim(), num_classes),
      smoothing_(smoothing) {
  FACET_CHECK(num_classes >= 2, "supervised", "expected at least two classes, got {}", num_classes);
}

Variable Supervised::classify(const Variable& features, const Batch& batch) {
  const Variable logits = classifier_(features);
  last_logits_ = logits.value();
  last_labels_ = batch.labels;
  last_embeddings_ = features.value();
  if (multi_label_) return asymmetric_loss(logits, batch.labels, *multi_label_);
  if (batch.targets.defined()) return soft_cross_entropy(logits, batch.targets);
  return cross_entropy(logits, batch.labels, smoothing_);
}

Batch Supervised::mixed(const Batch& batch, int64_t step) {
  FACET_CHECK(batch.views.size() == 1, "supervised", "expected one view a sample, got {}",
              batch.views.size());
  if (!mixed_.active()) return batch;
  Batch result = batch;
  Tensor& images = result.views[0];
  const int64_t count = images.dim(0), height = images.dim(1), width = images.dim(2);
  const RandomKey key =
      random_key(mixed_.seed, RandomPurpose::mix).child(static_cast<uint64_t>(step));
  RandomSequence random(key);
  const auto boxes = draw_erase_boxes(mixed_.erase, count, height, width, random);
  const Mix mix = draw_mix(mixed_.mix, height, width, random);
  if (!boxes.empty()) {
    images = images.clone();
    ops::erase_(images, boxes, EraseFill::pixel, key.child(1));
  }
  if (mix.weight == 1) return result;
  images = mix_images(images, mix);
  result.targets = mix_targets(batch.labels, num_classes(), smoothing_, mix);
  return result;
}

Variable Supervised::loss(const Batch& batch, int64_t) {
  return classify(encoder_->features(Variable(batch.views[0])), batch);
}

std::vector<ParamGroup> Supervised::groups(double weight_decay) {
  ParamGroup backbone, head;
  backbone.name = "backbone";
  head.name = "head";
  backbone.weight_decay = head.weight_decay = weight_decay;
  return make_groups(backbone, head);
}

std::vector<ParamGroup> Supervised::make_groups(const ParamGroup& backbone,
                                                const ParamGroup& head) {
  const std::string prefix = "encoder.";
  int64_t depth = 0;
  for (const NamedParameter& p : parameters(*this))
    if (p.name.starts_with(prefix + "blocks."))
      depth = std::max(depth, layer_of(p.name.substr(prefix.size()), 0));
  if (layer_decay_ != 1 && depth == 0)
    throw UsageError("--layer-decay: expected a vision transformer, got a network without blocks");
  std::vector<ParamGroup> groups;
  const auto add = [&](const std::vector<NamedParameter>& list, const ParamGroup& prototype) {
    for (ParamGroup& group : decay_groups(list, prototype)) groups.push_back(std::move(group));
  };
  std::map<int64_t, std::vector<NamedParameter>> layers, tokens;
  std::vector<NamedParameter> above;
  for (const NamedParameter& p : parameters(*this)) {
    if (!p.value.requires_grad()) continue;
    if (!p.name.starts_with(prefix)) {
      above.push_back(p);
      continue;
    }
    const std::string name = p.name.substr(prefix.size());
    const int64_t layer = layer_decay_ == 1 ? depth + 1 : layer_of(name, depth);
    (name == "cls_token" || name == "pos_embed" ? tokens : layers)[layer].push_back(p);
  }
  for (auto* parts : {&layers, &tokens})
    for (const auto& [layer, list] : *parts) {
      ParamGroup group = backbone;
      group.lr_scale *= std::pow(layer_decay_, static_cast<double>(depth + 1 - layer));
      if (parts == &tokens) group.weight_decay = 0.0;
      if (layer_decay_ != 1) group.name += fmt::format(".layer{}", layer);
      add(list, group);
    }
  add(above, head);
  return groups;
}

double Supervised::collapse_loss(int64_t) const {
  if (multi_label_) return std::numeric_limits<double>::quiet_NaN();
  return std::log(static_cast<double>(num_classes()));
}

std::vector<NamedMetric> Supervised::metrics() const {
  if (!last_logits_.defined()) return {};
  if (multi_label_) return embedding_spread(last_embeddings_);
  const auto guess = ops::argmax(last_logits_).to_vector<int64_t>();
  const auto truth = last_labels_.to_vector<int64_t>();
  double hits = 0, rows = 0;
  for (size_t i = 0; i < truth.size(); ++i) {
    if (truth[i] < 0) continue;  // masked in the loss, too
    ++rows;
    hits += guess[i] == truth[i];
  }
  std::vector<NamedMetric> values = embedding_spread(last_embeddings_);
  values.insert(values.begin(), {"train_accuracy", hits / rows});
  return values;
}

void Supervised::visit(ModuleVisitor& v) {
  v("encoder", *encoder_);
  v("classifier", classifier_);
}

}  // namespace facet
