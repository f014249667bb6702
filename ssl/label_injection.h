// Controlled Label Injection (Nayman et al., "Diverse Imagenet Models Transfer Better", algorithm
// 1): supervised training in which the head steps every time and the backbone once every T steps.
// T = 1 is fine-tuning, T = infinity linear probing.
#pragma once

#include <memory>

#include "ssl/supervised.h"

namespace facet {

// What algorithm 1 leaves open. The defaults make T = 1 equal to fine-tuning bit by bit and
// T = infinity leave every backbone tensor as it was.
struct InjectionOptions {
  // T; 0 stands for infinity.
  int64_t cycle = 4;

  // Which head the backbone's gradient is taken at.
  enum class Order : uint8_t {
    joint,       // the one before this step: a single forward and backward
    sequential,  // the one after it: the head alone is run again on the same features
  } order = Order::joint;

  // How the backbone runs on the steps that only the head takes; with a gradient it always trains.
  enum class Norm : uint8_t {
    automatic,        // train for finite T, eval for T = infinity
    train,            // batch statistics; running ones updated as on every other step
    eval,             // running statistics: each such step is one of linear probing
    batch_no_update,  // batch statistics; running ones kept
  } norm = Norm::automatic;

  SkippedStep skipped = SkippedStep::skip;

  // When a cycle starts.
  enum class Phase : uint8_t {
    global,      // steps T, 2T, ... of the whole run
    zero_based,  // steps 1, T + 1, ...
    per_epoch,   // as global, counted anew in every epoch
  } phase = Phase::global;
  int64_t steps_per_epoch = 0;  // needed by per_epoch

  double smoothing = 0.1;
  double backbone_lr_scale = 1.0;
  // The optimiser clips by the norm over all groups (Optimizer::clip_all()), so that the
  // backbone's gradient is computed on the steps between, too. Not where T is infinite.
  bool clip_all = false;
};

class LabelInjection final : public Supervised {
 public:
  LabelInjection(std::unique_ptr<Encoder> encoder, int64_t num_classes,
                 const InjectionOptions& options);

  const char* name() const override { return "inject"; }
  // "backbone" with the control cycle and "head" that always steps, each split by decay.
  std::vector<ParamGroup> groups(double weight_decay) override;
  Variable loss(const Batch& batch, int64_t step) override;
  // Steps with and without the backbone.
  std::optional<double> replay_key(int64_t step) const override;
  void update(Optimizer& optimizer, double lr, int64_t step, double clip) override;
  double train_step(const Batch& batch, Optimizer& optimizer, double lr, int64_t step,
                    double clip) override;

  // A head of N(0, stddev) without offset.
  void reset_head(uint64_t seed, double stddev = 0.01);

  // The count that control cycles are measured with at 0-based step `step`.
  int64_t cycle_step(int64_t step) const;
  bool backbone_steps(int64_t step) const;
  int64_t backbone_updates(int64_t step) const;  // before that step

 private:
  bool learns(int64_t step) const;         // whether the backbone does something with its gradient
  bool is_sequential(int64_t step) const;  // ... after the head has stepped
  bool needs_backbone_gradient(int64_t step) const;
  Variable features(const Batch& batch, int64_t step);

  InjectionOptions options_;
};

// What the centroids are made into before they become a head's weight (appendix G says nothing).
struct CentroidOptions {
  bool unit_features = false;  // L2-normalise each feature row before the mean
  bool unit_rows = false;      // ... each centroid after it
  double scale = 1.0;
};

// Rows (classes, D) are the class means of features (N, D); negative labels
// (unlabelled) are left out, and a class without samples gets a zero row.
Tensor class_centroids(const Tensor& features, const Tensor& labels, int64_t num_classes,
                       const CentroidOptions& options = {});
// The bias -|w|^2 / 2 a row, with which the largest logit is that of the nearest centroid.
Tensor nearest_centroid_bias(const Tensor& centroids);

}  // namespace facet
