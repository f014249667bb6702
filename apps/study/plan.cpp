#include "apps/study/plan.h"

#include <algorithm>

#include "tensor/text.h"

namespace facet {

namespace fs = std::filesystem;

namespace {

constexpr Start kStarts[] = {
    {"supervised", "Supervised"},
    {"supcon", "SupCon"},
    {"ce+selfsupcon", "CE + SelfSupCon"},
    {"simclr", "SimCLR"},
    {"moco", "MoCo v2"},
    {"swav", "SwAV"},
    {"dino", "DINO"},
    {"mae", "MAE"},
};

std::string start_names() {
  std::string names;
  for (const Start& start : kStarts)
    names += (names.empty() ? "" : ", ") + std::string(start.method);
  return names;
}

std::vector<Start> starts_named(const char* option, const std::string& text) {
  if (text == "all") return {std::begin(kStarts), std::end(kStarts)};
  std::vector<Start> chosen;
  for (const std::string& word : split_list(text)) {
    const auto* found = std::ranges::find(kStarts, word, &Start::method);
    if (found == std::end(kStarts))
      throw UsageError("{}: expected {}, got '{}'", option, start_names(), word);
    chosen.push_back(*found);
  }
  return chosen;
}

bool is_injected(const StudyOptions& options, const Start& start) {
  const std::vector<Start> into = starts_named("--inject", options.inject);
  return std::ranges::find(into, std::string(start.method), &Start::method) != into.end();
}

}  // namespace

void StudyOptions::add_to(Options& options) {
  options.add("--output", output, "The study's folder", Options::kProcess);
  options.add("--data,--dataset", data, "Upstream dataset, one label a picture");
  options.add("--seed", seed, "Of everything random");
  options.flag("--fast", fast, "A tiny study, to see that everything works: seconds, no meaning");
  options.flag("--full", full, "Labels into every start, T = 1, 2, 4 and inf, five times as long");
  options.add("--starts", starts, "Comma-separated: " + start_names() + ", or all");
  options.add("--inject", inject, "Starts that labels are injected into: comma-separated, or all");
  options.add("--cycles", cycles, "Control cycles T of the injections: comma-separated");
  options.add("--width", width, "Channels of the first stage of ResNet-18; a ViT has 4 times it");
  options.add("--image-size", image_size, "Pixels a side");
  options.add("--per-class", per_class, "Upstream training pictures a class");
  options.add("-b,--batch-size", batch_size, "Pictures a step");
  options.add("--simclr-batch-size", simclr_batch, "Pictures a step without labels");
  options.add("--simclr-epochs", simclr_epochs, "Epochs of pretraining without labels");
  options.add("--supervised-epochs", supervised_epochs, "Epochs of pretraining with labels");
  options.add("--other-epochs", other_epochs, "Epochs of every other way of pretraining");
  options.add("--inject-epochs", inject_epochs, "Epochs of each injection");
  options.add("--simclr-lr", simclr_lr, "Learning rate without labels");
  options.add("--simclr-weight-decay", simclr_weight_decay, "Weight decay without labels");
  options.add("--simclr-min-area", simclr_min_area, "Smallest random crop without labels");
  options.add("--supervised-lr", supervised_lr, "Learning rate with labels");
  options.add("--inject-lr", inject_lr, "Learning rate of the injections");
  options.add("--temperature", temperature, "Of SimCLR");
  options.add("--task-train", task_train, "Training pictures of a downstream task");
  options.add("--task-test", task_test, "Test pictures of a downstream task");
  options.add("--test", test, "Upstream test pictures (0: all)");
  options.add("-k,--neighbours", neighbours, "Of the kNN accuracy");
  options.add("--device", device, "Where networks train and are measured: cpu, cuda or cuda:N",
              Options::kProcess);
  options.add("-j,--workers", workers, "Threads that prepare batches", Options::kProcess);
  options.add("--threads", threads, "Threads that compute (0: one a core)", Options::kProcess);
}

void StudyOptions::resize(const Options& given) {
  const auto set = [&](const char* name, auto& value, auto other) {
    if (!given.given(name)) value = other;
  };
  if (full) {
    set("--inject", inject, "all");
    set("--cycles", cycles, "1,2,4,inf");
    for (const auto& [name, epochs] : {std::pair{"--simclr-epochs", &simclr_epochs},
                                       {"--supervised-epochs", &supervised_epochs},
                                       {"--other-epochs", &other_epochs},
                                       {"--inject-epochs", &inject_epochs}})
      set(name, *epochs, 5 * *epochs);
  }
  if (!fast) return;
  set("--width", width, 4);
  set("--per-class", per_class, 16);
  set("--batch-size", batch_size, 32);
  set("--simclr-batch-size", simclr_batch, 16);
  set("--simclr-epochs", simclr_epochs, 2);
  set("--supervised-epochs", supervised_epochs, 2);
  set("--other-epochs", other_epochs, 2);
  set("--inject-epochs", inject_epochs, 2);
  set("--task-train", task_train, 80);
  set("--task-test", task_test, 40);
  set("--test", test, 100);
  set("--neighbours", neighbours, 5);
}

std::vector<Start> chosen_starts(const StudyOptions& options) {
  std::vector<Start> chosen = starts_named("--starts", options.starts);
  const bool compared =
      !split_list(options.cycles).empty() &&
      std::ranges::any_of(chosen, [&](const Start& s) { return is_injected(options, s); });
  if (chosen.empty() || (chosen.size() < 2 && !compared))
    throw UsageError("--starts: expected two or more to compare, got '{}'", options.starts);
  return chosen;
}

std::vector<StudyModel> study_models(const StudyOptions& options,
                                     const std::vector<Start>& starts) {
  std::vector<StudyModel> models;
  for (const Start& start : starts) {
    models.push_back({start.title, start.title, start.method, "-", start.method});
    if (!is_injected(options, start)) continue;
    for (const std::string& cycle : split_list(options.cycles)) {
      const bool number = cycle.find_first_not_of("0123456789") == std::string::npos;
      if (cycle != "inf" && (!number || cycle.empty() || cycle[0] == '0'))
        throw UsageError("--cycles: expected 1, 2, ... or inf, got '{}'", cycle);
      const std::string shown = cycle == "inf" ? "∞" : cycle;
      models.push_back({fmt::format("{} + labels, T = {}", start.title, shown),
                        fmt::format("T={}", shown), start.method, cycle,
                        fmt::format("{}-T{}", start.method, cycle)});
    }
  }
  return models;
}

RunOptions run_options(const StudyOptions& options, const fs::path& root, const std::string& folder,
                       int64_t epochs, double lr) {
  RunOptions run;
  run.data = options.data;
  run.output = (root / folder).string();
  run.per_class = options.per_class;
  run.batch_size = options.batch_size;
  run.epochs = epochs;
  run.lr = lr;
  run.warmup_epochs = 0.5;
  run.weight_decay = 5e-4;
  run.seed = options.seed;
  run.workers = options.workers;
  run.device = options.device;
  run.log_interval = options.fast ? 1 : 5;
  run.checkpoint_seconds = 15;
  return run;
}

// How a start is pretrained: settings of a few minutes' worth, not those of the papers.
PretrainOptions pretraining(const StudyOptions& options, const fs::path& root,
                            const std::string& start) {
  PretrainOptions p;
  p.method.method = start;
  p.method.temperature = options.temperature;
  p.network = {.arch = "resnet18",
               .stem = "small",
               .width = options.width,
               .image_size = options.image_size};
  p.run = run_options(options, root, start, options.other_epochs, 0.1);
  const int64_t small_batch = options.simclr_batch;
  if (start != "supervised") p.run.batch_size = small_batch;
  if (start != "supervised" && start != "mae") p.run.min_area = options.simclr_min_area;
  const auto vit = [&](int64_t patch) {
    p.network = {.arch = "vit_tiny",
                 .width = 4 * options.width,
                 .image_size = options.image_size,
                 .patch_size = patch,
                 .depth = 4,
                 .heads = 4,
                 .init = "xavier"};
    p.run.opt = "adamw";
    p.run.lr = 1e-3;
    p.run.warmup_epochs = 1;
  };
  if (start == "supervised") {
    p.run.epochs = options.supervised_epochs;
    p.run.lr = options.supervised_lr;
  } else if (start == "simclr") {
    p.run.epochs = options.simclr_epochs;
    p.run.lr = options.simclr_lr;
    p.run.weight_decay = options.simclr_weight_decay;
  } else if (start == "moco" || start == "ce+selfsupcon") {
    p.method.key_momentum = 0.99;
    p.method.norm_splits = 2;
    if (start == "moco") p.run.epochs += p.run.epochs / 2;  // its queue's keys lag behind
  } else if (start == "swav") {
    p.method.temperature = 0.1;
    p.method.swav.prototypes = 64;
    p.method.swav.epsilon = 0.03;  // where the loss stays at ln K with .05 (SwAV's authors' advice)
    p.run.min_area = 0.5;
    p.method.swav.freeze_steps = 100;
    p.method.queue = 8 * small_batch;  // for assignments of batches so small
    p.method.swav.queue_from = 300;
    p.method.local_crops = 0;
    p.run.lr = 0.05;
  } else if (start == "supcon") {
    p.method.base_temperature = 0.1;  // as the paper's formula, without the official code's factor
    p.run.batch_size = 2 * small_batch;
  } else if (start == "dino") {
    vit(options.image_size / 4);
    p.method.temperature = 0.1;
    p.method.dino.out = p.method.dino.hidden = p.method.dino.bottleneck = 256;
    p.method.dino.momentum = 0.99;
    p.method.local_crops = 0;
    p.run.weight_decay = 0.04;
    p.run.clip_grad = 3;
  } else if (start == "mae") {
    vit(4);
    p.method.mae.decoder_width = p.network.width;
    p.method.mae.decoder_depth = 2;
    p.method.mae.decoder_heads = 4;
    p.run.batch_size = 2 * small_batch;
    p.run.beta2 = 0.95;
    p.run.weight_decay = 0.05;
  }
  return p;
}

InjectOptions injection(const StudyOptions& options, const fs::path& root,
                        const StudyModel& model) {
  InjectOptions injected;
  injected.run = run_options(options, root, model.folder, options.inject_epochs, options.inject_lr);
  injected.from = (root / model.start).string();
  injected.cycle = model.cycle;
  injected.head = "probe";
  return injected;
}

std::string task_specification(const StudyOptions& options, const std::string& task) {
  return fmt::format("{}:train={},test={},size={},seed={}", task, options.task_train,
                     options.task_test, options.image_size, options.seed);
}

}  // namespace facet
