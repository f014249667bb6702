// What every kind of run shares: from options, an objective and pictures to trained weights.
#pragma once

#include <memory>
#include <optional>

#include "apps/training.h"
#include "data/loader.h"

namespace facet {

std::vector<std::string> optimizer_names();
// The result of a run that is complete; it needs nothing but what it wrote.
std::optional<TrainResult> finished(const std::string& output, const std::string& config);
void require_single_label(const DatasetPtr& dataset);
// As --accumulate says, where the objective and the batch can be divided so.
void take_in_parts(const RunOptions& options, Objective& objective, size_t ranks = 1);

class TrainingRun {
 public:
  // On `device`, where the objective is moved.
  TrainingRun(const RunOptions& options, Objective& objective, std::vector<Pipeline> views,
              DatasetPtr dataset, Device device);

  Optimizer& optimizer() { return optimizer_; }
  TrainOptions& options() { return train_; }

  // For training with labels, as the options say: an average of the weights, and measurements of
  // the network on test pictures seen through `view`.
  void follow(Supervised& objective, const Pipeline& view,
              std::function<bool(int64_t step)> encoder_due = {});
  // One step on the first batch: says what it took, and writes nothing.
  TrainResult try_out();
  TrainResult train(RunFolder& folder);
  // model.safetensors and, where weights are averaged, model-ema.safetensors beside it. `start`:
  // the origin of the network that the run began with.
  void save_model(const RunFolder& folder, const char* method, int64_t image_size,
                  const std::string& config, const TrainResult& result, Linear* classifier);

 private:
  // Batches by global step: step s is batch s mod n of epoch s div n.
  Batch batch_of(int64_t step);

  const RunOptions& run_;
  Objective& objective_;
  Device device_;
  DatasetPtr dataset_;
  std::unique_ptr<Trace> trace_;  // before the loader's threads, and after them
  Optimizer optimizer_;
  DataLoader loader_;
  int64_t next_ = -1;  // the step whose batch the loader gives next
  std::unique_ptr<WeightAverage> average_;
  TrainOptions train_;
};

}  // namespace facet
