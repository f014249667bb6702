// Training methods by name: their options, their objective, and the views they train on.
#pragma once

#include <memory>
#include <string>

#include "apps/model.h"
#include "data/pipeline.h"
#include "ssl/objective.h"

namespace facet {

struct MethodOptions {
  std::string method = "simclr";
  double temperature = 0.0;  // 0: the method's own
  int64_t projection_dim = 128;
  double smoothing = 0.0;
  // MoCo, CE + SelfSupCon; SwAV's queue
  int64_t queue = -1, norm_splits = 8;
  double key_momentum = 0.999;
  // SwAV
  int64_t prototypes = 3000, freeze_steps = 313, queue_from = 0, local_crops = 0, local_size = 0;
  double epsilon = 0.05;

  void add_to(Options& options);
  double resolved_temperature() const;
};

// Names for --method.
const std::vector<std::string>& method_names();
bool uses_labels(const std::string& method);

// The objective with fresh weights. `samples`: of the training set, which bounds a queue that was
// not given; `batch_size`: whole batches go into it.
std::unique_ptr<Objective> make_objective(const MethodOptions& method,
                                          const NetworkOptions& network, int64_t classes,
                                          int64_t samples, int64_t batch_size, uint64_t seed);

// One pipeline a view, in the objective's order. `grey`: pictures without colour; min_area > 0
// replaces the method's smallest random crop.
std::vector<Pipeline> training_views(const MethodOptions& method, int size, const Normalization& n,
                                     bool grey, double min_area);

}  // namespace facet
