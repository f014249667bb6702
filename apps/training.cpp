#include "apps/training.h"

#include <atomic>
#include <charconv>
#include <cmath>
#include <limits>

#include "apps/evaluate.h"
#include "data/loader.h"
#include "metrics/linear_probe.h"
#include "nn/init.h"
#include "optim/schedule.h"
#include "ssl/label_injection.h"
#include "ssl/moco.h"
#include "tensor/parallel.h"
#if defined(FACET_CUDA)
#include "cuda/vendor/comm.h"
#endif

namespace facet {
namespace {

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

std::vector<std::string> optimizer_names() {
  std::vector<std::string> names;
  for (const OptimizerKind& kind : optimizer_kinds()) names.emplace_back(kind.name);
  return names;
}

}  // namespace

void RunOptions::add_to(Options& options) {
  options.add("--data,--dataset", data, "Dataset:\n" + dataset_help());
  reading.add_to(options);
  options.add("--per-class", per_class, "Training images a class (0: all)");
  options.add("-b,--batch-size", batch_size, "Images a step");
  options.add("--epochs", epochs, "Passes over the training images");
  options.choice("--opt", opt, optimizer_names(), "Optimiser; lars is SimCLR's form");
  options.add("--lr", lr, "Highest learning rate");
  options.choice("--sched", schedule, {"cosine", "moco", "simclr", "mae", "timm"},
                 "The learning rate's, after the official codes; cosine: SwAV's and DINO's");
  options.add("--min-lr", min_lr, "Last learning rate");
  options.add("--warmup-epochs", warmup_epochs, "Linear warm-up (moco has none)");
  options.add("--warmup-lr", warmup_lr, "First learning rate (cosine, timm)");
  options.add("--momentum", momentum, "Of SGD and LARS; Adam's beta1");
  options.add("--beta2", beta2, "Of Adam");
  options.add("--weight-decay", weight_decay, "Of weights, not of norms and biases");
  options.add("--weight-decay-end", weight_decay_end,
              "Last weight decay, along a cosine (-1: constant)");
  options.flag("--decay-norms", decay_norms, "Norms and biases decay, too (MoCo's official code)");
  options.add("--clip-grad", clip_grad, "Largest gradient norm (0: no limit)");
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
}

void RunOptions::check() const {
  const auto need = [](bool condition, const char* option, const char* expected, auto got) {
    if (!condition) throw UsageError(fmt::format("{}: expected {}, got {}", option, expected, got));
  };
  if (output.empty()) throw UsageError("--output: expected a folder for the run");
  need(batch_size >= 2, "--batch-size", "at least 2", batch_size);
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
  need(workers >= 0 && workers <= 256, "--workers", "0 to 256", workers);
  need(log_interval >= 1, "--log-interval", "at least 1", log_interval);
  need(threads >= 0, "--threads", "at least 0", threads);
}

void PretrainOptions::add_to(Options& options) {
  method.add_to(options);
  network.add_to(options);
  run.add_to(options);
}

void InjectOptions::add_to(Options& options) {
  options.add("--from", from, "The run or file of weights to start from");
  options.add("--cycle", cycle,
              "Control cycle T: the backbone learns at every T-th step; inf: never");
  options.choice("--order", order, {"joint", "sequential"},
                 "Backbone's gradient at the old or new head");
  options.choice("--norm", norm, {"auto", "train", "eval", "batch_no_update"},
                 "Batch norm of the backbone");
  options.choice("--head", head, {"probe", "centroids", "random"}, "Classifier to start with");
  options.choice("--skipped", skipped, {"skip", "zero_grad", "accumulate_mean", "accumulate_sum"},
                 "Optimiser state of the backbone on the steps between");
  options.add("--smoothing", smoothing, "Label smoothing");
  options.add("--backbone-lr-scale", backbone_lr_scale, "Learning rate of the backbone, relative");
  run.add_to(options);
}

namespace {

// scikit-learn's default strength of regularisation.
constexpr double kHeadProbeC = 1.0;

// Batches by global step: step s is batch s mod n of epoch s div n.
class BatchStream {
 public:
  BatchStream(DatasetPtr dataset, LoaderOptions options)
      : loader_(std::move(dataset), std::move(options)) {}
  int64_t steps_per_epoch() const { return loader_.batches(); }
  bool leaves_views() const { return loader_.leaves_views(); }

  Batch operator()(int64_t step) {
    const int64_t in_epoch = step % steps_per_epoch();
    if (step != next_ || in_epoch == 0) loader_.start(step / steps_per_epoch(), in_epoch);
    next_ = step + 1;
    std::optional<Batch> batch = loader_.next();
    FACET_INTERNAL_CHECK(batch.has_value());
    return std::move(*batch);
  }

