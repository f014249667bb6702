// facet probe and facet knn: what frozen features are worth on a task.
#include "apps/evaluate.h"

#include "apps/command.h"
#include "apps/data_options.h"
#include "apps/machine.h"

namespace facet {
namespace {

struct EvaluateOptions {
  std::string model, data = "fashion-mnist", device = "cpu", crop = "auto", interpolation = "auto";
  int64_t per_class = 0, workers = 1;
  uint64_t seed = 0;
  ReadingOptions reading;
  bool json = false;

  void add_to(Options& options) {
    options.add("model", model,
                "A run's folder or a file of weights (facet inspect); 'pixels' takes the pictures "
                "as they are");
    options.add("--data,--dataset", data, "Dataset:\n" + dataset_help());
    reading.add_to(options);
    options.add("--per-class", per_class, "Training pictures a class (0: all)");
    options.add("--seed", seed, "Of the choice of training pictures");
    options.choice("--crop", crop, {"auto", "squash", "center"},
                   "The whole picture, or the centre of it at 8/7 of the size; auto: the centre "
                   "above 64 pixels, but to probe");
    options.choice("--interpolation", interpolation, {"auto", "bilinear", "bicubic"},
                   "Of pictures; auto: as the network's official code");
    options.add("--device", device, "cpu, cuda or cuda:N", Options::kProcess);
    options.add("-j,--workers", workers, "Threads that prepare batches", Options::kProcess);
    options.flag("--json", json, "Print JSON", Options::kProcess);
  }
};

struct Task {
  std::string model;
  TrainedNetwork network;
  DatasetPtr test_set;
  Features train, test;  // train: only where asked for
  int64_t classes;
};

Task load_task(const EvaluateOptions& options, const char* command, bool needs_train = true) {
  if (options.model.empty())
    throw UsageError("facet {}: expected a run's folder, a file or 'pixels'", command);
  const Device device = use_device(options.device);
  const bool is_raw = options.model == "pixels";
  TrainedNetwork network;
  if (!is_raw) network = load_network(options.model, device);
  DatasetPtr train = options.reading.open(options.data, Split::train);
  if (options.per_class > 0) train = balanced_subset(train, options.per_class, options.seed);
  const DatasetPtr test = options.reading.open(options.data, Split::test);
  const bool omit = options.reading.policy() != OnBadSample::fail;
  const Pipeline pipeline =
      is_raw ? eval_pipeline(train->image(0).height, normalization_for(options.data))
             : evaluation_pipeline(network, options.crop, options.interpolation);
  const auto features = [&](const DatasetPtr& dataset) {
    return is_raw ? raw_pixels(dataset, pipeline, device, omit)
                  : extract_features(*network.encoder, dataset, pipeline, options.workers, omit);
  };
  Task task{
      is_raw ? options.model : network.name, {}, test, {}, features(test), train->num_classes()};
  if (needs_train) task.train = features(train);
  task.network = std::move(network);
  return task;
}

}  // namespace

void run_probe(const Arguments& arguments) {
  Options options("probe", "Fits a linear classifier to frozen features and prints its accuracy.");
  EvaluateOptions settings;
  double share = 0.2;
  bool own = false;
  settings.add_to(options);
  options.add("--validation", share, "Share of the training pictures that chooses C");
  options.flag("--own", own, "The network's own classifier instead, which must know the classes");
  if (!options.parse(arguments)) return;
  need(share > 0 && share < 1, "--validation", "a share in (0, 1)", share);
  if (!own && settings.crop == "auto") settings.crop = "squash";  // Nayman et al., appendix H
  const Task task = load_task(settings, "probe", !own);
  const bool multi_label = task.test.labels.rank() == 2;
  Json result = {
      {"model", task.model}, {"data", settings.data}, {"metric", multi_label ? "mAP" : "accuracy"}};
  if (own) {
    result["percent"] = head_accuracy(task.network, task.test, *task.test_set);
  } else {
    const auto validation = std::max<int64_t>(
        1, static_cast<int64_t>(share * static_cast<double>(task.train.x.dim(0))));
    const ProbeScore score = probe_accuracy(task.train, task.test, task.classes, validation);
    result["percent"] = score.percent;
    result["c"] = score.c;
  }
  const int64_t pictures = task.test.x.dim(0) + task.test.bad;
  result["test"] = pictures;
  result["bad"] = task.test.bad;
  if (settings.json) return print_json(result);
  fmt::print("{} on {}: {} {:.2f}% ({}, {} test pictures{})\n", task.model, settings.data,
             multi_label ? "mAP" : "accuracy", result["percent"].get<double>(),
             own ? "own classifier" : fmt::format("C = {:.3g}", result["c"].get<double>()),
             pictures, task.test.bad > 0 ? fmt::format(", {} of them bad", task.test.bad) : "");
}

void run_knn(const Arguments& arguments) {
  Options options("knn", "Classifies by the nearest neighbours in feature space.");
  EvaluateOptions settings;
  int64_t k = 20;
  settings.add_to(options);
  options.add("-k,--neighbours", k, "Neighbours that vote");
  if (!options.parse(arguments)) return;
  const Task task = load_task(settings, "knn");
  if (task.test.labels.rank() == 2)
    throw UsageError("--data {}: expected one label a picture", settings.data);
  if (k < 1 || k > task.train.x.dim(0))
    throw UsageError("-k: expected 1 to {}, got {}", task.train.x.dim(0), k);
  const double percent = knn_accuracy(task.train, task.test, task.classes, k);
  if (settings.json)
    print_json({{"model", task.model},
                {"data", settings.data},
                {"k", k},
                {"percent", percent},
                {"test", task.test.x.dim(0) + task.test.bad},
                {"bad", task.test.bad}});
  else
    fmt::print("{} on {}: kNN accuracy {:.2f}% (k = {}, {} test pictures)\n", task.model,
               settings.data, percent, k, task.test.x.dim(0) + task.test.bad);
}

}  // namespace facet
