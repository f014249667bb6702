// The one training loop: batches, one step of the objective each, log, checkpoints, and stopping on
// request. A run that was stopped at any step and continued equals one that was not, bit by bit.
#pragma once

#include <atomic>
#include <functional>
#include <string>

#include "apps/log.h"
#include "apps/run_folder.h"
#include "apps/trace.h"
#include "apps/train_step.h"
#include "apps/weight_average.h"

namespace facet {

struct TrainOptions {
  std::string title;  // before every line of progress
  int64_t total_steps = 0;
  int64_t steps_per_epoch = 0;
  std::function<double(int64_t step)> lr;         // of 0-based steps
  std::function<void(int64_t step)> before_step;  // sets what else changes in the optimiser
  // The batch of a 0-based step; called with rising steps, without gaps after the first.
  std::function<Batch(int64_t step)> batch;
  int64_t log_every = 10;  // steps between lines of metrics.jsonl
  double checkpoint_seconds = 60.0;
  int64_t max_bad_samples = 10;  // more distinct ones end the run
  // Steps of which loss or gradient may be not finite: each is passed over, with all state as it
  // was before. Costs a copy of that state in every step.
  int64_t max_skipped_steps = 0;
  StepOptions step;
  ProgressOptions progress;
  std::function<bool(int64_t step)> stop;  // asked after `step` steps: whether to save and leave
  // Seconds until this process has to be gone; the run stops while they are enough for the longest
  // step, evaluation and two saves that it has seen. It takes one step at least. Empty: no limit.
  std::function<double()> seconds_left;
  double seconds_to_save = 0.0;             // as long as none was measured
  std::atomic<int64_t>* stop_at = nullptr;  // shared by ranks: the step before which all stop
  // Measures what the network has become, every so many steps (0: never), at the start and at the
  // end: a record. Of its "score" the highest names the best checkpoint; a NaN never does.
  int64_t evaluate_every = 0;
  std::function<Json()> evaluate;
  WeightAverage* average = nullptr;  // follows every step
  Trace* trace = nullptr;
  std::string start;              // how the weights came to be that it begins with; or nothing
  std::string fingerprint;        // of the data: a run goes on with that which it began with alone
  Json session = Json::object();  // who works on the run; a line of sessions.jsonl
};

struct TrainResult {
  int64_t first_step = 0;   // where this process began
  double seconds = 0.0;     // of all processes that worked on the run
  double loss = 0.0;        // of the last step
  int64_t bad_samples = 0;  // distinct ones that could not be decoded
};

// Ranks (Objective::comm) work on it together: the first logs and saves. Continues from the
// folder's newest checkpoint. Throws NonFiniteError before the weights are touched, where the step
// is not to be skipped, and an Error
// with ExitCode::interrupted after saving when a stop is asked for. A checkpoint that cannot be
// written (disk full) is tried again later; at the end it is an error.
TrainResult train(Objective& objective, Optimizer& optimizer, RunFolder& folder,
                  const TrainOptions& options);

// Training's records of metrics.jsonl in step order; of a step that was logged twice the last.
// Lines that a crash cut short are passed over. failed: instead those of steps that were not
// finite.
std::vector<Json> read_metrics(const std::filesystem::path& run, bool failed = false);

}  // namespace facet
