#include "apps/trainer.h"

#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <sstream>

namespace facet {
namespace {

constexpr const char* kModel = "model.";
constexpr const char* kOptimizer = "optimizer.";
constexpr const char* kAverage = "average.";
constexpr const char* kBadSamples = "facet.bad_samples";  // indices
constexpr const char* kSkipped = "facet.skipped_steps";   // how many; earlier versions had none
constexpr double kSlowSave = 20.0;  // seconds: of the 30 that schedulers leave between two signals

// What a run is, apart from its networks.
struct Progressed {
  int64_t step = 0;        // steps done
  int64_t evaluated = -1;  // after which the last evaluation was
  double best = -INFINITY;
  std::set<int64_t> bad_samples = {};
  int64_t skipped = 0;  // steps that were not finite
};

// All that a step may change, to go back to.
struct Snapshot {
  std::vector<NamedTensor> model, optimizer;

  Snapshot(Objective& objective, const Optimizer& steps)
      : model(state(objective)), optimizer(steps.state()) {
    for (std::vector<NamedTensor>* tensors : {&model, &optimizer})
      for (NamedTensor& tensor : *tensors) tensor.value = tensor.value.clone();
  }
  void restore(Objective& objective, Optimizer& steps) const {
    load_state(objective, model);
    steps.load(optimizer);
    steps.clear_grads();
  }
};

std::vector<NamedTensor> with_prefix(const char* prefix, const std::vector<NamedTensor>& tensors) {
  std::vector<NamedTensor> named;
  for (const auto& [name, value] : tensors) named.push_back({prefix + name, value.to(Device{})});
  return named;
}

void save(RunFolder& folder, Objective& objective, const Optimizer& optimizer,
          const TrainOptions& options, const Progressed& at, const TrainResult& result, bool best) {
  std::vector<NamedTensor> tensors = with_prefix(kModel, state(objective));
  const auto add = [&](const char* prefix, const std::vector<NamedTensor>& more) {
    for (NamedTensor& t : with_prefix(prefix, more)) tensors.push_back(std::move(t));
  };
  add(kOptimizer, optimizer.state());
  if (options.average) add(kAverage, options.average->state());
  const Metadata metadata = {{"facet.method", objective.name()},
                             {"facet.seconds", fmt::format("{}", result.seconds)},
                             {"facet.loss", fmt::format("{}", result.loss)},
                             {"facet.evaluated", std::to_string(at.evaluated)},
                             {"facet.best", fmt::format("{}", at.best)},
                             {"facet.start", options.start},
                             {"facet.data", options.fingerprint},
                             {kBadSamples, fmt::format("{}", fmt::join(at.bad_samples, " "))},
                             {kSkipped, std::to_string(at.skipped)}};
  objective.comm().check();
  for (const auto& [name, value] : tensors)
    if (is_floating(value.dtype()) && ops::find_nonfinite(std::span(&value, 1)) >= 0)
      throw NonFiniteError(
          "{} holds a NaN or infinity after step {}: kept as {}, the checkpoint before it is good",
          name, at.step, folder.save_crash(at.step, to_file_layout(tensors), metadata).string());
  folder.save_checkpoint(at.step, to_file_layout(tensors), metadata, best);
}

Progressed restore(const TensorFile& checkpoint, Objective& objective, Optimizer& optimizer,
                   const TrainOptions& options, TrainResult& result) {
  const auto text = [&](const char* key) {
    if (!checkpoint.metadata.contains(key))
      throw FileError("the checkpoint has no '{}' among its metadata", key);
    return checkpoint.metadata.at(key);
  };
  if (const std::string before = text("facet.data"); before != options.fingerprint)
    throw FileError(
        "{}: its training images were others (fingerprint {}, now {}): "
        "restore them, or choose another --output",
        options.title, before, options.fingerprint);
  const std::vector<NamedTensor> all = from_file_layout(checkpoint.tensors);
  const auto part = [&](const std::string& prefix) {
    std::vector<NamedTensor> tensors;
    for (const auto& [name, value] : all)
      if (name.starts_with(prefix)) tensors.push_back({name.substr(prefix.size()), value});
    return tensors;
  };
  load_state(objective, part(kModel));
  optimizer.load(part(kOptimizer));
  if (options.average) options.average->load(part(kAverage));
  result.seconds = std::stod(text("facet.seconds"));
  result.loss = std::stod(text("facet.loss"));
  Progressed at{std::stol(text("facet.step")), std::stol(text("facet.evaluated")),
                std::stod(text("facet.best"))};
  std::istringstream bad(text(kBadSamples));
  for (int64_t index; bad >> index;) at.bad_samples.insert(index);
  if (checkpoint.metadata.contains(kSkipped)) at.skipped = std::stol(text(kSkipped));
  return at;
}

}  // namespace

TrainResult train(Objective& objective, Optimizer& optimizer, RunFolder& folder,
                  const TrainOptions& options) {
  TrainResult result;
  Comm& comm = objective.comm();
  const bool leads = comm.rank() == 0;
  Progressed at;
  int64_t& step = at.step;
  if (const auto checkpoint = folder.load_checkpoint()) {
    at = restore(*checkpoint, objective, optimizer, options, result);
    if (leads && step < options.total_steps)
      log_info("{}: continuing after step {} of {}", options.title, step, options.total_steps);
  }
  result.first_step = step;
  result.bad_samples = static_cast<int64_t>(at.bad_samples.size());
  const auto evaluation_due = [&] {
    return options.evaluate_every > 0 && at.evaluated != step &&
           (step % options.evaluate_every == 0 || step == options.total_steps);
  };
  if (step >= options.total_steps && !evaluation_due()) return result;
  if (leads) folder.begin(step, options.session);

  objective.train();
  TrainStep train_step(objective, optimizer, options.step);
  std::optional<Progress> progress;
  if (leads) progress.emplace(options.title, step, options.total_steps, options.progress);
  Stopwatch since_start, since_save;
  const double seconds_before = result.seconds;
  Progressed saved = at;
  double longest_step = 0, longest_evaluation = 0, seconds_to_save = options.seconds_to_save;
  const auto seconds = [&] { return seconds_before + since_start.seconds(); };
  const auto epoch = [&] {
    return static_cast<double>(step) / static_cast<double>(options.steps_per_epoch);
  };
  // A device that fails is not asked anything more.
  const auto guarded = [&](const auto& work) {
    try {
      work();
    } catch (const DeviceError& e) {
      throw DeviceError(
          "{}: the device failed in step {}: {}; the last checkpoint in {} is good, "
          "the same command goes on from there",
          options.title, step + 1, e.what(), (folder.path() / "checkpoints").string());
    }
  };
  const auto checkpoint = [&](bool best, bool last) {
    result.seconds = seconds();
    const Stopwatch clock;
    try {
      guarded([&] { save(folder, objective, optimizer, options, at, result, best); });
      saved = at;
      seconds_to_save = clock.seconds();
      if (seconds_to_save > kSlowSave)
        log_info("warning: saving took {:.0f} s, as long as a scheduler may wait after its signal",
                 seconds_to_save);
    } catch (const FileError& e) {
      if (last) throw;
      log_info("warning: {}; training goes on, the checkpoint before it is good", e.what());
    }
    since_save = Stopwatch();
  };
  const auto evaluate = [&] {
    Json record = {{"step", step}, {"epoch", epoch()}, {"seconds", seconds()}, {"split", "test"}};
    const TraceSpan span(options.trace, "evaluate");
    const Stopwatch clock;
    record.update(options.evaluate());
    folder.log(record);
    objective.train();
    at.evaluated = step;
    longest_evaluation = std::max(longest_evaluation, clock.seconds());
    const double score = record.value("score", std::nan(""));
    if (score > at.best) {
      at.best = score;
      checkpoint(true, false);
    }
  };
  // All ranks stop before the same step. The first says which before its part of the step ahead of
  // it, without which nobody comes that far.
  std::atomic<int64_t> alone = std::numeric_limits<int64_t>::max();
  std::atomic<int64_t>& stop_at = options.stop_at ? *options.stop_at : alone;
  const auto out_of_time = [&] {
    return options.seconds_left && step > result.first_step &&
           options.seconds_left() <
               longest_step + 2 * seconds_to_save + (evaluation_due() ? longest_evaluation : 0);
  };
  const auto stopping = [&] {
    if (leads && ((options.stop && options.stop(step)) || out_of_time()))
      stop_at = std::min(stop_at.load(), step + (comm.size() > 1));
    return step >= stop_at;
  };
  for (;;) {
    try {
      if (evaluation_due() && !stopping()) evaluate();
    } catch (const Error& e) {
      if (e.exit_code() != ExitCode::interrupted) throw;
      break;  // it is made when the run goes on
    }
    if (step == options.total_steps || stopping()) break;
    if (options.trace) options.trace->begin_step(step - result.first_step + 1);
    const TraceSpan span(options.trace, "step");
    Stopwatch step_clock;
    Batch batch;
    {
      const TraceSpan waiting(options.trace, "wait for data");
      guarded([&] { batch = options.batch(step); });
    }
    const double wait = step_clock.seconds();
    for (const BadSample& bad : batch.bad) {
      if (!at.bad_samples.insert(bad.index).second) continue;
      result.bad_samples = static_cast<int64_t>(at.bad_samples.size());
      log_info("warning: {}: {}", options.title, bad.error);
      if (result.bad_samples > options.max_bad_samples)
        throw FileError(
            "{}: {} samples cannot be decoded, at most {} are passed over; "
            "facet dataset verify names all",
            options.title, result.bad_samples, options.max_bad_samples);
    }
    const double lr = options.lr(step);
    if (options.before_step) options.before_step(step);
    std::optional<Snapshot> before;
    if (options.max_skipped_steps > 0) before.emplace(objective, optimizer);
    try {
      guarded([&] { result.loss = train_step(batch, lr, step); });
    } catch (const NonFiniteError& e) {
      const Tensor samples = comm.all_gather(batch.indices.to(options.step.device));
      const bool skip = at.skipped < options.max_skipped_steps;
      if (!leads && !skip) {
        comm.barrier();  // which the first does not come to: its error is the one that counts
        throw;
      }
      if (leads)
        folder.log({{"step", step},
                    {"loss", nullptr},
                    {"lr", lr},
                    {"error", e.what()},
                    {"samples", fmt::format("{}", fmt::join(samples.to_vector<int64_t>(), " "))}});
      if (skip) {
        before->restore(objective, optimizer);
        ++at.skipped;
        ++step;
        if (leads)
          log_info("warning: {}: {}; skipped, {} of at most {}", options.title, e.what(),
                   at.skipped, options.max_skipped_steps);
        continue;
      }
      // Batch norm's running statistics may have seen the bad batch, so this state is not saved.
      throw NonFiniteError("{}: {} (samples: {}; the last checkpoint in {} is good)", options.title,
                           e.what(), (folder.path() / "metrics.jsonl").string(),
                           (folder.path() / "checkpoints").string());
    }
    if (options.average) options.average->update(step);
    ++step;
    longest_step = std::max(longest_step, step_clock.seconds());
    if (!leads) continue;
    const int64_t images = batch.labels.dim(0) * comm.size();
    progress->update({step, result.loss, lr, images, step_clock.seconds(), wait});
    if (step % options.log_every == 0 || step == 1 || step == options.total_steps) {
      Json record = {{"step", step},     {"epoch", epoch()},    {"seconds", seconds()},
                     {"split", "train"}, {"loss", result.loss}, {"lr", lr}};
      guarded([&] {
        record["collapse_loss"] = objective.collapse_loss(images);
        for (const NamedMetric& metric : objective.metrics()) record[metric.name] = metric.value;
      });
      if (result.bad_samples > 0) record["bad_samples"] = result.bad_samples;
      record["images_per_second"] = progress->images_per_second();
      record["wait_share"] = progress->wait_share();
      folder.log(record);
    }
    if (since_save.seconds() > options.checkpoint_seconds && step < options.total_steps) {
      const TraceSpan saving(options.trace, "checkpoint");
      checkpoint(false, false);
    }
  }
  if (leads && (saved.step != step || saved.evaluated != at.evaluated)) checkpoint(false, true);
  comm.barrier();  // a rank that ends with an error would stop the one that saves
  if (step < options.total_steps || evaluation_due()) {
    if (leads) folder.stopped(step);
    throw Error(fmt::format("{}: stopped after step {} of {}, saved in {}; run the same command "
                            "again to continue",
                            options.title, step, options.total_steps, folder.path().string()),
                ExitCode::interrupted);
  }
  return result;
}

std::vector<Json> read_metrics(const std::filesystem::path& run, bool failed) {
  std::map<int64_t, Json> by_step;
  std::istringstream lines(read_file(run / "metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const Json record = Json::parse(line, nullptr, false);
    if (record.is_object() && record.contains("step") && record.contains("error") == failed &&
        record.value("split", "train") == "train")
      by_step[record["step"].get<int64_t>()] = record;
  }
  std::vector<Json> records;
  for (auto& [step, record] : by_step) records.push_back(std::move(record));
  return records;
}

}  // namespace facet
