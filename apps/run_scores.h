// What a network with a classifier becomes during a run.
#pragma once

#include "apps/evaluate.h"
#include "apps/machine.h"
#include "ssl/supervised.h"

namespace facet {

// Accuracy (or mAP) on test pictures, the diversities of the weights, both Calibrated ImageNet
// Scores (their product with the accuracy), and the linear CKA of the features with those at the
// start.
class RunScores {
 public:
  // Takes the objective as it is now for the start.
  RunScores(Supervised& objective, DatasetPtr test, Pipeline view, int64_t workers);
  // Names as in results.json, each behind `prefix`; the objective is left in eval mode.
  Json measure(const std::string& prefix = "");
  const char* quality() const { return test_->multi_label() ? "mAP" : "accuracy"; }

 private:
  Supervised& objective_;
  DatasetPtr test_;
  Pipeline view_;
  int64_t workers_;
  Tensor start_;  // features (pictures, D) at the start, of the first pictures
};

}  // namespace facet
