// One training step after another: launched as they come or, on a CUDA device, recorded once as a
// graph and replayed.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "ssl/objective.h"

namespace facet {

struct StepOptions {
  Device device;                 // where the objective's networks are
  DType precision = DType::f32;  // of images and activations; parameters and statistics stay f32
  uint64_t seed = 0;             // of what networks draw (drop path)
  double clip = 0.0;             // global gradient norm; 0: none
  bool graph = true;             // record steps where the device and the objective can
};

// A step is recorded where the one before had its key and shapes: the optimiser's state and the
// libraries' plans exist then, and a key that comes once in a while, as a control cycle's, costs no
// recording. The recorded part is forward, backward and the batch norms' running statistics, which
// is all but a handful of a step's launches. The update is launched each time: its learning rate
// changes, and it must not happen where the loss or a gradient is not finite. A replayed step gives
// the bits of one that was launched.
class TrainStep {
 public:
  TrainStep(Objective& objective, Optimizer& optimizer, const StepOptions& options);
  ~TrainStep();

  // One step (0-based) on a batch of any device; returns the loss. Throws as
  // Objective::train_step() does.
  double operator()(const Batch& batch, double lr, int64_t step);
  bool replays() const { return replayed_; }  // whether the last step was a replayed one

 private:
  struct Recording;
  struct Kind {                 // what a step must share with a recorded one
    double key = 0;             // Objective::replay_key()
    std::vector<Shape> shapes;  // of the batch's tensors
    bool operator==(const Kind&) const = default;
  };

  void record(const Batch& batch, const Kind& kind, int64_t step);

  Objective& objective_;
  Optimizer& optimizer_;
  StepOptions options_;
  bool replayed_ = false;
  std::optional<Kind> last_;              // of the step before that had a key
  std::unique_ptr<Recording> recording_;  // one at a time: it holds a step's activations
};

}  // namespace facet
