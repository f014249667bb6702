// The one training loop: batches, one step of the objective each, log, checkpoints, and stopping on
// request. A run that was stopped at any step and continued equals one that was not, bit by bit.
#pragma once

#include <atomic>
#include <functional>
#include <limits>
#include <string>

#include "apps/log.h"
#include "apps/run_folder.h"
#include "apps/train_step.h"

namespace facet {

struct TrainOptions {
  std::string title;  // before every line of progress
  int64_t total_steps = 0;
  int64_t steps_per_epoch = 0;
  std::function<double(int64_t step)> lr;            // of 0-based steps
  std::function<double(int64_t step)> weight_decay;  // of the groups that decay; none: constant
  // The batch of a 0-based step; called with rising steps, without gaps after the first.
  std::function<Batch(int64_t step)> batch;
  int64_t log_every = 10;  // steps between lines of metrics.jsonl
  double checkpoint_seconds = 60.0;
  int64_t max_bad_samples = 10;  // more distinct ones end the run
  StepOptions step;
  ProgressOptions progress;
  std::atomic<int64_t>* stop_at = nullptr;  // shared by ranks: the step before which all stop
};

struct TrainResult {
  int64_t first_step = 0;   // where this process began
  double seconds = 0.0;     // of all processes that worked on the run
  double loss = 0.0;        // of the last step
  int64_t bad_samples = 0;  // distinct ones that could not be decoded
};

// Ranks (Objective::comm) work on it together: the first logs and saves. Continues from the
// folder's newest checkpoint. Throws NonFiniteError before the weights are touched, and an Error
// with ExitCode::interrupted after saving when a stop is asked for.
TrainResult train(Objective& objective, Optimizer& optimizer, RunFolder& folder,
                  const TrainOptions& options);

// Records of metrics.jsonl in step order; of a step that was logged twice the last. Lines that a
// crash cut short are passed over. failed: instead those of steps that were not finite.
std::vector<Json> read_metrics(const std::filesystem::path& run, bool failed = false);

}  // namespace facet
