// Controlled Label Injection and fine-tuning as whole runs.
#include "apps/evaluate.h"
#include "apps/training_run.h"
#include "metrics/linear_probe.h"
#include "nn/init.h"
#include "ssl/label_injection.h"
#include "tensor/parallel.h"
#include "tensor/text.h"

namespace facet {
namespace {

template <typename Enum>
using Words = std::map<std::string, Enum>;

template <typename Enum>
std::vector<std::string> names(const Words<Enum>& words) {
  std::vector<std::string> list;
  for (const auto& [name, value] : words) list.push_back(name);
  return list;
}

using Order = InjectionOptions::Order;
using Norm = InjectionOptions::Norm;
using Phase = InjectionOptions::Phase;
const Words<Order> kOrders{{"joint", Order::joint}, {"sequential", Order::sequential}};
const Words<Norm> kNorms{{"auto", Norm::automatic},
                         {"train", Norm::train},
                         {"eval", Norm::eval},
                         {"batch_no_update", Norm::batch_no_update}};
const Words<Phase> kPhases{
    {"global", Phase::global}, {"zero_based", Phase::zero_based}, {"per_epoch", Phase::per_epoch}};
const Words<SkippedStep> kSkipped{{"skip", SkippedStep::skip},
                                  {"zero_grad", SkippedStep::zero_grad},
                                  {"accumulate_mean", SkippedStep::accumulate_mean},
                                  {"accumulate_sum", SkippedStep::accumulate_sum}};

int64_t parse_cycle(const std::string& text) {
  if (text == "inf") return 0;
  const int64_t cycle = to_number<int64_t>(text).value_or(0);
  if (cycle < 1) throw UsageError("--cycle: expected 1, 2, ... or inf, got '{}'", text);
  return cycle;
}

InjectionOptions injection_of(const InjectOptions& options) {
  return {.cycle = parse_cycle(options.cycle),
          .order = kOrders.at(options.order),
          .norm = kNorms.at(options.norm),
          .skipped = kSkipped.at(options.skipped),
          .phase = kPhases.at(options.phase),
          .smoothing = options.labels.smoothing,
          .backbone_lr_scale = options.backbone_lr_scale,
          .clip_all = options.clip_groups == "all"};
}

// The network to train, with the weights of the one it starts from; what a new way of pooling adds
// is fresh.
std::unique_ptr<Encoder> starting_encoder(const InjectOptions& options, TrainedNetwork& start,
                                          Device device) {
  Architecture architecture = start.architecture;
  auto* const vit = std::get_if<VitOptions>(&architecture);
  if (!vit && (options.drop_path > 0 || options.pool != "keep"))
    throw UsageError("--drop-path and --pool are a ViT's: " + start.name + " is none");
  bool same = true;
  if (vit) {
    vit->drop_path = options.drop_path;
    const auto pool = options.pool == "keep"   ? vit->pool
                      : options.pool == "mean" ? VitOptions::Pool::mean
                                               : VitOptions::Pool::token;
    same = pool == std::exchange(vit->pool, pool);
  }
  auto encoder = make_encoder(architecture);
  initialize(*encoder, options.run.seed);
  to_device(*encoder, device);
  load_state(*encoder, state(*start.encoder), same);
  return encoder;
}

// The head begins where the features are: at their class centroids or linear probe (Nayman et al.,
// section 5.3 and appendix G).
LinearClassifier starting_head(const InjectOptions& options, const Features& features,
                               int64_t classes) {
  if (options.head == "probe") {
    const ProbeData data{features.x, features.labels};
    return fit_logistic(std::span(&data, 1), classes, options.head_c).classifier;
  }
  const Tensor weight = class_centroids(features.x, features.labels, classes,
                                        {.unit_features = options.unit_features,
                                         .unit_rows = options.unit_centroids,
                                         .scale = options.head_scale});
  return {weight, options.nearest_bias ? nearest_centroid_bias(weight)
                                       : Tensor::zeros({classes}, weight.dtype(), weight.device())};
}

void check(const InjectOptions& options, const Dataset& dataset) {
  need(options.backbone_lr_scale >= 0, "--backbone-lr-scale", "at least 0",
       options.backbone_lr_scale);
  need(options.layer_decay > 0 && options.layer_decay <= 1, "--layer-decay", "above 0, at most 1",
       options.layer_decay);
  need(options.drop_path >= 0 && options.drop_path < 1, "--drop-path", "from 0 to less than 1",
       options.drop_path);
  need(options.head_std >= 0, "--head-std", "at least 0", options.head_std);
  need(options.head_c > 0, "--head-c", "a positive number", options.head_c);
  need(options.image_size == 0 || options.image_size >= 8, "--image-size", "0 or at least 8",
       options.image_size);
  if (options.clip_groups == "all" && (options.order != "joint" || options.run.clip_grad == 0))
    throw UsageError("--clip-groups all: expected --order joint and a --clip-grad");
  if (!dataset.multi_label()) return;
  if (options.labels.mixup > 0 || options.labels.cutmix > 0 || options.head == "centroids")
    throw UsageError(
        "--data {}: pictures with several labels take neither --mixup and --cutmix nor "
        "--head centroids",
        options.run.data);
}

}  // namespace

void InjectOptions::add_to(Options& options) {
  options.add("--cycle", cycle,
              "Control cycle T: the backbone learns at every T-th step; inf: never");
  options.choice("--order", order, names(kOrders), "Backbone's gradient at the old or new head");
  options.choice("--norm", norm, names(kNorms),
                 "Batch norm and drop path of the backbone on the steps between; auto: train, eval "
                 "for T = inf");
  options.choice("--skipped", skipped, names(kSkipped),
                 "Optimiser state of the backbone on the steps between");
  options.choice("--phase", phase, names(kPhases),
                 "The backbone's steps: T, 2T, ...; counted anew in every epoch; 1, T + 1, ...");
  options.choice("--backbone-clock", backbone_clock, {"global", "own"},
                 "Its place on the learning rate's schedule: all steps, or its own alone");
  options.choice("--ema-backbone", ema_backbone, {"always", "own"},
                 "Steps on which its average follows");
  options.choice("--clip-groups", clip_groups, {"stepped", "all"},
                 "--clip-grad's norm: of what steps, or of all, so that the backbone's gradient is "
                 "computed at every step of a finite T");
  add_finetuning_to(options);
}

void InjectOptions::add_finetuning_to(Options& options) {
  options.add("--from", from, "The run or .safetensors file to start from");
  options.choice("--head", head, {"centroids", "probe", "random"}, "Classifier to start with");
  options.flag("--head-unit-features", unit_features, "Centroids of features of length 1");
  options.flag("--head-unit-centroids", unit_centroids, "Centroids scaled to length 1");
  options.add("--head-scale", head_scale, "Factor of the centroids");
  options.flag("--head-nearest", nearest_bias, "The offset that makes the nearest centroid win");
  options.add("--head-c", head_c, "C of the probe that the head starts as");
  options.add("--head-std", head_std, "Of a random head");
  options.add("--backbone-lr-scale", backbone_lr_scale, "Learning rate of the backbone, relative");
  options.add("--layer-decay", layer_decay, "ViT: learning rate of a block beside the next one's");
  options.add("--drop-path", drop_path, "ViT: chance to drop a branch of the last block");
  options.choice("--pool", pool, {"keep", "token", "mean"},
                 "ViT: features are the class token, or the mean of the patches (MAE's script)");
  options.add("--image-size,--img-size", image_size,
              "Pixels a side of the views (0: as the network was trained)");
  options.choice("--loss", loss, {"asymmetric", "bce"}, "For pictures with several labels");
  labels.add_to(options);
  run.add_to(options);
}

InjectOptions InjectOptions::finetuning() {
  InjectOptions options;
  options.cycle = "1";
  options.head = "random";
  options.labels = {.smoothing = 0.1, .cutout = 0.5, .policy = "original", .crop = "squash"};
  options.run.epochs = 60;
  options.run.opt = "adam";
  options.run.schedule = "onecycle";
  options.run.lr = 2e-4;
  options.run.weight_decay = 1e-4;
  options.run.model_ema = options.run.ema_warmup = true;
  options.run.ema_decay = 0.9997;
  options.run.eval_epochs = 1;
  return options;
}

TrainResult inject(const InjectOptions& options, const std::string& config, const char* method) {
  options.run.check();
  if (options.from.empty()) throw UsageError("--from: expected a run's folder or a file");
  InjectionOptions injection = injection_of(options);
  const MixedTraining mixed = options.labels.mixed(options.run.batch_size, options.run.seed);
  const Device device = use_device(options.run.device);
  if (!options.run.dry_run)
    if (const auto result = finished(options.run.output, config)) return *result;
  if (options.run.threads > 0) set_num_threads(static_cast<int>(options.run.threads));
  TrainedNetwork start = load_network(options.from, device);
  const DatasetPtr dataset = training_set(options.run);
  check(options, *dataset);
  const int64_t classes = dataset->num_classes();
  const Normalization n =
      normalization_for(options.run.data, value_of(start.metadata, "facet.start"));
  const int64_t size =
      options.image_size > 0 ? options.image_size : evaluation_pipeline(start).size();
  const Pipeline eval =
      test_view(size, n, method, options.labels.crop, options.labels.interpolation);
  injection.steps_per_epoch = std::max<int64_t>(dataset->size() / options.run.batch_size, 1);

  LabelInjection objective(starting_encoder(options, start, device), classes, injection);
  start.encoder.reset();
  take_in_parts(options.run, objective);
  objective.set_mixed_training(mixed);
  objective.set_layer_decay(options.layer_decay);
  if (dataset->multi_label())
    objective.set_multi_label(options.loss == "bce" ? AsymmetricOptions{0, 0, 0}
                                                    : AsymmetricOptions{});
  objective.reset_head(options.run.seed, options.head_std);
  TrainingRun run(options.run, objective, {options.labels.view(size, n, options.run.min_area)},
                  dataset, device);
  std::optional<RunFolder> folder;  // only now: a refused request leaves none
  if (!options.run.dry_run) folder.emplace(options.run.output, config);
  log_info("{}: labels into {} with T = {} on {} pictures of {}", options.run.output, options.from,
           options.cycle, dataset->size(), dataset->describe());
  if (options.head != "random" && folder && !folder->has_checkpoint()) {
    const LinearClassifier head = starting_head(
        options, extract_features(objective.encoder(), dataset, eval, options.run.workers),
        classes);
    objective.classifier().weight.value().copy_(head.weight);
    objective.classifier().bias.value().copy_(head.bias);
  }
  std::function<bool(int64_t)> encoder_due;
  if (options.ema_backbone == "own")
    encoder_due = [&](int64_t step) { return objective.backbone_steps(step); };
  run.optimizer().clip_all(injection.clip_all);
  run.follow(objective, eval, encoder_due);
  if (options.backbone_clock == "own")
    run.options().before_step = [&, others = run.options().before_step](int64_t step) {
      if (others) others(step);
      const double lr = run.options().lr(objective.backbone_updates(step));
      for (ParamGroup& group : run.optimizer().groups())
        if (group.name.starts_with("backbone")) group.lr = lr;
    };
  run.options().start = value_of(start.metadata, "facet.start");
  if (options.run.dry_run) return run.try_out();
  const TrainResult result = run.train(*folder);
  run.save_model(*folder, method, size, config, result, &objective.classifier());
  return result;
}

}  // namespace facet
