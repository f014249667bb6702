// Supervised training: cross entropy with label smoothing on a linear classifier.
#pragma once

#include <memory>

#include "data/mix.h"
#include "ssl/objective.h"

namespace facet {

// What is done to every training batch; by default nothing.
struct MixedTraining {
  MixOptions mix{.mixup = 0, .cutmix = 0, .probability = 0};
  EraseOptions erase{.probability = 0};
  uint64_t seed = 0;

  bool active() const { return mix.probability > 0 || erase.probability > 0; }
};

class Supervised : public Objective {
 public:
  Supervised(std::unique_ptr<Encoder> encoder, int64_t num_classes, double smoothing = 0.0);

  const char* name() const override { return "supervised"; }
  Encoder& encoder() override { return *encoder_; }
  Linear& classifier() { return classifier_; }
  int64_t num_classes() const { return classifier_.weight.dim(0); }
  Variable loss(const Batch& batch, int64_t step) override;
  // Erased boxes hold noise; mixed batches, an even number of images, have mixed labels.
  void set_mixed_training(const MixedTraining& mixed) { mixed_ = mixed; }
  // Boxes and shares of a mixed batch are drawn on the host.
  bool replayable() const override { return !mixed_.active(); }
  double collapse_loss(int64_t batch_size) const override;  // ln(classes): knows nothing
  std::vector<NamedMetric> metrics()
      const override;  // accuracy on the training batch, spread of features
  void visit(ModuleVisitor& v) override;

 protected:
  // The only view of a batch, with boxes erased and images mixed as drawn for this step; and the
  // share of labels that classify() takes then.
  Tensor mixed_view(const Batch& batch, int64_t step);
  // The loss on these features; remembers the logits for metrics().
  Variable classify(const Variable& features, const Tensor& labels);

 private:
  std::unique_ptr<Encoder> encoder_;
  Linear classifier_;
  double smoothing_;
  MixedTraining mixed_;
  Mix mix_;  // of the last view
  Tensor last_logits_, last_labels_, last_features_;
};

}  // namespace facet
