#include "apps/study/measure.h"

#include "apps/interrupt.h"
#include "apps/log.h"
#include "metrics/cka.h"
#include "metrics/separation.h"
#include "tensor/file.h"

namespace facet {
namespace {

constexpr int kCurveSteps = 20;  // of C_tau

void add_diversity(Json& result, TrainedNetwork& network) {
  const DiversityOptions options{.heads = network.heads(),
                                 .thresholds = even_thresholds(kCurveSteps)};
  const ModelDiversity diversity = model_diversity(named_weights(*network.encoder), options);
  result["clustering_diversity"] = diversity.clustering;
  result["spectral_diversity"] = diversity.spectral;
  result["layers"] = describe_layers(diversity);
  result["tau"] = options.thresholds;
}

// A network that was never given a classifier of these classes gets one as its features deserve.
void add_accuracy(Json& result, const TrainedNetwork& network, const Features& test,
                  const std::function<Features()>& train, const Dataset& dataset) {
  const int64_t classes = dataset.num_classes();
  const bool own = network.head_weight.defined() && network.head_weight.dim(0) == classes;
  double accuracy = 0.0;
  if (own) {
    accuracy = head_accuracy(network, test, dataset);
  } else {
    const Features features = train();
    accuracy = probe_accuracy(features, test, classes, features.x.dim(0) / 5).percent;
  }
  result["accuracy"] = accuracy;
  result["accuracy_by"] = own ? "own classifier" : "linear probe";
  for (const char* kind : {"clustering", "spectral"})
    result[fmt::format("{}_cis", kind)] =
        calibrated_imagenet_score(accuracy, result[fmt::format("{}_diversity", kind)]);
}

}  // namespace

DownstreamTask open_task(const std::string& name, const std::string& specification) {
  DownstreamTask task{name, open_dataset(specification, Split::train),
                      open_dataset(specification, Split::test), 0};
  task.validation = task.train->size() / 4;
  if (task.validation < 1)
    throw UsageError("--data {}: expected 4 training pictures or more, got {}", specification,
                     task.train->size());
  return task;
}

Json measure_network(TrainedNetwork& network, const Upstream& upstream,
                     const std::vector<DownstreamTask>& tasks, int64_t workers) {
  const auto features = [&](const DatasetPtr& dataset) {
    return extract_features(network, dataset, workers);
  };
  Json result;
  add_diversity(result, network);  // first: it names a layer that is not finite
  const Features train = features(upstream.train), test = features(upstream.test);
  const int64_t classes = upstream.train->num_classes();
  add_accuracy(
      result, network, test, [&] { return train; }, *upstream.test);
  result["knn"] =
      knn_accuracy(train, test, classes, std::min(upstream.neighbours, upstream.train->size()));
  const Separation apart = separation(test.x, test.labels, classes);
  result["intra"] = apart.intra;
  result["inter"] = apart.inter;
  result["silhouette"] = apart.silhouette;
  const Tensor similarity = stage_similarity(network, nullptr, upstream.test, {.workers = workers});
  result["cka"] = similarity.dim(0) > 1 ? Json(cka_score(similarity)) : Json(nullptr);
  result["cka_matrix"] = rows_of(similarity);
  result["probes"] = result["probe_c"] = Json::object();
  for (const DownstreamTask& task : tasks) {
    const ProbeScore score = probe_accuracy(features(task.train), features(task.test),
                                            task.train->num_classes(), task.validation);
    result["probes"][task.name] = score.percent;
    result["probe_c"][task.name] = score.c;
  }
  return result;
}

Json measure_classifier(TrainedNetwork& network, const Json& backbone, const Upstream& upstream,
                        int64_t workers) {
  Json result = backbone;
  add_accuracy(
      result, network, extract_features(network, upstream.test, workers),
      [&] { return extract_features(network, upstream.train, workers); }, *upstream.test);
  return result;
}

double mean_similarity(TrainedNetwork& first, TrainedNetwork& second, const Upstream& upstream,
                       int64_t workers) {
  return 100.0 * mean_of(stage_similarity(first, &second, upstream.test, {.workers = workers}));
}

Json measured_once(const std::filesystem::path& folder, const std::string& name,
                   const std::function<Json()>& make) {
  const std::filesystem::path path = folder / "measured" / (name + ".json");
  make_folder(path.parent_path());
  if (!std::filesystem::exists(path)) {
    stop_if_interrupted(folder.string() + ": stopped between two stages");
    const Stopwatch clock;
    Json result = make();
    result["seconds"] = clock.seconds();
    write_file(path, result.dump() + "\n");
  }
  Json result = Json::parse(read_file(path), nullptr, false);
  if (!result.is_object())
    throw FileError("{}: expected a JSON object; remove it to measure again", path.string());
  return result;
}

}  // namespace facet
