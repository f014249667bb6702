#include "apps/trainer.h"

#include <cmath>
#include <map>
#include <sstream>

namespace facet {
namespace {

constexpr const char* kModel = "model.";
constexpr const char* kOptimizer = "optimizer.";
constexpr const char* kAverage = "average.";
constexpr double kSlowSave = 20.0;  // seconds: of the 30 that schedulers leave between two signals

// What a run is, apart from its networks.
struct Progressed {
  int64_t step = 0;        // steps done
  int64_t evaluated = -1;  // after which the last evaluation was
  double best = -INFINITY;
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
                             {"facet.data", options.fingerprint}};
  for (const auto& [name, value] : tensors)
    if (is_floating(value.dtype()) && ops::find_nonfinite(std::span(&value, 1)) >= 0)
      throw NonFiniteError(fmt::format(
          "{} holds a NaN or infinity after step {}: kept as {}, the checkpoint before it is good",
          name, at.step, folder.save_crash(at.step, to_file_layout(tensors), metadata).string()));
  const Stopwatch clock;
  folder.save_checkpoint(at.step, to_file_layout(tensors), metadata, best);
  if (clock.seconds() > kSlowSave)
    log_info("warning: saving took {:.0f} s, as long as a scheduler may wait after its signal",
             clock.seconds());
}

Progressed restore(const TensorFile& checkpoint, Objective& objective, Optimizer& optimizer,
                   const TrainOptions& options, TrainResult& result) {
  const auto text = [&](const char* key) {
    const auto found = checkpoint.metadata.find(key);
    if (found == checkpoint.metadata.end())
      throw FileError(fmt::format("the checkpoint has no '{}' among its metadata", key));
    return found->second;
  };
  if (const std::string before = text("facet.data"); before != options.fingerprint)
    throw FileError(
        fmt::format("{}: its training images were others (fingerprint {}, now {}): "
                    "restore them, or choose another --output",
                    options.title, before, options.fingerprint));
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
  return {std::stol(text("facet.step")), std::stol(text("facet.evaluated")),
          std::stod(text("facet.best"))};
}

}  // namespace

TrainResult train(Objective& objective, Optimizer& optimizer, RunFolder& folder,
                  const TrainOptions& options) {
  TrainResult result;
  Progressed at;
  int64_t& step = at.step;
  if (const auto checkpoint = folder.load_checkpoint()) {
    at = restore(*checkpoint, objective, optimizer, options, result);
    if (step < options.total_steps)
      log_info("{}: continuing after step {} of {}", options.title, step, options.total_steps);
  }
  result.first_step = step;
  const auto evaluation_due = [&] {
    return options.evaluate_every > 0 && at.evaluated != step &&
           (step % options.evaluate_every == 0 || step == options.total_steps);
  };
  if (step >= options.total_steps && !evaluation_due()) return result;
  folder.begin(step, options.session);

  objective.train();
  TrainStep train_step(objective, optimizer, options.step);
  Progress progress(options.title, step, options.total_steps, options.progress);
  Stopwatch since_start, since_save;
  const double seconds_before = result.seconds;
  Progressed saved = at;
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
          fmt::format("{}: the device failed in step {}: {}; the last checkpoint in {} is good, "
                      "the same command goes on from there",
                      options.title, step + 1, e.what(), (folder.path() / "checkpoints").string()));
    }
  };
  const auto checkpoint = [&](bool best, bool last) {
    result.seconds = seconds_before + since_start.seconds();
    try {
      guarded([&] { save(folder, objective, optimizer, options, at, result, best); });
      saved = at;
    } catch (const FileError& e) {
      if (last) throw;
      log_info("warning: {}; training goes on, the checkpoint before it is good", e.what());
    }
    since_save = Stopwatch();
  };
  const auto evaluate = [&] {
    Json record = {{"step", step}, {"epoch", epoch()}, {"seconds", seconds()}, {"split", "test"}};
    const TraceSpan span(options.trace, "evaluate");
    record.update(options.evaluate());
    folder.log(record);
    objective.train();
    at.evaluated = step;
    const double score = record.value("score", std::nan(""));
    if (score > at.best) {
      at.best = score;
      checkpoint(true, false);
    }
  };
  const auto stopping = [&] { return options.stop && options.stop(step); };
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
    const Batch batch = [&] {
      const TraceSpan waiting(options.trace, "wait for data");
      return options.batch(step);
    }();
    const double wait = step_clock.seconds();
    const double lr = options.lr(step);
    if (options.before_step) options.before_step(step);
    try {
      guarded([&] { result.loss = train_step(batch, lr, step); });
    } catch (const NonFiniteError& e) {
      std::string samples;
      for (const int64_t index : batch.indices.to_vector<int64_t>())
        samples += fmt::format("{}{}", samples.empty() ? "" : " ", index);
      folder.log({{"step", step},
                  {"loss", nullptr},
                  {"lr", lr},
                  {"error", e.what()},
                  {"samples", samples}});
      // Batch norm's running statistics may have seen the bad batch, so this state is not saved.
      throw NonFiniteError(fmt::format(
          "{}: {} (samples: {}; the last checkpoint in {} is good)", options.title, e.what(),
          (folder.path() / "metrics.jsonl").string(), (folder.path() / "checkpoints").string()));
    }
    if (options.average) options.average->update(step);
    ++step;
    const int64_t images = batch.labels.dim(0);
    progress.update({step, result.loss, lr, images, step_clock.seconds(), wait});
    if (step % options.log_every == 0 || step == 1 || step == options.total_steps) {
      Json record = {{"step", step},     {"epoch", epoch()},    {"seconds", seconds()},
                     {"split", "train"}, {"loss", result.loss}, {"lr", lr}};
      record["collapse_loss"] = objective.collapse_loss(images);
      guarded([&] {
        for (const NamedMetric& metric : objective.metrics()) record[metric.name] = metric.value;
      });
      record["images_per_second"] = progress.images_per_second();
      record["wait_share"] = progress.wait_share();
      folder.log(record);
    }
    if (since_save.seconds() > options.checkpoint_seconds && step < options.total_steps) {
      const TraceSpan saving(options.trace, "checkpoint");
      checkpoint(false, false);
    }
  }
  if (saved.step != step || saved.evaluated != at.evaluated) checkpoint(false, true);
  if (step < options.total_steps || evaluation_due()) {
    folder.stopped(step);
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
