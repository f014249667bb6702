// Supervised training: cross entropy with label smoothing on a linear classifier.
#pragma once

#include <memory>

#include "ssl/objective.h"

namespace facet {

class Supervised : public Objective {
 public:
  Supervised(std::unique_ptr<Encoder> encoder, int64_t num_classes, double smoothing = 0.0);

  const char* name() const override { return "supervised"; }
  Encoder& encoder() override { return *encoder_; }
  Linear& classifier() { return classifier_; }
  int64_t num_classes() const { return classifier_.weight.dim(0); }
  Variable loss(const Batch& batch, int64_t step) override;
  bool replayable() const override { return true; }
  double collapse_loss(int64_t batch_size) const override;  // ln(classes): knows nothing
  std::vector<NamedMetric> metrics() const override;        // accuracy on the training batch
  void visit(ModuleVisitor& v) override;

 protected:
  // The loss on these features; remembers the logits for metrics().
  Variable classify(const Variable& features, const Tensor& labels);

 private:
  std::unique_ptr<Encoder> encoder_;
  Linear classifier_;
  double smoothing_;
  Tensor last_logits_, last_labels_;
};

}  // namespace facet
