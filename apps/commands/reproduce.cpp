// facet reproduce: the whole study on Fashion-MNIST; facet reproduce paper: the paper's own tables.
// Every stage of the study leaves a file; a stage whose file is there is not repeated, and training
// continues from its checkpoints, so the same command continues wherever it was stopped.
#include <algorithm>
#include <map>
#include <optional>

#include "apps/command.h"
#include "apps/log.h"
#include "apps/study/plan.h"
#include "apps/study/results.h"
#include "tensor/parallel.h"

namespace facet {
namespace {

namespace fs = std::filesystem;

class Study {
 public:
  Study(StudyOptions options, std::string config)
      : options_(std::move(options)),
        root_(options_.output),
        starts_(chosen_starts(options_)),
        models_(study_models(options_, starts_)),
        device_(use_device(options_.device)) {
    configurations_["reproduce"] = std::move(config);
  }

  Json run() {
    for (const Start& start : starts_)  // what cannot be trained is said before anything is
      pretraining(options_, root_, start.method).network.resolve();
    RunFolder folder(root_, configurations_["reproduce"]);
    for (const StudyModel& model : models_) train_model(model);
    open_data();
    for (const StudyModel& model : models_) measure(model);
    compare_injections();
    compare_neighbours();
    Json results = gathered();
    finish_results(results, root_, options_.seed);
    return results;
  }

 private:
  void train_model(const StudyModel& model) {
    Options shown("pretrain", "");
    double seconds = 0;
    if (model.injected()) {
      InjectOptions injected = injection(options_, root_, model);
      injected.add_to(shown);
      configurations_[model.name] = shown.toml();
      seconds = inject(injected, shown.toml()).seconds;
    } else {
      PretrainOptions start = pretraining(options_, root_, model.start);
      start.add_to(shown);
      configurations_[model.name] = shown.toml();
      seconds = pretrain(start, shown.toml()).seconds;
    }
    seconds_["train " + model.name] = seconds;
  }

  void open_data() {
    DatasetPtr test = open_dataset(options_.data, Split::test);
    if (options_.test > 0)
      test = balanced_subset(test, options_.test / test->num_classes(), options_.seed);
    upstream_ =
        Upstream{training_set(run_options(options_, root_, "", 1, 1)), test, options_.neighbours};
    for (const char* task : kStudyTasks)
      tasks_.push_back(open_task(task, task_specification(options_, task)));
  }

  TrainedNetwork network_of(const std::string& folder) const {
    return load_network(root_ / folder, device_);
  }

  void measure(const StudyModel& model) {
    measured_[model.name] = measured_once(root_, model.folder, [&] {
      log_info("measuring {}", model.name);
      TrainedNetwork network = network_of(model.folder);
      if (model.cycle != "inf")
        return measure_network(network, *upstream_, tasks_, options_.workers);
      // The backbone is its start's, bit for bit.
      const auto start = std::ranges::find(models_, model.start, &StudyModel::folder);
      return measure_classifier(network, measured_[start->name], *upstream_, options_.workers);
    });
    seconds_["measure " + model.name] = measured_[model.name]["seconds"];
  }

  // How like its start, and how like the supervised network, each model with labels is.
  void compare_injections() {
    const bool supervised = std::ranges::any_of(
        starts_, [](const Start& s) { return s.method == std::string("supervised"); });
    for (const Start& start : starts_) {
      Json rows = Json::array();
      for (const StudyModel& model : models_) {
        if (!model.injected() || model.start != start.method) continue;
        const Json similarity = measured_once(root_, model.folder + "-similarity", [&] {
          log_info("comparing {}", model.name);
          TrainedNetwork network = network_of(model.folder);
          const auto with = [&](const std::string& folder) {
            TrainedNetwork other = network_of(folder);
            return mean_similarity(network, other, *upstream_, options_.workers);
          };
          Json found = {{"to_start", with(model.start)}};
          if (supervised && model.start != "supervised")
            found["to_supervised"] = with("supervised");
          return found;
        });
        seconds_["compare " + model.name] = similarity["seconds"];
        rows.push_back({{"name", model.name}, {"cycle", model.cycle}});
        rows.back().update(similarity);
      }
      if (!rows.empty())
        injections_.push_back({{"start", start.method}, {"title", start.title}, {"models", rows}});
    }
  }