 private:
  DataLoader loader_;
  int64_t next_ = -1;
};

Optimizer make_optimizer(const RunOptions& options, Objective& objective) {
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
  const auto warmup = static_cast<int64_t>(std::llround(warm * static_cast<double>(per_epoch)));
  return [=](int64_t step) {
    return schedule::warmup_linspace_cosine(first, peak, last, step, warmup, total);
  };
}

TrainResult run_training(const RunOptions& options, Objective& objective,
                         std::vector<Pipeline> views, const DatasetPtr& dataset, RunFolder& folder,
                         Device device, std::atomic<int64_t>* stop_at = nullptr) {
  const Comm& comm = objective.comm();
  to_device(objective, device);
  Optimizer optimizer = make_optimizer(options, objective);
  BatchStream stream(dataset, {.views = std::move(views),
                               .batch_size = options.batch_size / comm.size(),
                               .seed = options.seed,
                               .workers = static_cast<int>(options.workers),
                               .views_on_device = !device.is_cpu(),
                               .rank = comm.rank(),
                               .world = comm.size(),
                               .on_bad_sample = options.reading.policy()});
  if (comm.rank() == 0 && !device.is_cpu() && !stream.leaves_views())
    log_info("{}: views are made on the CPU, with steps that {} lacks", options.output,
             device.str());
  const int64_t per_epoch = stream.steps_per_epoch(), total = per_epoch * options.epochs;
  TrainOptions train_options;
  train_options.title = folder.path().filename().string();
  train_options.total_steps = total;
  train_options.steps_per_epoch = per_epoch;
  train_options.step = {.device = device,
                        .precision = options.precision == "bf16" ? DType::bf16 : DType::f32,
                        .seed = options.seed,
                        .clip = options.clip_grad,
                        .graph = options.graph};
  train_options.lr = make_schedule(options, per_epoch, dataset->size());
  if (options.weight_decay_end >= 0)
    train_options.weight_decay = [&options, total](int64_t step) {
      return schedule::cosine(options.weight_decay, options.weight_decay_end,
                              static_cast<double>(step) / static_cast<double>(total));
    };
  train_options.batch = [&stream](int64_t step) { return stream(step); };
  train_options.log_every = options.log_interval;
  train_options.checkpoint_seconds = options.checkpoint_seconds;
  train_options.max_bad_samples = max_bad_samples(dataset->size());
  train_options.stop_at = stop_at;
  return train(objective, optimizer, folder, train_options);
}

// Runs body on a rank for each device.
void on_devices(const std::vector<Device>& devices, const std::function<void(Comm& comm)>& body) {
  if (devices.size() == 1) return body(single_rank());
#if defined(FACET_CUDA)
  std::vector<int> indices;
  for (const Device& device : devices) indices.push_back(device.index);
  cuda::run_ranks(indices, body);
#endif
}

// What a later command has to know about a trained network.
Metadata describe(const char* method, const RunOptions& run, int64_t image_size,
                  const std::string& config, const DatasetPtr& dataset, const TrainResult& result) {
  Metadata metadata = {{"facet.method", method},
                       {"facet.data", run.reading.specification(run.data)},
                       {"facet.image_size", std::to_string(image_size)},
                       {"facet.config", config},
                       {"facet.dataset_fingerprint", dataset->fingerprint()},
                       {"facet.loss", fmt::format("{}", result.loss)},
                       {"facet.seconds", fmt::format("{}", result.seconds)},
                       {"facet.version", FACET_VERSION}};
  remember_classes(*dataset, metadata);
  if (result.bad_samples > 0) metadata["facet.bad_samples"] = std::to_string(result.bad_samples);
  return metadata;
}

// A finished run needs nothing but what it wrote.
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
    throw UsageError(fmt::format("--data {}: expected one label a picture", dataset->name()));
}

int64_t parse_cycle(const std::string& text) {
  if (text == "inf") return 0;
  int64_t cycle = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), cycle);
  if (error != std::errc() || end != text.data() + text.size() || cycle < 1)
    throw UsageError(fmt::format("--cycle: expected 1, 2, ... or inf, got '{}'", text));
  return cycle;
}

template <typename Enum>
Enum parse_enum(const std::string& word, std::initializer_list<std::pair<const char*, Enum>> all) {
  for (const auto& [name, value] : all)
    if (word == name) return value;
  throw InternalError("an option of unknown value " + word);
}

