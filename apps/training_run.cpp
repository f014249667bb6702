#include "apps/training_run.h"

#include <cmath>

#include "apps/evaluate.h"
#include "apps/interrupt.h"
#include "metrics/cka.h"
#include "optim/schedule.h"
#include "tensor/text.h"

namespace facet {
namespace {

constexpr double kSlowDisk = 50e6;   // bytes a second
constexpr int64_t kPictures = 2048;  // of the comparison with the start

struct OptimizerKind {
  const char* name;
  OptimizerOptions options;
};
const std::vector<OptimizerKind>& optimizer_kinds() {
  static const std::vector<OptimizerKind> kinds = {
      {"sgd", {.algorithm = Algorithm::sgd}},
      {"nesterov", {.algorithm = Algorithm::sgd, .nesterov = true}},
      {"adamw", {.algorithm = Algorithm::adamw}},
      {"adam", {.algorithm = Algorithm::adam}},
      {"lars", {.algorithm = Algorithm::lars}},
      {"lars_mocov3", {.algorithm = Algorithm::lars, .lars_form = LarsForm::moco_v3}},
      {"larc", {.algorithm = Algorithm::lars, .lars_form = LarsForm::larc}},
  };
  return kinds;
}

Optimizer make_optimizer(const RunOptions& options, Objective& objective, Device device) {
  to_device(objective, device);
  OptimizerOptions chosen;
  for (const OptimizerKind& kind : optimizer_kinds())
    if (options.opt == kind.name) chosen = kind.options;
  chosen.momentum = chosen.beta1 = options.momentum;
  chosen.beta2 = options.beta2;
  std::vector<ParamGroup> groups = objective.groups(options.weight_decay);
  for (ParamGroup& group : groups) {
    if (options.decay_norms) group.weight_decay = options.weight_decay;
    if (chosen.lars_form == LarsForm::larc) group.adapt = true;  // as apex: everything adapts
  }
  return {chosen, std::move(groups)};
}

// Learning rates of 0-based steps.
std::function<double(int64_t)> make_schedule(const RunOptions& options, int64_t per_epoch,
                                             int64_t samples) {
  const double peak = options.lr, last = options.min_lr, warm = options.warmup_epochs;
  const int64_t epochs = options.epochs, total = per_epoch * epochs;
  if (options.schedule == "moco")
    return [=](int64_t step) { return schedule::moco(peak, step / per_epoch, epochs); };
  if (options.schedule == "simclr") {
    const auto plan =
        schedule::simclr_plan(samples, options.batch_size, epochs, std::llround(warm));
    return [=](int64_t step) { return schedule::simclr(peak, step, plan); };
  }
  if (options.schedule == "mae")
    return [=](int64_t step) {
      return schedule::mae(peak, last, static_cast<double>(step) / static_cast<double>(per_epoch),
                           warm, static_cast<double>(epochs));
    };
  const double first = options.warmup_lr;
  if (options.schedule == "timm")
    return [=](int64_t step) {
      return schedule::timm(peak, last, first, step / per_epoch, std::llround(warm), epochs);
    };
  if (options.schedule == "islam")
    return [=](int64_t step) {
      return schedule::islam(peak, last, first, step, per_epoch, std::llround(warm), epochs);
    };
  if (options.schedule == "onecycle") {
    // Without a warm-up of one's own: a fifth of the run, as Ben-Baruch et al. 2021.
    const double rising =
        warm > 0 ? warm * static_cast<double>(per_epoch) : 0.2 * static_cast<double>(total);
    return [=](int64_t step) { return schedule::one_cycle(peak, step, rising, total); };
  }
  const auto warmup = static_cast<int64_t>(std::llround(warm * static_cast<double>(per_epoch)));
  return [=](int64_t step) {
    return schedule::warmup_linspace_cosine(first, peak, last, step, warmup, total);
  };
}

// What a network with a classifier becomes during a run: accuracy (or mAP) on test pictures, the
// diversities of the weights, both Calibrated ImageNet Scores (their product with the accuracy),
// and the linear CKA of the features with those at the start.
class RunScores {
 public:
  // Takes the objective as it is now for the start.
  RunScores(Supervised& objective, DatasetPtr test, Pipeline view, int64_t workers)
      : objective_(objective), test_(std::move(test)), view_(std::move(view)), workers_(workers) {
    std::vector<int64_t> first(static_cast<size_t>(std::min(test_->size(), kPictures)));
    for (size_t i = 0; i < first.size(); ++i) first[i] = static_cast<int64_t>(i);
    const auto part = std::make_shared<SubsetDataset>(test_, first);
    start_ = extract_features(objective_.encoder(), part, view_, workers_).x;
  }
  // Names as in results.json, each behind `prefix`; the objective is left in eval mode.
  Json measure(const std::string& prefix = "") {
    const Features features = extract_features(objective_.encoder(), test_, view_, workers_);
    Linear& head = objective_.classifier();
    const Tensor scores =
        ops::matmul(features.x, head.weight.value(), false, true, head.bias.value());
    const double percent = percent_right(scores, features.labels);
    const ModelDiversity diversity = model_diversity(
        named_weights(objective_.encoder()), {.heads = attention_heads(objective_.encoder())});
    return {{prefix + quality(), percent},
            {prefix + "clustering_diversity", diversity.clustering},
            {prefix + "spectral_diversity", diversity.spectral},
            {prefix + "clustering_cis", percent * diversity.clustering},
            {prefix + "spectral_cis", percent * diversity.spectral},
            {prefix + "cka_to_start", linear_cka(features.x.narrow(0, start_.dim(0)), start_)}};
  }
  const char* quality() const { return test_->multi_label() ? "mAP" : "accuracy"; }

