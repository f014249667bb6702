#include "apps/trainer.h"

#include <map>
#include <optional>
#include <sstream>

#include "apps/interrupt.h"

namespace facet {
namespace {

constexpr const char* kModel = "model.";
constexpr const char* kOptimizer = "optimizer.";

void save(RunFolder& folder, int64_t step, Objective& objective, const Optimizer& optimizer,
          double seconds, double loss) {
  std::vector<NamedTensor> tensors;
  for (auto& [name, value] : state(objective)) {
    // A bad state never pushes out a good one.
    if (is_floating(value.dtype()) && ops::find_nonfinite(std::span(&value, 1)) >= 0)
      throw NonFiniteError(
          fmt::format("{} holds a NaN or infinity after step {}: not saved", name, step));
    tensors.push_back({kModel + name, value.to(Device{})});
  }
  for (auto& [name, value] : optimizer.state())
    tensors.push_back({kOptimizer + name, value.to(Device{})});
  objective.comm().check();
  folder.save_checkpoint(step, to_file_layout(tensors),
                         {{"facet.method", objective.name()},
                          {"facet.seconds", fmt::format("{}", seconds)},
                          {"facet.loss", fmt::format("{}", loss)}});
}

// Returns the number of steps done.
int64_t restore(const TensorFile& checkpoint, Objective& objective, Optimizer& optimizer,
                TrainResult& result) {
  std::vector<NamedTensor> model, rest;
  for (const auto& [name, value] : from_file_layout(checkpoint.tensors)) {
    if (name.starts_with(kModel)) model.push_back({name.substr(6), value});
    if (name.starts_with(kOptimizer)) rest.push_back({name.substr(10), value});
  }
  load_state(objective, model);
  optimizer.load(rest);
  const auto number = [&](const char* key) {
    const auto found = checkpoint.metadata.find(key);
    if (found == checkpoint.metadata.end())
      throw FileError(fmt::format("the checkpoint has no '{}' among its metadata", key));
    return std::stod(found->second);
  };
  result.seconds = number("facet.seconds");
  result.loss = number("facet.loss");
  return static_cast<int64_t>(number("step"));
}

}  // namespace

TrainResult train(Objective& objective, Optimizer& optimizer, RunFolder& folder,
                  const TrainOptions& options) {
  TrainResult result;
  int64_t step = 0;
  if (const auto checkpoint = folder.load_checkpoint()) {
    step = restore(*checkpoint, objective, optimizer, result);
    if (step < options.total_steps && objective.comm().rank() == 0)
      log_info("{}: continuing after step {} of {}", options.title, step, options.total_steps);
  }
  result.first_step = step;
  if (step >= options.total_steps) return result;

  objective.train();
  Comm& comm = objective.comm();
  const bool leads = comm.rank() == 0;
  TrainStep train_step(objective, optimizer, options.step);
  std::optional<Progress> progress;
  if (leads) progress.emplace(options.title, step, options.total_steps, options.progress);
  Stopwatch since_start, since_save;
  const double seconds_before = result.seconds;
  int64_t saved_step = step;
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
  const auto checkpoint = [&] {
    result.seconds = seconds_before + since_start.seconds();
    guarded([&] { save(folder, step, objective, optimizer, result.seconds, result.loss); });
    saved_step = step;
    since_save = Stopwatch();
  };
  // All ranks stop before the same step. The first says which before its part of the step ahead of
  // it, without which nobody comes that far.
  std::atomic<int64_t> alone = std::numeric_limits<int64_t>::max();
  std::atomic<int64_t>& stop_at = options.stop_at ? *options.stop_at : alone;
  const auto stops = [&] {
    if (leads && interrupted()) stop_at = std::min(stop_at.load(), step + (comm.size() > 1));
    return step >= stop_at;
  };
  while (step < options.total_steps && !stops()) {
    Stopwatch step_clock;
    const Batch batch = options.batch(step);
    const double wait = step_clock.seconds();
    const double lr = options.lr(step);
    if (options.weight_decay)
      for (ParamGroup& group : optimizer.groups())
        if (group.weight_decay > 0) group.weight_decay = options.weight_decay(step);
    try {
      guarded([&] { result.loss = train_step(batch, lr, step); });
    } catch (const NonFiniteError& e) {
      std::string samples;
      const Tensor all = comm.all_gather(batch.indices.to(options.step.device));
      for (const int64_t index : all.to_vector<int64_t>())
        samples += fmt::format("{}{}", samples.empty() ? "" : " ", index);
      if (!leads) {
        comm.barrier();  // which the first does not come to: its error is the one that counts
        throw;
      }
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
    ++step;
    if (!leads) continue;
    const int64_t images = batch.labels.dim(0) * comm.size();
    progress->update({step, result.loss, lr, images, step_clock.seconds(), wait});
    if (step % options.log_every == 0 || step == 1 || step == options.total_steps) {
      Json record = {
          {"step", step},
          {"epoch", static_cast<double>(step) / static_cast<double>(options.steps_per_epoch)},
          {"seconds", seconds_before + since_start.seconds()},
          {"split", "train"},
          {"loss", result.loss},
          {"lr", lr}};
      record["collapse_loss"] = objective.collapse_loss(images);
      guarded([&] {
        for (const NamedMetric& metric : objective.metrics()) record[metric.name] = metric.value;
      });
      record["images_per_second"] = progress->images_per_second();
      record["wait_share"] = progress->wait_share();
      folder.log(record);
    }
    if (since_save.seconds() > options.checkpoint_seconds && step < options.total_steps)
      checkpoint();
  }
  if (leads && saved_step != step) checkpoint();
  comm.barrier();  // a rank that ends with an error would stop the one that saves
  if (step < options.total_steps)
    stop_if_interrupted(fmt::format("{}: stopped after step {} of {}, saved in {}", options.title,
                                    step, options.total_steps, folder.path().string()));
  return result;
}

std::vector<Json> read_metrics(const std::filesystem::path& run, bool failed) {
  std::map<int64_t, Json> by_step;
  std::istringstream lines(read_file(run / "metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const Json record = Json::parse(line, nullptr, false);
    if (record.is_object() && record.contains("step") && record.contains("error") == failed)
      by_step[record["step"].get<int64_t>()] = record;
  }
  std::vector<Json> records;
  for (auto& [step, record] : by_step) records.push_back(std::move(record));
  return records;
}

}  // namespace facet
