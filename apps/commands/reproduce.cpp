// facet reproduce: the whole study on Fashion-MNIST. Every stage leaves a file; a stage whose file
// is there is not repeated, and training continues from its checkpoints, so the same command
// continues wherever it was stopped.
#include <algorithm>
#include <cmath>
#include <ctime>
#include <functional>
#include <map>
#include <sstream>

#include "apps/command.h"
#include "apps/evaluate.h"
#include "apps/interrupt.h"
#include "apps/report/report.h"
#include "apps/training.h"
#include "metrics/correlation.h"
#include "metrics/transfer.h"
#include "tensor/parallel.h"

namespace facet {
namespace {

namespace fs = std::filesystem;

// A way of pretraining: the folder and method of a run, and whether labels are injected into it.
struct Start {
  const char* method;
  const char* title;
  bool injected;
};
constexpr Start kStarts[] = {
    {"supervised", "Supervised", true},
    {"supcon", "SupCon", false},
    {"ce+selfsupcon", "CE + SelfSupCon", false},
    {"simclr", "SimCLR", true},
    {"moco", "MoCo v2", false},
    {"swav", "SwAV", false},
    {"dino", "DINO", false},
    {"mae", "MAE", false},
};
std::string start_names() {
  std::string names;
  for (const Start& start : kStarts)
    names += (names.empty() ? "" : ", ") + std::string(start.method);
  return names;
}

struct StudyOptions {
  std::string output = "runs/reproduce", data = "fashion-mnist", starts = "all";
  uint64_t seed = 0;
  std::string device = "cpu";
  bool fast = false;
  int64_t workers = 1, threads = 0;
  // The network, and how long each kind of run trains.
  int64_t width = 16, image_size = 28, per_class = 1000, batch_size = 128, simclr_batch = 32;
  int64_t simclr_epochs = 12, supervised_epochs = 8, other_epochs = 4, inject_epochs = 4;
  double simclr_min_area = 0.3;
  double simclr_lr = 0.2, simclr_weight_decay = 1e-3, supervised_lr = 0.1, inject_lr = 0.03,
         temperature = 0.2;
  // Downstream: training pictures of a task, of which a quarter chooses C, and test pictures.
  int64_t task_train = 1200, task_test = 1000, test = 2000, neighbours = 20;

