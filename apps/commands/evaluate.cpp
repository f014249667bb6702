// facet probe and facet knn: what frozen features are worth on a task.
#include "apps/evaluate.h"

#include "apps/command.h"
#include "apps/machine.h"

namespace facet {
namespace {

struct EvaluateOptions {
  std::string model, data = "fashion-mnist", device = "cpu";
  int64_t per_class = 0, workers = 1;
  uint64_t seed = 0;
  bool json = false;

  void add_to(Options& options) {
    options.add("model", model,
                "A run's folder or a file of weights (facet inspect); 'pixels' takes the pictures "
                "as they are");
    options.add("--data,--dataset", data, "Dataset:\n" + dataset_help());
    options.add("--per-class", per_class, "Training pictures a class (0: all)");
    options.add("--seed", seed, "Of the choice of training pictures");
    options.add("--device", device, "cpu, cuda or cuda:N", Options::kProcess);
    options.add("-j,--workers", workers, "Threads that prepare batches", Options::kProcess);
    options.flag("--json", json, "Print JSON", Options::kProcess);
  }
};

struct Task {
  std::string model;
  Features train, test;
  int64_t classes;
};

Task load_task(const EvaluateOptions& options, const char* command) {
  if (options.model.empty())
    throw UsageError(fmt::format("facet {}: expected a run's folder, a file or 'pixels'", command));
  const Device device = use_device(options.device);
  const bool is_raw = options.model == "pixels";
  TrainedNetwork network;
  if (!is_raw) network = load_network(options.model, device);
  DatasetPtr train = open_dataset(options.data, Split::train);
  if (options.per_class > 0) train = balanced_subset(train, options.per_class, options.seed);
  const DatasetPtr test = open_dataset(options.data, Split::test);
  const Pipeline pipeline =
      is_raw ? eval_pipeline(train->image(0).height, normalization_for(options.data))
             : evaluation_pipeline(network);
  const auto features = [&](const DatasetPtr& dataset) {
    return is_raw ? raw_pixels(dataset, pipeline, device)
                  : extract_features(*network.encoder, dataset, pipeline, options.workers);
  };
  return {is_raw ? options.model : network.name, features(train), features(test),
          train->num_classes()};
}

}  // namespace

void run_probe(const Arguments& arguments) {
  Options options("probe", "Fits a linear classifier to frozen features and prints its accuracy.");
  EvaluateOptions settings;
  double share = 0.2;
  settings.add_to(options);
  options.add("--validation", share, "Share of the training pictures that chooses C");
  if (!options.parse(arguments)) return;
  if (!(share > 0 && share < 1))
    throw UsageError(fmt::format("--validation: expected a share in (0, 1), got {}", share));
  const Task task = load_task(settings, "probe");
  const auto validation =
      std::max<int64_t>(1, static_cast<int64_t>(share * static_cast<double>(task.train.x.dim(0))));
  const ProbeScore score = probe_accuracy(task.train, task.test, task.classes, validation);
  const bool multi_label = task.test.labels.rank() == 2;
  if (settings.json)
    fmt::print("{}\n", Json({{"model", task.model},
                             {"data", settings.data},
                             {"metric", multi_label ? "mAP" : "accuracy"},
                             {"percent", score.percent},
                             {"c", score.c},
                             {"test", task.test.x.dim(0)}})
                           .dump());
  else
    fmt::print("{} on {}: {} {:.2f}% (C = {:.3g}, {} test pictures)\n", task.model, settings.data,
               multi_label ? "mAP" : "accuracy", score.percent, score.c, task.test.x.dim(0));
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
    throw UsageError(fmt::format("--data {}: expected one label a picture", settings.data));
  if (k < 1 || k > task.train.x.dim(0))
    throw UsageError(fmt::format("-k: expected 1 to {}, got {}", task.train.x.dim(0), k));
  const double percent = knn_accuracy(task.train, task.test, task.classes, k);
  if (settings.json)
    fmt::print("{}\n", Json({{"model", task.model},
                             {"data", settings.data},
                             {"k", k},
                             {"percent", percent},
                             {"test", task.test.x.dim(0)}})
                           .dump());
  else
    fmt::print("{} on {}: kNN accuracy {:.2f}% (k = {}, {} test pictures)\n", task.model,
               settings.data, percent, k, task.test.x.dim(0));
}

}  // namespace facet
