// Training methods by name: their options, their objective, and the views they train on.
#pragma once

#include <memory>
#include <string>

#include "apps/model.h"
#include "data/pipeline.h"
#include "ssl/dino.h"
#include "ssl/mae.h"
#include "ssl/supervised.h"
#include "ssl/swav.h"

namespace facet {

// How pictures and labels are varied where a network is trained with labels; timm's names.
struct LabelTraining {
  double smoothing = 0.0, mixup = 0.0, cutmix = 0.0, mix_probability = 1.0,
         switch_probability = 0.5, erase_probability = 0.0, cutout = 0.0;
  std::string policy = "none", crop = "random", interpolation = "auto";

  void add_to(Options& options, const std::string& prefix = "");
  // A UsageError where they do not fit batches of that size.
  MixedTraining mixed(int64_t batch_size, uint64_t seed) const;
  // min_area 0: the usual one.
  Pipeline view(int64_t image_size, const Normalization& n, double min_area) const;
};

struct MethodOptions {
  std::string method = "simclr";
  double temperature = 0.0;        // 0: the method's own
  double base_temperature = 0.07;  // of SupCon
  int64_t projection_dim = 128;
  LabelTraining labels = {};
  // MoCo, CE + SelfSupCon; SwAV's queue
  int64_t queue = -1, norm_splits = 8;
  double key_momentum = 0.999;
  // SwAV and DINO
  int64_t local_crops = -1, local_size = 0;
  // What is not above: the objective's own.
  SwavOptions swav = {};
  DinoOptions dino = {};
  MaeOptions mae = {};

  void add_to(Options& options);
  double resolved_temperature() const;
};

// Names for --method.
const std::vector<std::string>& method_names();
bool uses_labels(const std::string& method);
// Whether batch norm has the statistics of all ranks, as if they were one; else each rank has its
// own parts of the batch (--norm-splits).
bool shares_norms(const std::string& method);

// What an objective has to know of the run that it is for.
struct RunSize {
  int64_t classes = 0;
  int64_t samples = 0;     // of the training set: bounds a queue that was not given
  int64_t batch_size = 2;  // of all ranks together
  int64_t epochs = 1;
  int ranks = 1;
};

// The objective with fresh weights. A UsageError where the method cannot train that network or
// batches of that size.
std::unique_ptr<Objective> make_objective(const MethodOptions& method,
                                          const NetworkOptions& network, const RunSize& run,
                                          uint64_t seed);

// One pipeline a view, in the objective's order. `grey`: pictures without colour; min_area > 0
// replaces the method's smallest random crop.
std::vector<Pipeline> training_views(const MethodOptions& method, const NetworkOptions& network,
                                     const Normalization& n, bool grey, double min_area);

}  // namespace facet
