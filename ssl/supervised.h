// Supervised training: cross entropy with label smoothing on a linear classifier.
#pragma once

#include <memory>
#include <optional>

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

// Asymmetric loss of classes that may all be present (Ridnik et al. 2021): the sum over samples and
// classes of -(1 - q)^gamma log q, q the probability of what is true: p where the class is there,
// else min(1, 1 - p + clip). The factor in front of the logarithm passes no gradient, as in the
// authors' code. All zero: binary cross-entropy.
struct AsymmetricOptions {
  double gamma_negative = 4.0, gamma_positive = 0.0, clip = 0.05;
};
// logits (N, classes), targets (N, classes) of 0 and 1; a scalar
Variable asymmetric_loss(const Variable& logits, const Tensor& targets,
                         const AsymmetricOptions& options = {});

class Supervised : public Objective {
 public:
  Supervised(std::unique_ptr<Encoder> encoder, int64_t num_classes, double smoothing = 0.0);

  const char* name() const override { return "supervised"; }
  Encoder& encoder() override { return *encoder_; }
  Linear& classifier() { return classifier_; }
  int64_t num_classes() const { return classifier_.weight.dim(0); }
  // "backbone" and "head", each split by decay: a ViT's tokens and position embedding do not,
  // either.
  std::vector<ParamGroup> groups(double weight_decay) override;
  // For a ViT: decay^(depth + 1 - i) of the learning rate in layer i; the embeddings are layer 0,
  // the last norm and the head layer depth + 1 (MAE's fine-tuning).
  void set_layer_decay(double decay) { layer_decay_ = decay; }
  // Labels are f32 (N, classes) of 0 and 1 then.
  void set_multi_label(const AsymmetricOptions& options) { multi_label_ = options; }
  Variable loss(const Batch& batch, int64_t step) override;
  bool divisible() const override { return true; }
  // The only view of a batch, with boxes erased and images mixed as drawn for this step; and the
  // targets of such images.
  Batch mixed(const Batch& batch, int64_t step) override;
  // Erased boxes hold noise; mixed batches, an even number of images, have mixed labels.
  void set_mixed_training(const MixedTraining& mixed) { mixed_ = mixed; }
  std::optional<double> replay_key(int64_t) const override { return 0; }
  std::vector<Tensor*> left() override { return {&last_embeddings_, &last_logits_, &last_labels_}; }
  double collapse_loss(int64_t batch_size) const override;  // ln(classes); NaN for many labels
  std::vector<NamedMetric> metrics()
      const override;  // accuracy on the training batch, spread of features
  void visit(ModuleVisitor& v) override;

 protected:
  // From two prototypes, those of the encoder's parameters and of the head's.
  std::vector<ParamGroup> make_groups(const ParamGroup& backbone, const ParamGroup& head);
  bool sums_pictures() const override { return multi_label_.has_value(); }
  // The loss on these features; remembers the logits (of the last part) for metrics().
  Variable classify(const Variable& features, const Batch& batch);

 private:
  std::unique_ptr<Encoder> encoder_;
  Linear classifier_;
  double smoothing_, layer_decay_ = 1.0;
  std::optional<AsymmetricOptions> multi_label_;
  MixedTraining mixed_;
  Tensor last_logits_, last_labels_;
};

}  // namespace facet
