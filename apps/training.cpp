#include "apps/training.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "apps/evaluate.h"
#include "apps/training_run.h"
#include "ssl/moco.h"
#include "tensor/parallel.h"
#include "tensor/text.h"
#if defined(FACET_CUDA)
#include "cuda/vendor/comm.h"
#endif

namespace facet {

void RunOptions::add_to(Options& options) {
  options.add("--data,--dataset", data, "Dataset:\n" + dataset_help());
  reading.add_to(options);
  options.add("--per-class", per_class, "Training images a class (0: all)");
  options.add("-b,--batch-size", batch_size, "Images a step");
  options.add("--accumulate", accumulate,
              "Equal parts of a batch, one at a time in memory, whose gradients add up (losses of "
              "single pictures: supervised, MAE; batch norm sees parts)");
  options.add("--epochs", epochs, "Passes over the training images");
  options.choice("--opt", opt, optimizer_names(), "Optimiser; lars is SimCLR's form");
  options.add("--lr", lr, "Highest learning rate");
  options.choice("--sched", schedule,
                 {"cosine", "moco", "simclr", "mae", "timm", "islam", "onecycle"},
                 "The learning rate's, after the official codes; cosine: SwAV's and DINO's");
  options.add("--min-lr", min_lr, "Last learning rate");
  options.add("--warmup-epochs", warmup_epochs, "Linear warm-up (moco has none)");
  options.add("--warmup-lr", warmup_lr, "First learning rate (cosine, timm, islam)");
  options.add("--momentum", momentum, "Of SGD and LARS; Adam's beta1");
  options.add("--beta2", beta2, "Of Adam");
  options.add("--weight-decay", weight_decay, "Of weights, not of norms and biases");
  options.add("--weight-decay-end", weight_decay_end,
              "Last weight decay, along a cosine (-1: constant)");
  options.flag("--decay-norms", decay_norms, "Norms and biases decay, too (MoCo's official code)");
  options.add("--clip-grad", clip_grad, "Largest gradient norm (0: no limit)");
  options.add("--nonfinite", nonfinite,
              "A loss or gradient that is not finite: fail, or skip:N, which passes over up to N "
              "such steps with all state as before, and keeps a copy of it");
  options.add("--min-area", min_area, "Smallest random crop, as share of the picture (0: default)");
  options.choice("--precision", precision, {"f32", "bf16"},
                 "Of images and activations; weights and statistics stay f32");
  options.add("--seed", seed, "Of weights, order and augmentation");
  options.add("--output", output, "The run's folder", Options::kProcess);
  options.add("--device", device,
              "cpu, cuda or cuda:N; to pretrain, also cuda:0,1,...: equal shares of each batch",
              Options::kProcess);
  options.flag("--graph", graph, "On CUDA, record a step once and replay it", Options::kProcess);
  options.add("-j,--workers", workers, "Threads that prepare batches", Options::kProcess);
  options.add("--threads", threads, "Threads that compute (0: one a core)", Options::kProcess);
  options.add("--log-interval", log_interval, "Steps between records", Options::kProcess);
  options.add("--checkpoint-seconds", checkpoint_seconds, "Between checkpoints", Options::kProcess);
  options.add("--max-seconds", max_seconds, "Save and stop then, to be continued (0: no limit)",
              Options::kProcess);
  options.choice(
      "--on-preempt", on_preempt, {"exit", "wait"},
      "Saved on request: leave, or wait to be killed, where only then a job is queued again",
      Options::kProcess);
  options.add("--trace", trace, "Write some steps, call by call, as a Chrome or Perfetto trace",
              Options::kProcess);
  options.add("--trace-from", trace_from, "The first such step of this process", Options::kProcess);
  options.add("--trace-steps", trace_steps, "How many", Options::kProcess);
  options.flag("--dry-run", dry_run, "Make everything ready, take one step, write nothing",
               Options::kProcess);
  options.flag("--model-ema", model_ema, "With labels: average the weights; model-ema.safetensors");
  options.add("--model-ema-decay", ema_decay, "Of the average, a step");
  options.flag("--model-ema-warmup", ema_warmup, "A smaller decay in the first steps");
  options.add("--eval-epochs", eval_epochs,
              "With labels: epochs between measurements on test pictures (0: none)",
              Options::kProcess);
  options.add("--eval-per-class", eval_per_class, "Test pictures a class (0: all)",
              Options::kProcess);
}

void RunOptions::check() const {
  if (output.empty() && !dry_run) throw UsageError("--output: expected a folder for the run");
  need(batch_size >= 2, "--batch-size", "at least 2", batch_size);
  need(accumulate >= 1, "--accumulate", "at least 1", accumulate);
  need(epochs >= 1, "--epochs", "at least 1", epochs);
  need(per_class >= 0, "--per-class", "at least 0", per_class);
  need(std::isfinite(lr) && lr > 0, "--lr", "a positive number", lr);
  need(weight_decay >= 0, "--weight-decay", "at least 0", weight_decay);
  need(weight_decay_end == -1 || (weight_decay_end >= 0 && weight_decay > 0), "--weight-decay-end",
       "-1, or at least 0 with a positive --weight-decay", weight_decay_end);
  need(momentum >= 0 && momentum < 1, "--momentum", "from 0 to less than 1", momentum);
  need(beta2 >= 0 && beta2 < 1, "--beta2", "from 0 to less than 1", beta2);
  need(warmup_lr >= 0 && min_lr >= 0, "--warmup-lr and --min-lr", "at least 0",
       std::min(warmup_lr, min_lr));
  need(warmup_epochs >= 0 && warmup_epochs < static_cast<double>(epochs), "--warmup-epochs",
       "from 0 to less than --epochs", warmup_epochs);
  need(min_area >= 0 && min_area <= 1, "--min-area", "0 to 1", min_area);
  max_skipped_steps();
  need(workers >= 0 && workers <= 256, "--workers", "0 to 256", workers);
  need(log_interval >= 1, "--log-interval", "at least 1", log_interval);
  need(threads >= 0, "--threads", "at least 0", threads);
  need(max_seconds >= 0, "--max-seconds", "at least 0", max_seconds);
  need(ema_decay >= 0 && ema_decay <= 1, "--model-ema-decay", "0 to 1", ema_decay);
  need(eval_epochs >= 0, "--eval-epochs", "at least 0", eval_epochs);
  need(eval_per_class >= 0, "--eval-per-class", "at least 0", eval_per_class);
}

int64_t RunOptions::max_skipped_steps() const {
  if (nonfinite == "fail") return 0;
  const bool skips = nonfinite.starts_with("skip:");
  const int64_t steps = skips ? to_number<int64_t>(nonfinite.substr(5)).value_or(0) : 0;
  need(steps >= 1, "--nonfinite", "fail, or skip:N with N of at least 1", nonfinite);
  return steps;
}

void PretrainOptions::add_to(Options& options) {
  method.add_to(options);
  network.add_to(options);
  run.add_to(options);
  options.flag("--batch-per-device", batch_per_device,
               "--batch-size is of each device, as torch's scripts and timm count",
               Options::kProcess);
}

void PretrainOptions::resolve_batch() {
  const auto devices = std::count(run.device.begin(), run.device.end(), ',') + 1;
  if (std::exchange(batch_per_device, false)) run.batch_size *= devices;
  if (devices > 1)
    log_info(
        "warning: a batch is {} pictures in all, {} on each of {} devices (see --batch-per-device)",
        run.batch_size, run.batch_size / devices, devices);
}

namespace {

// Runs body on a rank for each device.
void on_devices(const std::vector<Device>& devices, const std::function<void(Comm& comm)>& body) {
  if (devices.size() == 1) return body(single_rank());
#if defined(FACET_CUDA)
  std::vector<int> indices;
  for (const Device& device : devices) indices.push_back(device.index);
  cuda::run_ranks(indices, body);
#endif
}

}  // namespace

DatasetPtr training_set(const RunOptions& options) {
  const DatasetPtr all = options.reading.open(options.data, Split::train);
  return options.per_class > 0 ? balanced_subset(all, options.per_class, options.seed) : all;
}

std::unique_ptr<Encoder> untrained_network(const MethodOptions& method,
                                           const NetworkOptions& network, uint64_t seed) {
  const std::unique_ptr<Objective> objective =
      make_objective(method, network, {.classes = 2}, seed);
  auto copy = make_encoder(network.resolve());
  copy_state(objective->encoder(), *copy);
  return copy;
}

TrainResult pretrain(const PretrainOptions& options, const std::string& config) {
  options.run.check();
  const std::vector<Device> devices = use_devices(options.run.device);
  if (devices.size() > 1 && (options.run.dry_run || options.run.model_ema ||
                             options.run.eval_epochs > 0 || !options.run.trace.empty()))
    throw UsageError(
        "--dry-run, --model-ema, --eval-epochs and --trace: expected one device, got --device {}",
        options.run.device);
  if (!options.run.dry_run)
    if (const auto result = finished(options.run.output, config)) return *result;
  if (options.run.threads > 0) set_num_threads(static_cast<int>(options.run.threads));
  const DatasetPtr dataset = training_set(options.run);
  const std::string& method = options.method.method;
  const Normalization n = normalization_for(options.run.data, method);
  if (uses_labels(method)) require_single_label(dataset);
  const RunSize size{.classes = dataset->num_classes(),
                     .samples = dataset->size(),
                     .batch_size = options.run.batch_size,
                     .epochs = options.run.epochs,
                     .ranks = static_cast<int>(devices.size())};
  std::vector<std::unique_ptr<Objective>> objectives;  // each rank's
  for (size_t rank = 0; rank < devices.size(); ++rank)
    objectives.push_back(make_objective(options.method, options.network, size, options.run.seed));
  for (const auto& objective : objectives) take_in_parts(options.run, *objective, devices.size());
  Objective& first = *objectives.front();
  const std::vector<Pipeline> views = training_views(
      options.method, options.network, n, is_grey(options.run.data), options.run.min_area);
  Linear* classifier = nullptr;
  auto* const supervised = dynamic_cast<Supervised*>(&first);
  if (supervised) classifier = &supervised->classifier();
  if (auto* hybrid = dynamic_cast<CeSelfSupcon*>(&first)) classifier = &hybrid->classifier();
  if (!supervised && (options.run.model_ema || options.run.eval_epochs > 0))
    throw UsageError("--model-ema and --eval-epochs: expected --method supervised, got {}", method);
  log_info("{}: {} {} with {} parameters on {} pictures of {}", options.run.output, method,
           options.network.arch, parameter_count(first.encoder()), dataset->size(),
           dataset->describe());
  std::optional<RunFolder> folder;  // only now: a refused request leaves none
  if (!options.run.dry_run) folder.emplace(options.run.output, config);
  TrainResult result;
  std::atomic<int64_t> stop_at = std::numeric_limits<int64_t>::max();
  on_devices(devices, [&](Comm& comm) {
    const auto rank = static_cast<size_t>(comm.rank());
    Objective& objective = *objectives[rank];
    objective.set_comm(comm);
    if (shares_norms(method)) set_norm_comm(objective, comm);
    TrainingRun run(options.run, objective, views, dataset, devices[rank]);
    run.options().stop_at = &stop_at;
    if (supervised && rank == 0)
      run.follow(*supervised,
                 test_view(options.network.image_size, n, method, options.method.labels.crop,
                           options.method.labels.interpolation));
    const TrainResult mine = folder ? run.train(*folder) : run.try_out();
    objective.set_comm(single_rank());
    set_norm_comm(objective, single_rank());
    if (rank > 0) return;
    result = mine;
    if (folder)
      run.save_model(*folder, first.name(), options.network.image_size, config, result, classifier);
  });
  return result;
}

}  // namespace facet