 private:
  Supervised& objective_;
  DatasetPtr test_;
  Pipeline view_;
  int64_t workers_;
  Tensor start_;  // features (pictures, D) at the start, of the first pictures
};

// How much a checkpoint takes, about: weights with both moments of Adam.
size_t bytes_of_checkpoint(Objective& objective) {
  size_t bytes = 0;
  for (const NamedTensor& t : state(objective)) bytes += t.value.bytes();
  return 3 * bytes;
}

}  // namespace

std::vector<std::string> optimizer_names() {
  return names_of(optimizer_kinds());
}

std::optional<TrainResult> finished(const std::string& output, const std::string& config) {
  if (!std::filesystem::exists(std::filesystem::path(output) / "model.safetensors"))
    return std::nullopt;
  const RunFolder folder(output, config);
  const Metadata metadata = load_safetensors(folder.model_path()).metadata;
  log_info("{}: complete already", folder.path().string());
  return TrainResult{.first_step = -1,
                     .seconds = std::stod(metadata.at("facet.seconds")),
                     .loss = std::stod(metadata.at("facet.loss"))};
}

void require_single_label(const DatasetPtr& dataset) {
  if (dataset->multi_label())
    throw UsageError("--data {}: expected one label a picture", dataset->name());
}

void take_in_parts(const RunOptions& options, Objective& objective, size_t ranks) {
  if (options.accumulate > 1 && !objective.divisible())
    throw UsageError(
        "--accumulate: {} compares the pictures of a batch, which is not the sum of its parts: "
        "expected supervised, mae or training with labels",
        objective.name());
  if (options.batch_size % (options.accumulate * static_cast<int64_t>(ranks)) != 0)
    throw UsageError(
        "--batch-size: expected a multiple of {} parts (--accumulate) on "
        "each of {} devices, got {}",
        options.accumulate, ranks, options.batch_size);
  objective.set_parts(options.accumulate);
}

TrainingRun::TrainingRun(const RunOptions& options, Objective& objective,
                         std::vector<Pipeline> views, DatasetPtr dataset, Device device)
    : run_(options),
      objective_(objective),
      device_(device),
      dataset_(std::move(dataset)),
      trace_(options.trace.empty() || options.dry_run
                 ? nullptr
                 : std::make_unique<Trace>(options.trace, options.trace_from, options.trace_steps,
                                           device.type)),
      optimizer_(make_optimizer(options, objective, device)),
      loader_(dataset_, {.views = std::move(views),
                         .batch_size = options.batch_size / objective.comm().size(),
                         .seed = options.seed,
                         .workers = static_cast<int>(options.workers),
                         .views_on = device.is_cpu() ? std::nullopt : std::optional(device),
                         .rank = objective.comm().rank(),
                         .world = objective.comm().size(),
                         .on_bad_sample = options.reading.policy()}) {
  const int64_t per_epoch = loader_.batches(), total = per_epoch * options.epochs;
  train_.title = std::filesystem::path(options.output).filename().string();
  train_.total_steps = total;
  train_.steps_per_epoch = per_epoch;
  train_.step = {.device = device,
                 .precision = options.precision == "bf16" ? DType::bf16 : DType::f32,
                 .seed = options.seed,
                 .clip = options.clip_grad,
                 .graph = options.graph && !trace_};
  train_.lr = make_schedule(options, per_epoch, dataset_->size());
  if (options.weight_decay_end >= 0)
    train_.before_step = [this, total](int64_t step) {
      const double decay = schedule::cosine(run_.weight_decay, run_.weight_decay_end,
                                            static_cast<double>(step) / static_cast<double>(total));
      for (ParamGroup& group : optimizer_.groups())
        if (group.weight_decay > 0) group.weight_decay = decay;
    };
  train_.batch = [this](int64_t step) { return batch_of(step); };
  train_.log_every = options.log_interval;
  train_.checkpoint_seconds = options.checkpoint_seconds;
  train_.max_bad_samples = max_bad_samples(dataset_->size());
  train_.max_skipped_steps = options.max_skipped_steps();
  train_.stop = [](int64_t) { return interrupted(); };
  double limit = job_seconds_left();
  if (options.max_seconds > 0) limit = std::min(limit, options.max_seconds);
  if (std::isfinite(limit))
    train_.seconds_left = [limit, clock = Stopwatch()] { return limit - clock.seconds(); };
  train_.trace = trace_.get();
  train_.fingerprint = dataset_->fingerprint();
  train_.session = {{"started", utc_now()},
                    {"command", command_line()},
                    {"machine", machine_description()},
                    {"device", device_name(device)},
                    {"seed", options.seed},
                    {"data", dataset_->describe()},
                    {"pictures", dataset_->size()},
                    {"fingerprint", train_.fingerprint}};
}

Batch TrainingRun::batch_of(int64_t step) {
  const int64_t in_epoch = step % loader_.batches();
  if (step != next_ || in_epoch == 0) loader_.start(step / loader_.batches(), in_epoch);
  next_ = step + 1;
  std::optional<Batch> batch = loader_.next();
  FACET_INTERNAL_CHECK(batch.has_value());
  return std::move(*batch);
}

void TrainingRun::follow(Supervised& objective, const Pipeline& view,
                         std::function<bool(int64_t step)> encoder_due) {
  if (run_.model_ema) {
    average_ = std::make_unique<WeightAverage>(
        objective, WeightAverage::Options{.decay = run_.ema_decay,
                                          .warmup = run_.ema_warmup,
                                          .encoder_due = std::move(encoder_due)});
    train_.average = average_.get();
  }
  if (run_.eval_epochs == 0 || run_.dry_run) return;
  DatasetPtr test = run_.reading.open(run_.data, Split::test);
  if (run_.eval_per_class > 0) test = balanced_subset(test, run_.eval_per_class, run_.seed);
  const auto scores = std::make_shared<RunScores>(objective, test, view, run_.workers);
  train_.evaluate_every = run_.eval_epochs * train_.steps_per_epoch;
  train_.evaluate = [this, scores] {
    Json record = scores->measure();
    record["score"] = record[scores->quality()];
    if (!average_) return record;
    average_->with_averages([&] {
      const Json averaged = scores->measure("ema_");
      record.update(averaged);
      record["score"] = averaged[std::string("ema_") + scores->quality()];
    });
    return record;
  };
}

TrainResult TrainingRun::try_out() {
  objective_.train();
  TrainStep step(objective_, optimizer_, train_.step);
  const Stopwatch clock;
  const double loss = step(batch_of(0), train_.lr(0), 0);
  log_info(
      "dry run: {} parameters, {} steps of {} pictures, loss {:.4f} after {:.2f} s, {:.0f} MiB",
      parameter_count(objective_), train_.total_steps, run_.batch_size, loss, clock.seconds(),
      peak_memory_mib());
  return {.seconds = clock.seconds(), .loss = loss};
}

TrainResult TrainingRun::train(RunFolder& folder) {
  const size_t bytes = bytes_of_checkpoint(objective_);
  train_.seconds_to_save = static_cast<double>(bytes) / kSlowDisk;
  if (objective_.comm().rank() == 0) folder.expect_space(bytes);
  try {
    return facet::train(objective_, optimizer_, folder, train_);
  } catch (const Error& e) {
    if (e.exit_code() == ExitCode::interrupted && run_.on_preempt == "wait")
      wait_to_be_killed(e.what());
    throw;
  }
}

void TrainingRun::save_model(const RunFolder& folder, const char* method, int64_t image_size,
                             const std::string& config, const TrainResult& result,
                             Linear* classifier) {
  // What a later command has to know about a trained network.
  Metadata metadata = {{"facet.method", method},
                       {"facet.start", train_.start},
                       {"facet.data", run_.reading.specification(run_.data)},
                       {"facet.image_size", std::to_string(image_size)},
                       {"facet.config", config},
                       {"facet.dataset_fingerprint", train_.fingerprint},
                       {"facet.loss", fmt::format("{}", result.loss)},
                       {"facet.seconds", fmt::format("{}", result.seconds)},
                       {"facet.version", FACET_VERSION}};
  remember_classes(*dataset_, metadata);
  if (result.bad_samples > 0) metadata["facet.bad_samples"] = std::to_string(result.bad_samples);
  const auto save = [&](const std::filesystem::path& path) {
    save_network(path, objective_.encoder(), classifier ? classifier->weight.value() : Tensor(),
                 classifier ? classifier->bias.value() : Tensor(), metadata);
  };
  if (average_) average_->with_averages([&] { save(folder.path() / "model-ema.safetensors"); });
  save(folder.model_path());  // the last: with it the run is complete
}

}  // namespace facet