Pipeline supervised_view(const RunOptions& options, int64_t size, const Normalization& n) {
  const double min_area = options.min_area > 0 ? options.min_area : size <= 64 ? 0.5 : 0.08;
  return supervised_pipeline(static_cast<int>(size), n, min_area);
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
  if (const auto result = finished(options.run.output, config)) return *result;
  if (options.run.threads > 0) set_num_threads(static_cast<int>(options.run.threads));
  const DatasetPtr dataset = training_set(options.run);
  const Normalization n = normalization_for(options.run.data);
  const std::string& method = options.method.method;
  if (uses_labels(method)) require_single_label(dataset);
  const RunSize size{.classes = dataset->num_classes(),
                     .samples = dataset->size(),
                     .batch_size = options.run.batch_size,
                     .epochs = options.run.epochs,
                     .ranks = static_cast<int>(devices.size())};
  std::vector<std::unique_ptr<Objective>> objectives;  // each rank's
  for (size_t rank = 0; rank < devices.size(); ++rank)
    objectives.push_back(make_objective(options.method, options.network, size, options.run.seed));
  Objective& first = *objectives.front();
  const std::vector<Pipeline> views = training_views(
      options.method, options.network, n, is_grey(options.run.data), options.run.min_area);
  RunFolder folder(options.run.output, config);  // only now: a refused request leaves no folder
  log_info("{}: {} {} with {} parameters on {} pictures of {}", options.run.output, method,
           options.network.arch, parameter_count(first.encoder()), dataset->size(),
           dataset->describe());
  TrainResult result;
  std::atomic<int64_t> stop_at = std::numeric_limits<int64_t>::max();
  on_devices(devices, [&](Comm& comm) {
    const auto rank = static_cast<size_t>(comm.rank());
    Objective& objective = *objectives[rank];
    objective.set_comm(comm);
    if (shares_norms(method)) set_norm_comm(objective, comm);
    const TrainResult mine =
        run_training(options.run, objective, views, dataset, folder, devices[rank], &stop_at);
    if (rank == 0) result = mine;
    objective.set_comm(single_rank());
    set_norm_comm(objective, single_rank());
  });
  Tensor weight, bias;
  Linear* classifier = nullptr;
  if (auto* supervised = dynamic_cast<Supervised*>(&first)) classifier = &supervised->classifier();
  if (auto* hybrid = dynamic_cast<CeSelfSupcon*>(&first)) classifier = &hybrid->classifier();
  if (classifier) {
    weight = classifier->weight.value();
    bias = classifier->bias.value();
  }
  save_network(
      folder.model_path(), first.encoder(), weight, bias,
      describe(first.name(), options.run, options.network.image_size, config, dataset, result));
  return result;
}

TrainResult inject(const InjectOptions& options, const std::string& config) {
  options.run.check();
  if (options.from.empty()) throw UsageError("--from: expected a run's folder or a file");
  InjectionOptions injection;
  injection.cycle = parse_cycle(options.cycle);
  using Norm = InjectionOptions::Norm;
  injection.order = parse_enum<InjectionOptions::Order>(
      options.order, {{"joint", InjectionOptions::Order::joint},
                      {"sequential", InjectionOptions::Order::sequential}});
  injection.norm = parse_enum<Norm>(options.norm, {{"auto", Norm::automatic},
                                                   {"train", Norm::train},
                                                   {"eval", Norm::eval},
                                                   {"batch_no_update", Norm::batch_no_update}});
  injection.skipped =
      parse_enum<SkippedStep>(options.skipped, {{"skip", SkippedStep::skip},
                                                {"zero_grad", SkippedStep::zero_grad},
                                                {"accumulate_mean", SkippedStep::accumulate_mean},
                                                {"accumulate_sum", SkippedStep::accumulate_sum}});
  injection.smoothing = options.smoothing;
  injection.backbone_lr_scale = options.backbone_lr_scale;

  const Device device = use_device(options.run.device);
  if (const auto result = finished(options.run.output, config)) return *result;
  if (options.run.threads > 0) set_num_threads(static_cast<int>(options.run.threads));
  TrainedNetwork start = load_network(options.from, device);
  const Pipeline eval = evaluation_pipeline(start);
  const DatasetPtr dataset = training_set(options.run);
  require_single_label(dataset);
  RunFolder folder(options.run.output, config);
  // The head begins where the features are: at their linear probe or class centroids (Nayman et
  // al., section 5.3 and appendix G). A run continued from a checkpoint has its head there.
  LinearClassifier head;
  if (options.head != "random" && !folder.load_checkpoint()) {
    const Features features = extract_features(*start.encoder, dataset, eval, options.run.workers);
    const int64_t classes = dataset->num_classes();
    if (options.head == "probe") {
      const ProbeData data{features.x, features.labels};
      head = fit_logistic(std::span(&data, 1), classes, kHeadProbeC).classifier;
    } else {
      head = {class_centroids(features.x, features.labels, classes), Tensor::zeros({classes})};
    }
  }
  LabelInjection objective(make_encoder(start.architecture), dataset->num_classes(), injection);
  initialize(objective, options.run.seed);
  copy_state(*start.encoder, objective.encoder());
  if (head.weight.defined()) {
    objective.classifier().weight.value().copy_(head.weight);
    objective.classifier().bias.value().copy_(head.bias);
  } else {
    objective.reset_head(options.run.seed);
  }
  log_info("{}: labels into {} with T = {} on {} pictures of {}", options.run.output, options.from,
           options.cycle, dataset->size(), dataset->describe());
  const TrainResult result =
      run_training(options.run, objective,
                   {supervised_view(options.run, eval.size(), normalization_for(options.run.data))},
                   dataset, folder, device);
  save_network(folder.model_path(), objective.encoder(), objective.classifier().weight.value(),
               objective.classifier().bias.value(),
               describe("inject", options.run, eval.size(), config, dataset, result));
  return result;
}

}  // namespace facet