  void add_to(Options& options) {
    options.add("--output", output, "The study's folder", Options::kProcess);
    options.add("--data,--dataset", data, "Upstream dataset, one label a picture");
    options.add("--seed", seed, "Of everything random");
    options.flag("--fast", fast, "A tiny study, to see that everything works: seconds, no meaning");
    options.add("--starts", starts, "Comma-separated: " + start_names() + ", or all");
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

  void shrink(const Options& given) {
    const auto set = [&](const char* name, int64_t& value, int64_t small) {
      if (!given.given(name)) value = small;
    };
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
};

struct StudyModel {
  std::string name, label;   // "SimCLR + labels, T = 4", "SimCLR T=4"
  std::string start, cycle;  // "simclr", "4"; cycle "-" for a start itself
  std::string folder;
};

std::vector<Start> chosen_starts(const std::string& text) {
  if (text == "all") return {std::begin(kStarts), std::end(kStarts)};
  std::vector<Start> chosen;
  std::istringstream words(text);
  for (std::string word; std::getline(words, word, ',');) {
    const auto* found = std::find_if(std::begin(kStarts), std::end(kStarts),
                                     [&](const Start& start) { return word == start.method; });
    if (found == std::end(kStarts))
      throw UsageError(fmt::format("--starts: expected {}, got '{}'", start_names(), word));
    chosen.push_back(*found);
  }
  const bool injected =
      std::any_of(chosen.begin(), chosen.end(), [](Start s) { return s.injected; });
  if (chosen.size() < 2 && !injected)
    throw UsageError(fmt::format("--starts: expected two or more to compare, got '{}'", text));
  return chosen;
}

std::vector<StudyModel> study_models(const std::vector<Start>& starts) {
  std::vector<StudyModel> models;
  for (const Start& start : starts) {
    models.push_back({start.title, start.title, start.method, "-", start.method});
    if (!start.injected) continue;
    for (const auto& [cycle, shown] : {std::pair{"1", "1"}, {"4", "4"}, {"inf", "∞"}})
      models.push_back({fmt::format("{} + labels, T = {}", start.title, shown),
                        fmt::format("T={}", shown), start.method, cycle,
                        fmt::format("{}-T{}", start.method, cycle)});
  }
  return models;
}

const std::vector<std::string> kTasks = {"shapes", "textures", "digits", "scene"};

class Study {
 public:
  Study(StudyOptions options, std::string config)
      : options_(std::move(options)),
        config_(std::move(config)),
        root_(options_.output),
        starts_(chosen_starts(options_.starts)),
        models_(study_models(starts_)),
        device_(use_device(options_.device)) {}

  void run() {
    for (const Start& start : starts_)  // what cannot be trained is said before anything is
      pretraining(start.method).network.resolve();
    RunFolder folder(root_, config_);
    for (const StudyModel& model : models_) train_model(model);
    for (const StudyModel& model : models_) measure(model);
    compare_neighbours();
    finish();
  }

 private:
  RunOptions run_options(const std::string& folder, int64_t epochs, double lr) const {
    RunOptions run;
    run.data = options_.data;
    run.output = (root_ / folder).string();
    run.per_class = options_.per_class;
    run.batch_size = options_.batch_size;
    run.epochs = epochs;
    run.lr = lr;
    run.warmup_epochs = 0.5;
    run.weight_decay = 5e-4;
    run.seed = options_.seed;
    run.workers = options_.workers;
    run.device = options_.device;
    run.log_interval = options_.fast ? 1 : 5;
    run.checkpoint_seconds = 15;
    return run;
  }

  // How a start is pretrained: settings of a few minutes' worth, not those of the papers.
  PretrainOptions pretraining(const std::string& start) const {
    PretrainOptions p;
    p.method.method = start;
    p.method.temperature = options_.temperature;
    p.network = {.arch = "resnet18",
                 .stem = "small",
                 .width = options_.width,
                 .image_size = options_.image_size};
    p.run = run_options(start, options_.other_epochs, 0.1);
    const int64_t small_batch = options_.simclr_batch;
    if (start != "supervised") p.run.batch_size = small_batch;
    if (start != "supervised" && start != "mae") p.run.min_area = options_.simclr_min_area;
    const auto vit = [&](int64_t patch) {
      p.network = {.arch = "vit_tiny",
                   .width = 4 * options_.width,
                   .image_size = options_.image_size,
                   .patch_size = patch,
                   .depth = 4,
                   .heads = 4,
                   .init = "xavier"};
      p.run.opt = "adamw";
      p.run.lr = 1e-3;
      p.run.warmup_epochs = 1;
    };
    if (start == "supervised") {
      p.run.epochs = options_.supervised_epochs;
      p.run.lr = options_.supervised_lr;
    } else if (start == "simclr") {
      p.run.epochs = options_.simclr_epochs;
      p.run.lr = options_.simclr_lr;
      p.run.weight_decay = options_.simclr_weight_decay;
    } else if (start == "moco" || start == "ce+selfsupcon") {
      p.method.key_momentum = 0.99;
      p.method.norm_splits = 2;
    } else if (start == "swav") {
      p.method.temperature = 0.1;
      p.method.prototypes = 64;
      p.method.freeze_steps = 100;
      p.method.queue = 8 * small_batch;  // for assignments of batches so small
      p.method.queue_from = 300;
      p.method.local_crops = 0;
      p.run.lr = 0.05;
    } else if (start == "supcon") {
      p.run.batch_size = 2 * small_batch;
    } else if (start == "dino") {
      vit(options_.image_size / 4);
      p.method.temperature = 0.1;
      p.method.out_dim = p.method.head_hidden = p.method.head_bottleneck = 256;
      p.method.teacher_momentum = 0.99;
      p.method.local_crops = 0;
      p.run.weight_decay = 0.04;
      p.run.clip_grad = 3;
    } else if (start == "mae") {
      vit(4);
      p.method.decoder_width = p.network.width;
      p.method.decoder_depth = 2;
      p.method.decoder_heads = 4;
      p.run.batch_size = 2 * small_batch;
      p.run.beta2 = 0.95;
      p.run.weight_decay = 0.05;
    }
    return p;
  }

  void train_model(const StudyModel& model) {
    Options shown("pretrain", "");
    if (model.cycle == "-") {
      PretrainOptions start = pretraining(model.start);
      start.add_to(shown);
      configurations_[model.name] = shown.toml();
      seconds_["train " + model.name] = pretrain(start, shown.toml()).seconds;
    } else {
      InjectOptions injection;
      injection.run = run_options(model.folder, options_.inject_epochs, options_.inject_lr);
      injection.from = (root_ / model.start).string();
      injection.cycle = model.cycle;
      injection.head = "probe";
      injection.add_to(shown);
      configurations_[model.name] = shown.toml();
      seconds_["train " + model.name] = inject(injection, shown.toml()).seconds;
    }
  }

  // Runs `make` unless the stage's file is there; returns what it holds.
  Json stage(const std::string& file, const std::function<Json()>& make) {
    const fs::path path = root_ / "measured" / (file + ".json");
    make_folder(path.parent_path());
    if (!fs::exists(path)) {
      stop_if_interrupted(options_.output + ": stopped between two stages");
      const Stopwatch clock;
      Json result = make();
      result["seconds"] = clock.seconds();
      write_file(path, result.dump(2) + "\n");
    }
    const Json result = Json::parse(read_file(path), nullptr, false);
    if (!result.is_object())
      throw FileError(
          fmt::format("{}: expected a JSON object; remove it to measure again", path.string()));
    return result;
  }

  const DatasetPtr& upstream(Split split) {
    DatasetPtr& dataset = split == Split::train ? train_ : test_;
    if (!dataset) {
      if (split == Split::train) {
        dataset = training_set(run_options("", 1, 1));
      } else {
        dataset = open_dataset(options_.data, Split::test);
        if (options_.test > 0)
          dataset = balanced_subset(dataset, options_.test / dataset->num_classes(), options_.seed);
      }
    }
    return dataset;
  }

  std::string task_specification(const std::string& task) const {
    return fmt::format("{}:train={},test={},size={},seed={}", task, options_.task_train,
                       options_.task_test, options_.image_size, options_.seed);
  }
  int64_t validation() const { return options_.task_train / 4; }

  void measure(const StudyModel& model) {
    measured_[model.name] = stage(model.folder, [&] {
      log_info("measuring {}", model.name);
      TrainedNetwork network = load_network(root_ / model.folder, device_);
      const Pipeline view = evaluation_pipeline(network);
      const auto features = [&](const DatasetPtr& dataset) {
        return extract_features(*network.encoder, dataset, view, options_.workers);
      };
      const ModelDiversity diversity =
          model_diversity(named_weights(*network.encoder), {.heads = network.heads()});
      const Features train = features(upstream(Split::train)),
                     test = features(upstream(Split::test));
      const int64_t classes = upstream(Split::train)->num_classes();
      // A network that was never given a classifier gets one as its features deserve.
      const bool has_head = network.head_weight.defined();
      const double accuracy =
          has_head ? head_accuracy(network, test, *upstream(Split::test))
                   : probe_accuracy(train, test, classes, train.x.dim(0) / 5).percent;
      Json probes = Json::object(), chosen = Json::object();
      for (const std::string& task : kTasks) {
        const DatasetPtr task_train = open_dataset(task_specification(task), Split::train);
        const DatasetPtr task_test = open_dataset(task_specification(task), Split::test);
        const ProbeScore score = probe_accuracy(features(task_train), features(task_test),
                                                task_train->num_classes(), validation());
        probes[task] = score.percent;
        chosen[task] = score.c;
      }
      return Json({{"accuracy", accuracy},
                   {"accuracy_by", has_head ? "own classifier" : "linear probe"},
                   {"clustering_diversity", diversity.clustering},
                   {"spectral_diversity", diversity.spectral},
                   {"clustering_cis", calibrated_imagenet_score(accuracy, diversity.clustering)},
                   {"spectral_cis", calibrated_imagenet_score(accuracy, diversity.spectral)},
                   {"knn", knn_accuracy(train, test, classes, options_.neighbours)},
                   {"probes", probes},
                   {"probe_c", chosen}});
    });
    seconds_["measure " + model.name] = measured_[model.name]["seconds"];
  }

  // Nearest neighbours of raw pixels, of every kind of network as it was before training, and of
  // every start.
  void compare_neighbours() {
    neighbours_ = stage("neighbours", [&] {
      log_info("comparing nearest neighbours");
      const Pipeline view =
          eval_pipeline(static_cast<int>(options_.image_size), normalization_for(options_.data));
      const auto accuracy = [&](const auto& features_of) {
        return knn_accuracy(features_of(Split::train), features_of(Split::test),
                            upstream(Split::train)->num_classes(), options_.neighbours);
      };
      Json rows = Json::array();
      const auto add = [&](const std::string& features, double percent, const std::string& start) {
        rows.push_back({{"features", features}, {"accuracy", percent}, {"start", start}});
      };
      add("raw pixels",
          accuracy([&](Split split) { return raw_pixels(upstream(split), view, device_); }), "");
      std::map<std::string, double> untrained;  // by kind of network
      for (const Start& start : starts_) {
        const PretrainOptions p = pretraining(start.method);
        const std::string kind = p.network.is_vit() ? p.method.method : p.network.arch;
        if (!untrained.contains(kind)) {
          const auto fresh = untrained_network(p.method, p.network, options_.seed);
          to_device(*fresh, device_);
          untrained[kind] = accuracy([&](Split split) {
            return extract_features(*fresh, upstream(split), view, options_.workers);
          });
          add(fmt::format("untrained {}", p.network.is_vit() ? fmt::format("ViT ({})", start.title)
                                                             : std::string("ResNet")),
              untrained[kind], "");
        }
        add(start.title, measured_[start.title]["knn"], start.method);
        rows.back()["untrained"] = untrained[kind];
      }
      return Json({{"k", options_.neighbours},
                   {"train", upstream(Split::train)->size()},
                   {"queries", upstream(Split::test)->size()},
                   {"rows", rows}});
    });
    seconds_["nearest neighbours"] = neighbours_["seconds"];
  }

  // Transferability of every model, and its correlation with each measure.
  void add_transfer(Json& models, Json& correlations) const {
    const auto count = static_cast<int64_t>(models.size());
    std::vector<double> accuracies;
    for (const Json& model : models)
      for (const std::string& task : kTasks)
        accuracies.push_back(model["probes"][task].get<double>() / 100.0);
    const std::vector<int64_t> samples(kTasks.size(), options_.task_test);
    const TransferScores scores = transfer_scores(accuracies, count, samples);
    for (size_t i = 0; i < models.size(); ++i) {
      models[i]["transfer"] = scores.score[i];
      models[i]["transfer_error"] = scores.standard_error[i];
    }
    for (const auto& [key, title] : {std::pair{"accuracy", "accuracy"},
                                     {"clustering_cis", "accuracy × clustering diversity (CIS)"},
                                     {"spectral_cis", "accuracy × spectral diversity (CIS)"},
                                     {"clustering_diversity", "clustering diversity"},
                                     {"spectral_diversity", "spectral diversity"}}) {
      std::vector<double> x;
      for (const Json& model : models) x.push_back(model[key]);
      correlations.push_back({{"measure", key},
                              {"title", title},
                              {"spearman", spearman(x, scores.score)},
                              {"pearson", pearson(x, scores.score)},
                              {"kendall", kendall(x, scores.score)}});
    }
  }

  Json loss_curve(const StudyModel& model) const {
    Json points = Json::array(), collapse = nullptr;
    for (const Json& record : read_metrics(root_ / model.folder)) {
      points.push_back({record["step"], record["loss"]});
      if (model.cycle == "-") collapse = record.value("collapse_loss", Json(nullptr));
    }
    return {{"name", model.cycle == "-" ? model.name : model.label},
            {"points", points},
            {"collapse", collapse}};
  }

  // Whether each start learned: its loss beside the value of a collapsed network, and its nearest
  // neighbours beside those of the network before training.
  Json summary_of_starts(const Json& curves) const {
    Json summary = Json::array();
    for (const Json& row : neighbours_["rows"]) {
      if (!row.contains("untrained")) continue;
      for (const Json& group : curves)
        for (const Json& curve : group["curves"])
          if (curve["name"] == row["features"])
            summary.push_back({{"name", row["features"]},
                               {"method", row["start"]},
                               {"first_loss", curve["points"].front()[1]},
                               {"last_loss", mean_of_last(curve["points"])},
                               {"collapse_loss", curve["collapse"]},
                               {"knn", row["accuracy"]},
                               {"untrained_knn", row["untrained"]}});
    }
    return summary;
  }

  // Of the last tenth: losses of single batches are noisy.
  static double mean_of_last(const Json& points) {
    const size_t n = points.size(), count = std::max<size_t>(n / 10, 1);
    double sum = 0;
    for (size_t i = n - count; i < n; ++i) sum += points[i][1].get<double>();
    return sum / static_cast<double>(count);
  }

  void finish() {
    Json models = Json::array(), correlations = Json::array(), tasks = Json::array();
    Json curves = Json::array(), injections = Json::array();
    for (const StudyModel& model : models_) {
      Json row = {{"name", model.name},
                  {"label", model.label},
                  {"start", model.start},
                  {"cycle", model.cycle}};
      row.update(measured_[model.name]);
      models.push_back(row);
      if (model.cycle == "-") {
        curves.push_back({{"title", model.name}, {"curves", {loss_curve(model)}}});
      } else {
        const std::string title =
            fmt::format("Labels into {}", model.name.substr(0, model.name.find(" + labels")));
        if (injections.empty() || injections.back()["title"] != title)
          injections.push_back({{"title", title}, {"curves", Json::array()}});
        injections.back()["curves"].push_back(loss_curve(model));
      }
    }
    const Json starts = summary_of_starts(curves);
    curves.insert(curves.end(), injections.begin(), injections.end());
    add_transfer(models, correlations);
    for (const std::string& task : kTasks)
      tasks.push_back(
          {{"name", task},
           {"classes", open_dataset(task_specification(task), Split::test)->num_classes()},
           {"train", options_.task_train - validation()},
           {"validation", validation()},
           {"test", options_.task_test}});
    double total = 0;
    for (const auto& [name, seconds] : seconds_.items()) total += seconds.get<double>();
    configurations_["reproduce"] = config_;
    Json times = Json::object();
    for (const auto& [name, seconds] : seconds_.items()) times[name] = format_seconds(seconds);

    const Json results = {
        {"title", "Do diverse features transfer better? A small study on Fashion-MNIST"},
        {"created", utc_now()},
        {"command", "facet reproduce --recipe config.toml"},
        {"machine", machine_description()},
        {"seconds", total},
        {"stage_seconds", times},
        {"models", models},
        {"tasks", tasks},
        {"knn", neighbours_},
        {"correlations", correlations},
        {"starts", starts},
        {"curves", curves},
        {"configuration", configurations_}};
    write_file(root_ / "results.json", results.dump(2) + "\n");
    write_file(root_ / "results.csv", render_csv(results));
    write_file(root_ / "report.html", render_report(results));
    results_ = results;
  }

 public:
  const Json& results() const { return results_; }

 private:
  StudyOptions options_;
  std::string config_;
  fs::path root_;
  std::vector<Start> starts_;
  std::vector<StudyModel> models_;
  Device device_;
  DatasetPtr train_, test_;
  Json measured_ = Json::object(), neighbours_, seconds_ = Json::object(),
       configurations_ = Json::object(), results_;
};

void print_results(const Json& results, const std::string& output) {
  fmt::print("{:<26} {:>8} {:>7} {:>7} {:>7} {:>7} {:>6}", "model", "accuracy", "D_C", "D_S",
             "CIS_C", "CIS_S", "kNN");
  for (const std::string& task : kTasks) fmt::print(" {:>8}", task);
  fmt::print(" {:>8} {:>6}\n", "transfer", "+-");
  for (const Json& model : results["models"]) {
    const auto value = [&](const char* key) { return model[key].get<double>(); };
    fmt::print("{:<26} {:>7.2f}% {:>7.4f} {:>7.4f} {:>7.2f} {:>7.2f} {:>6.2f}",
               model["name"].get<std::string>(), value("accuracy"), value("clustering_diversity"),
               value("spectral_diversity"), value("clustering_cis"), value("spectral_cis"),
               value("knn"));
    for (const std::string& task : kTasks)
      fmt::print(" {:>8.2f}", model["probes"][task].get<double>());
    fmt::print(" {:>8.3f} {:>6.3f}\n", value("transfer"), value("transfer_error"));
  }
  fmt::print("\nrank correlation with transfer:");
  for (const Json& row : results["correlations"])
    fmt::print("  {} {:.2f}", row["measure"].get<std::string>(),
               row["spearman"].is_number() ? row["spearman"].get<double>() : NAN);
  fmt::print("\n\n{:<18} {:>10} {:>9} {:>14} {:>7} {:>14}\n", "pretraining", "first loss", "last",
             "collapse value", "kNN", "untrained kNN");
  for (const Json& start : results["starts"])
    fmt::print("{:<18} {:>10.3f} {:>9.3f} {:>14.3f} {:>6.2f}% {:>13.2f}%\n",
               start["name"].get<std::string>(), start["first_loss"].get<double>(),
               start["last_loss"].get<double>(), start["collapse_loss"].get<double>(),
               start["knn"].get<double>(), start["untrained_knn"].get<double>());
  fmt::print("kNN accuracy of raw pixels {:.2f}%\n",
             results["knn"]["rows"][0]["accuracy"].get<double>());
  fmt::print("report: {}\n", (fs::path(output) / "report.html").string());
}

}  // namespace

void run_reproduce(const Arguments& arguments) {
  Options options("reproduce",
                  "Pretrains with every method, injects labels at T = 1, 4 and infinity, measures "
                  " diversity and transfer of each model, and writes a report.");
  StudyOptions settings;
  bool json = false;
  settings.add_to(options);
  options.flag("--json", json, "Print results.json", Options::kProcess);
  options.with_recipes();
  if (!options.parse(arguments)) return;
  if (settings.fast) settings.shrink(options);
  if (settings.threads > 0) set_num_threads(static_cast<int>(settings.threads));
  Study study(settings, options.toml());
  study.run();
  if (json)
    fmt::print("{}\n", study.results().dump());
  else
    print_results(study.results(), settings.output);
}

}  // namespace facet
