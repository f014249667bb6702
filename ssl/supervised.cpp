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
  return cross_entropy(logits, labels, smoothing_);
}

Variable Supervised::loss(const Batch& batch, int64_t) {
  FACET_CHECK(batch.views.size() == 1, "supervised", "expected one view a sample, got {}",
              batch.views.size());
  return classify(encoder_->features(Variable(batch.views[0])), batch.labels);
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
  return {{"train_accuracy", hits / rows}};
}

void Supervised::visit(ModuleVisitor& v) {
  v("encoder", *encoder_);
  v("classifier", classifier_);
}

}  // namespace facet
