#include "apps/methods.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "apps/options.h"
#include "data/policy.h"
#include "nn/init.h"
#include "ssl/moco.h"
#include "ssl/simclr.h"
#include "ssl/supcon.h"
#include "tensor/text.h"

namespace facet {
namespace {

constexpr int64_t kLargestQueue = 65536;  // He et al. 2020

struct Method {
  const char* name;
  double temperature;
  bool labels;
};
constexpr Method kMethods[] = {
    {"simclr", 0.1, false}, {"moco", 0.2, false},          {"swav", 0.1, false},
    {"dino", 0.1, false},   {"mae", 0.0, false},           {"supervised", 0.0, true},
    {"supcon", 0.1, true},  {"ce+selfsupcon", 0.07, true},
};

const Method& method_of(const std::string& name) {
  const auto* found = std::ranges::find(kMethods, name, &Method::name);
  if (found == std::end(kMethods)) throw UsageError("unknown method " + name);
  return *found;
}

void expect_shares(std::initializer_list<std::pair<const char*, double>> options) {
  for (const auto& [option, value] : options)
    need(value >= 0 && value <= 1, option, "0 to 1", value);
}

MocoOptions moco_options(const MethodOptions& method, const RunSize& run, uint64_t seed) {
  // As many whole batches as there are samples: more would hold samples twice.
  if (method.norm_splits % run.ranks != 0)
    throw UsageError("--norm-splits: expected a multiple of the {} devices, got {}", run.ranks,
                     method.norm_splits);
  const int64_t fitting = std::min(kLargestQueue, run.samples) / run.batch_size * run.batch_size;
  return {.temperature = method.resolved_temperature(),
          .queue = method.queue >= 0 ? method.queue : std::max(fitting, run.batch_size),
          .momentum = method.key_momentum,
          .projection_dim = method.projection_dim,
          .splits = static_cast<int>(method.norm_splits / run.ranks),
          .seed = seed};
}

SwavOptions swav_options(const MethodOptions& method) {
  SwavOptions options = method.swav;
  options.temperature = method.resolved_temperature();
  options.projection_dim = method.projection_dim;
  options.queue = std::max<int64_t>(method.queue, 0);
  return options;
}

std::unique_ptr<Objective> make_mae(const MethodOptions& method, const NetworkOptions& network) {
  if (!network.is_vit())
    throw UsageError("--method mae trains vision transformers: expected --arch {}, got {}",
                     fmt::join(vit_names(), ", "), network.arch);
  VitOptions vit = std::get<VitOptions>(network.resolve());
  vit.position = VitOptions::Position::sincos;
  vit.init = VitOptions::Init::xavier;
  return std::make_unique<Mae>(std::make_unique<Vit>(vit), method.mae);
}

std::unique_ptr<Objective> make_dino(const MethodOptions& method, const NetworkOptions& network,
                                     const RunSize& run) {
  NetworkOptions teacher = network;
  teacher.drop_path = 0.0;
  DinoOptions options = method.dino;
  options.student_temperature = method.resolved_temperature();
  options.steps_per_epoch = std::max<int64_t>(run.samples / run.batch_size, 1);
  options.total_steps = options.steps_per_epoch * run.epochs;
  return std::make_unique<Dino>(make_encoder(network.resolve()), make_encoder(teacher.resolve()),
                                options);
}

// timm's names: "original" (AutoAugment), "rand-m9-mstd0.5-inc1", "rand-m7-n3-inc1".
std::optional<PipelineStep> policy_of(const std::string& text, std::optional<Filter> filter) {
  if (text == "none") return std::nullopt;
  if (text == "original") return auto_augment(filter);
  const auto fail = [&] {
    return UsageError("--aa: expected none, original or one like rand-m9-mstd0.5-inc1, got '{}'",
                      text);
  };
  if (!text.starts_with("rand-")) throw fail();
  double magnitude = 9, deviation = 0, layers = 2;
  bool increasing = false;
  for (const std::string& part : split_list(text.substr(5), '-')) {
    const auto number = [&](const std::string& key, double& value) {
      const auto found =
          part.starts_with(key) ? to_number<double>(part.substr(key.size())) : std::nullopt;
      value = found.value_or(value);
      return found.has_value();
    };
    double inc = 0;
    if (number("inc", inc) && inc == 1)
      increasing = true;
    else if (!number("mstd", deviation) && !number("m", magnitude) && !number("n", layers))
      throw fail();
  }
  if (!increasing || magnitude < 0 || magnitude > 10 || layers < 1 || deviation < 0) throw fail();
  return rand_augment(magnitude, deviation, static_cast<int>(layers), filter);
}

}  // namespace

void LabelTraining::add_to(Options& options, const std::string& prefix) {
  const auto add = [&](const char* name, double& value, const char* help) {
    options.add(name, value, prefix + help);
  };
  add("--smoothing", smoothing, "label smoothing");
  add("--mixup", mixup, "alpha of mixup (0: none)");
  add("--cutmix", cutmix, "alpha of CutMix (0: none)");
  add("--mixup-prob", mix_probability, "chance to mix a batch");
  add("--mixup-switch-prob", switch_probability, "chance of CutMix, with both");
  add("--reprob", erase_probability, "chance to erase a box of an image");
  options.add("--aa", policy,
              prefix + "none, original (AutoAugment) or rand-m9-mstd0.5-inc1 (RandAugment)");
  add("--cutout", cutout, "sides of a box of one colour, before --aa, as share (0: none)");
  options.choice("--crop", crop, {"random", "squash"},
                 prefix + "a random crop and flip, or the whole picture; of tests, too");
  options.choice("--interpolation", interpolation, {"auto", "bilinear", "bicubic"},
                 prefix + "of crops, --aa and tests; auto: bilinear, with --aa either one");
}

MixedTraining LabelTraining::mixed(int64_t batch_size, uint64_t seed) const {
  expect_shares({{"--mixup-prob", mix_probability},
                 {"--mixup-switch-prob", switch_probability},
                 {"--reprob", erase_probability},
                 {"--smoothing", smoothing},
                 {"--cutout", cutout}});
  if (!(mixup >= 0) || !(cutmix >= 0))
    throw UsageError("--mixup and --cutmix: expected at least 0, got {} and {}", mixup, cutmix);
  const bool mixes = mixup > 0 || cutmix > 0;
  if (mixes && batch_size % 2 != 0)
    throw UsageError("--mixup and --cutmix pair images: expected an even --batch-size, got {}",
                     batch_size);
  return {.mix = {.mixup = mixup,
                  .cutmix = cutmix,
                  .probability = mixes ? mix_probability : 0.0,
                  .switch_probability = switch_probability},
          .erase = {.probability = erase_probability},
          .seed = seed};
}

Pipeline LabelTraining::view(int64_t image_size, const Normalization& n, double min_area) const {
  const auto size = static_cast<int>(image_size);
  const double low = min_area > 0 ? min_area : size <= kSmallImage ? 0.5 : 0.08;
  std::optional<Filter> filter;
  if (interpolation != "auto" || policy == "none")
    filter = interpolation == "bicubic" ? Filter::bicubic : Filter::bilinear;
  const auto policy_step = policy_of(policy, filter);
  std::vector<PipelineStep> steps = {crop == "squash"
                                         ? resize_to(size, filter.value_or(Filter::bilinear))
                                         : random_resized_crop(size, low, 1, filter)};
  if (crop == "random") steps.push_back(random_flip());
  if (cutout > 0) steps.push_back(random_cutout(cutout));
  if (policy_step) steps.push_back(*policy_step);
  return {size, n, std::move(steps)};
}

void MethodOptions::add_to(Options& options) {
  options.choice("--method", method, method_names(), "How to train");
  options.add("--temperature", temperature, "Of similarities (0: the method's own)");
  options.add("--base-temperature", base_temperature,
              "SupCon: its loss is multiplied by --temperature over this");
  options.add("--projection-dim", projection_dim, "Outputs of the projection head");
  labels.add_to(options, "Supervised: ");
  options.add("--queue", queue, "MoCo: remembered keys; SwAV: embeddings (-1: the method's own)");
  options.add("--key-momentum", key_momentum, "MoCo: of the key network");
  options.add("--norm-splits", norm_splits, "MoCo: parts of a batch with batch norms of their own");
  options.add("--prototypes", swav.prototypes, "SwAV: clusters");
  options.add("--freeze-steps", swav.freeze_steps, "SwAV: steps before the prototypes train");
  options.add("--queue-from", swav.queue_from, "SwAV: step from which the queue is used");
  options.add("--epsilon", swav.epsilon, "SwAV: smoothness of the assignments");
  options.add("--local-crops", local_crops,
              "Small crops beside the two large ones (-1: 6 for SwAV and 8 for DINO, none for "
              "images of up to 64 pixels)");
  options.add("--local-size", local_size, "Their pixels a side (0: 3/7 of the image size)");
  options.add("--out-dim", dino.out, "DINO: outputs of the head");
  options.add("--head-hidden", dino.hidden, "DINO: channels of the head's first layers");
  options.add("--head-bottleneck", dino.bottleneck, "DINO: channels before the last layer");
  options.flag("--use-bn-in-head", dino.head_norms, "DINO: batch norms in the head");
  options.flag("--norm-last-layer", dino.norm_last_layer,
               "DINO: rows of the last layer keep norm 1");
  options.add("--teacher-temp", dino.teacher_temperature, "DINO: temperature of the teacher");
  options.add("--warmup-teacher-temp", dino.warmup_teacher_temperature, "DINO: ... at first");
  options.add("--warmup-teacher-temp-epochs", dino.temperature_epochs, "DINO: epochs between both");
  options.add("--momentum-teacher", dino.momentum, "DINO: of the teacher, rising to 1");
  options.add("--freeze-last-layer", dino.freeze_epochs,
              "DINO: epochs before the last layer trains");
  options.add("--mask-ratio", mae.mask_ratio, "MAE: share of the patches that is masked");
  options.flag("--norm-pix-loss", mae.norm_pix,
               "MAE: patches are normalised before they are compared");
  options.add("--decoder-width", mae.decoder_width, "MAE: channels of the decoder");
  options.add("--decoder-depth", mae.decoder_depth, "MAE: blocks of the decoder");
  options.add("--decoder-heads", mae.decoder_heads, "MAE: attention heads of the decoder");
}

double MethodOptions::resolved_temperature() const {
  return temperature > 0 ? temperature : method_of(method).temperature;
}

const std::vector<std::string>& method_names() {
  static const std::vector<std::string> names = names_of(kMethods);
  return names;
}

bool uses_labels(const std::string& method) {
  return method_of(method).labels;
}

bool shares_norms(const std::string& method) {
  return method != "moco" && method != "ce+selfsupcon";
}

std::unique_ptr<Objective> make_objective(const MethodOptions& method,
                                          const NetworkOptions& network, const RunSize& run,
                                          uint64_t seed) {
  const auto positive = [](const char* option, double value) {
    need(std::isfinite(value) && value > 0, option, "a positive number", value);
  };
  if (method.temperature != 0) positive("--temperature", method.temperature);
  positive("--base-temperature", method.base_temperature);
  positive("--teacher-temp", method.dino.teacher_temperature);
  positive("--warmup-teacher-temp", method.dino.warmup_teacher_temperature);
  positive("--epsilon", method.swav.epsilon);
  need(method.projection_dim >= 1, "--projection-dim", "at least 1", method.projection_dim);
  expect_shares(
      {{"--key-momentum", method.key_momentum}, {"--momentum-teacher", method.dino.momentum}});
  const auto encoder = [&] { return make_encoder(network.resolve()); };
  const double temperature = method.resolved_temperature();
  std::unique_ptr<Objective> objective;
  if (method.method == "simclr")
    objective = std::make_unique<Simclr>(
        encoder(),
        SimclrOptions{.temperature = temperature, .projection_dim = method.projection_dim});
  else if (method.method == "moco")
    objective = std::make_unique<Moco>(encoder(), encoder(), moco_options(method, run, seed));
  else if (method.method == "swav")
    objective = std::make_unique<Swav>(encoder(), swav_options(method));
  else if (method.method == "dino")
    objective = make_dino(method, network, run);
  else if (method.method == "mae")
    objective = make_mae(method, network);
  else if (method.method == "supcon")
    objective = std::make_unique<Supcon>(
        encoder(),
        SupconOptions{.temperature = temperature, .base_temperature = method.base_temperature},
        method.projection_dim);
  else if (method.method == "ce+selfsupcon")
    objective = std::make_unique<CeSelfSupcon>(
        encoder(), encoder(), run.classes, HybridOptions{.moco = moco_options(method, run, seed)});
  else {
    auto supervised = std::make_unique<Supervised>(encoder(), run.classes, method.labels.smoothing);
    supervised->set_mixed_training(method.labels.mixed(run.batch_size / run.ranks, seed));
    objective = std::move(supervised);
  }
  if (run.batch_size % run.ranks != 0)
    throw UsageError("--batch-size: expected a multiple of the {} devices, got {}", run.ranks,
                     run.batch_size);
  initialize(*objective, seed);
  objective->begin(seed);
  objective->check_batch(run.batch_size);
  if (run.ranks > 1) objective->check_batch(run.batch_size / run.ranks);
  return objective;
}

namespace {

// Two large crops and the method's number of small ones; each of the three has its own steps.
std::vector<Pipeline> crops_of(const MethodOptions& method, const NetworkOptions& network,
                               const Pipeline& first, const Pipeline& second,
                               const std::function<Pipeline(int size)>& local) {
  const int64_t size = network.image_size, patch = network.patch();
  const int64_t usual = size <= kSmallImage ? 0 : method.method == "dino" ? 8 : 6;
  const int64_t count = method.local_crops >= 0 ? method.local_crops : usual;
  std::vector<Pipeline> views = {first, second};
  if (count == 0) return views;
  const int64_t local_size = method.local_size > 0
                                 ? method.local_size
                                 : std::max(size * 3 / 7 / patch, int64_t{1}) * patch;
  if (local_size > size || local_size % patch != 0)
    throw UsageError("--local-size: expected at most --image-size {}{}, got {}", size,
                     patch > 1 ? fmt::format(" and whole patches of {}", patch) : std::string(),
                     local_size);
  const Pipeline view = local(static_cast<int>(local_size));
  views.insert(views.end(), static_cast<size_t>(count), view);
  return views;
}

std::vector<Pipeline> dino_views(const MethodOptions& method, const NetworkOptions& network,
                                 const Normalization& n, bool grey, double min_area) {
  const auto size = static_cast<int>(network.image_size);
  // The official areas of a ViT and of a ResNet-50; small pictures show little in 5 % of them.
  const double border = min_area > 0 ? min_area : network.is_vit() ? .4 : .14;
  const double smallest = size <= kSmallImage ? .2 : .05;
  const auto view = [&](DinoView kind, int side, double low, double high) {
    return !grey && size > kSmallImage ? dino_pipeline(side, n, kind, low, high)
                                       : small_pipeline(side, n, low, high, Filter::bicubic, grey,
                                                        kind == DinoView::global2);
  };
  return crops_of(method, network, view(DinoView::global1, size, border, 1),
                  view(DinoView::global2, size, border, 1), [&](int side) {
                    return view(DinoView::local, side, std::min(smallest, border), border);
                  });
}

std::vector<Pipeline> swav_views(const MethodOptions& method, const NetworkOptions& network,
                                 const Normalization& n, bool grey, double min_area) {
  const auto size = static_cast<int>(network.image_size);
  // Large crops above the area where small ones end.
  const double border = size <= kSmallImage ? .3 : .14;
  const auto view = [&](int side, double low, double high) {
    return !grey && size > kSmallImage ? swav_pipeline(side, n, low, high)
                                       : small_pipeline(side, n, low, high, Filter::bilinear, grey);
  };
  const Pipeline large = view(size, min_area > 0 ? min_area : border, 1);
  return crops_of(method, network, large, large, [&](int side) { return view(side, .05, border); });
}

}  // namespace

std::vector<Pipeline> training_views(const MethodOptions& method, const NetworkOptions& network,
                                     const Normalization& n, bool grey, double min_area) {
  const auto size = static_cast<int>(network.image_size);
  const bool small = size <= kSmallImage;
  const auto area = [&](double usual) { return min_area > 0 ? min_area : usual; };
  if (method.method == "supervised") return {method.labels.view(size, n, min_area)};
  if (method.method == "mae") return {mae_pipeline(size, n, area(small ? 0.5 : 0.2))};
  if (method.method == "simclr") {
    const double low = area(grey ? 0.3 : 0.08);
    const Filter filter = grey ? Filter::bilinear : Filter::bicubic;
    const Pipeline view = grey || small ? small_pipeline(size, n, low, 1, filter, grey)
                                        : swav_pipeline(size, n, low, 1);
    return {view, view};
  }
  if (method.method == "swav") return swav_views(method, network, n, grey, min_area);
  if (method.method == "dino") return dino_views(method, network, n, grey, min_area);
  // MoCo v2, SupCon (which does not blur) and CE + SelfSupCon
  const Pipeline view =
      small || grey ? small_pipeline(size, n, area(grey ? 0.3 : 0.2), 1, Filter::bilinear, grey)
      : method.method == "supcon" ? supcon_pipeline(size, n, area(0.2))
                                  : moco_v2_pipeline(size, n, area(0.2));
  return {view, view};
}

}  // namespace facet
