#include "ssl/supervised.h"

#include <cmath>

namespace facet {

Supervised::Supervised(std::unique_ptr<Encoder> encoder, int64_t num_classes, double smoothing)
    : encoder_(std::move(encoder)),
      classifier_(encoder_->feature_dim(), num_classes),
      smoothing_(smoothing) {
  FACET_CHECK(num_classes >= 2, "supervised", "expected at least two classes, got {}", num_classes);
}

Variable Supervised::classify(const Variable& features, const Tensor& labels) {
  const Variable logits = classifier_(features);
  last_logits_ = logits.value();
  last_labels_ = labels;
  last_features_ = features.value();
  if (mix_.weight == 1) return cross_entropy(logits, labels, smoothing_);
  return soft_cross_entropy(logits, mix_targets(labels, num_classes(), smoothing_, mix_));
}

Tensor Supervised::mixed_view(const Batch& batch, int64_t step) {
  FACET_CHECK(batch.views.size() == 1, "supervised", "expected one view a sample, got {}",
              batch.views.size());
  const Tensor& images = batch.views[0];
  mix_ = {};
  if (!mixed_.active()) return images;
  const int64_t count = images.dim(0), height = images.dim(1), width = images.dim(2);
  const RandomKey key =
      random_key(mixed_.seed, RandomPurpose::mix).child(static_cast<uint64_t>(step));
  RandomSequence random(key);
  const auto boxes = draw_erase_boxes(mixed_.erase, count, height, width, random);
  mix_ = draw_mix(mixed_.mix, height, width, random);
  if (boxes.empty()) return mix_.weight == 1 ? images : mix_images(images, mix_);
  Tensor erased = images.clone();
  ops::erase_(erased, boxes, EraseFill::pixel, key.child(1));
  return mix_.weight == 1 ? erased : mix_images(erased, mix_);
}

Variable Supervised::loss(const Batch& batch, int64_t step) {
  return classify(encoder_->features(Variable(mixed_view(batch, step))), batch.labels);
}

double Supervised::collapse_loss(int64_t) const {
  return std::log(static_cast<double>(num_classes()));
}

std::vector<NamedMetric> Supervised::metrics() const {
  if (!last_logits_.defined()) return {};
  const auto guess = ops::argmax(last_logits_).to_vector<int64_t>();
  const auto truth = last_labels_.to_vector<int64_t>();
  double hits = 0, rows = 0;
  for (size_t i = 0; i < truth.size(); ++i) {
    if (truth[i] < 0) continue;  // masked in the loss, too
    ++rows;
    hits += guess[i] == truth[i];
  }
  std::vector<NamedMetric> values = embedding_spread(last_features_);
  values.insert(values.begin(), {"train_accuracy", hits / rows});
  return values;
}

void Supervised::visit(ModuleVisitor& v) {
  v("encoder", *encoder_);
  v("classifier", classifier_);
}

}  // namespace facet