  // Nearest neighbours of raw pixels, of every kind of network as it was before training, and of
  // every start.
  void compare_neighbours() {
    neighbours_ = measured_once(root_, "neighbours", [&] {
      log_info("comparing nearest neighbours");
      const Pipeline view = test_view(options_.image_size, normalization_for(options_.data), "");
      const auto upstream = [&](Split split) {
        return split == Split::train ? upstream_->train : upstream_->test;
      };
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
        const PretrainOptions p = pretraining(options_, root_, start.method);
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

  Json loss_curve(const StudyModel& model) const {
    Json points = Json::array(), collapse = Json::array();
    for (const Json& record : read_metrics(root_ / model.folder)) {
      points.push_back({record["step"], record["loss"]});
      if (!model.injected()) collapse.push_back({record["step"], record["collapse_loss"]});
    }
    return {{"name", model.injected() ? model.label : model.name},
            {"points", points},
            {"collapse", collapse.empty() ? Json(nullptr) : Json(mean_of_last(collapse))}};
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

  Json gathered() const {
    Json models = Json::array(), curves = Json::array(), injected = Json::array();
    for (const StudyModel& model : models_) {
      Json row = {{"name", model.name},
                  {"label", model.label},
                  {"start", model.start},
                  {"cycle", model.cycle}};
      row.update(measured_[model.name]);
      models.push_back(row);
      if (!model.injected()) {
        curves.push_back({{"title", model.name}, {"curves", {loss_curve(model)}}});
        continue;
      }
      const std::string title =
          fmt::format("Labels into {}", model.name.substr(0, model.name.find(" + labels")));
      if (injected.empty() || injected.back()["title"] != title)
        injected.push_back({{"title", title}, {"curves", Json::array()}});
      injected.back()["curves"].push_back(loss_curve(model));
    }
    const Json starts = summary_of_starts(curves);
    curves.insert(curves.end(), injected.begin(), injected.end());
    return {{"title", "Do diverse features transfer better? A small study on Fashion-MNIST"},
            {"introduction",
             {"Networks are trained on Fashion-MNIST with labels (supervised, SupCon, CE + "
              "SelfSupCon) and without (SimCLR, MoCo v2 and SwAV: a ResNet; DINO and MAE: a vision "
              "transformer). Into some of them labels are injected with control cycle T: the "
              "classifier learns at every step, the network below it only at every T-th. T = 1 is "
              "ordinary fine-tuning; T = ∞ leaves the network as it was. For every model this "
              "report measures its accuracy, how diverse its features are, and how well they serve "
              "tasks it has never seen (a linear classifier on frozen features).",
              "This is a small study: a narrow network, subsets, minutes on a processor, a few "
              "models. It shows the method at work; it can neither confirm nor refute what was "
              "found with ImageNet models."}},
            {"command", "facet reproduce --recipe config.toml"},
            {"stage_seconds", seconds_},
            {"models", models},
            {"tasks", describe_tasks(tasks_)},
            {"injections", injections_},
            {"knn", neighbours_},
            {"starts", starts},
            {"curves", curves},
            {"configuration", configurations_}};
  }

  StudyOptions options_;
  fs::path root_;
  std::vector<Start> starts_;
  std::vector<StudyModel> models_;
  Device device_;
  std::optional<Upstream> upstream_;
  std::vector<DownstreamTask> tasks_;
  Json measured_ = Json::object(), neighbours_, injections_ = Json::array(),
       seconds_ = Json::object(), configurations_ = Json::object();
};

}  // namespace

void run_reproduce(const Arguments& arguments) {
  if (!arguments.empty() && arguments[0] == "paper")
    return run_paper(Arguments(arguments.begin() + 1, arguments.end()));
  Options options("reproduce",
                  "Pretrains with every method, injects labels with several control cycles, "
                  "measures diversity and transfer of each model, and writes a report. 'facet "
                  "reproduce paper' works on the paper's own tables instead.");
  StudyOptions settings;
  bool json = false;
  settings.add_to(options);
  options.flag("--json", json, "Print results.json", Options::kProcess);
  options.with_recipes();
  if (!options.parse(arguments)) return;
  settings.resize(options);
  if (settings.threads > 0) set_num_threads(static_cast<int>(settings.threads));
  const Json results = Study(settings, options.toml()).run();
  if (json)
    print_json(results);
  else
    print_results(results, settings.output);
}

}  // namespace facet
