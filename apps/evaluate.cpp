#include "apps/evaluate.h"

#include <set>

#include "apps/data_options.h"
#include "apps/interrupt.h"
#include "apps/log.h"
#include "data/loader.h"
#include "metrics/accuracy.h"
#include "metrics/cka.h"
#include "metrics/knn.h"
#include "metrics/linear_probe.h"

namespace facet {
namespace {

constexpr int64_t kBatch = 256;
constexpr int64_t kDefaultImageSize = 224;

// Calls use(position of the first, pictures) on a few of these pictures after the other, on the
// network's device: what its first layers make of kBatch pictures of 224 pixels would be gigabytes.
template <typename Use>
void in_pieces(Encoder& encoder, const Tensor& images, const Use& use) {
  const Device device = parameters(encoder).at(0).value.device();
  const int64_t count = images.dim(0);
  const int64_t step = std::clamp<int64_t>((1 << 22) / (images.numel() / count), 16, kBatch);
  for (int64_t at = 0; at < count; at += step)
    use(at, Variable(images.narrow(at, std::min(step, count - at)).to(device)));
}

// Calls `rows_of` on every batch in order and puts the rows under each other.
template <typename RowsOf>
Features collect(const DatasetPtr& dataset, const Pipeline& pipeline, int64_t workers, bool omit,
                 const RowsOf& rows_of) {
  DataLoader loader(dataset, {.views = {pipeline},
                              .batch_size = std::min(kBatch, dataset->size()),
                              .shuffle = false,
                              .drop_last = false,
                              .workers = static_cast<int>(workers),
                              .on_bad_sample = omit ? OnBadSample::omit : OnBadSample::fail});
  loader.start(0);
  TensorList parts, labels;
  int64_t count_bad = 0;
  while (const auto batch = loader.next()) {
    parts.push_back(rows_of(batch->views[0]));
    labels.push_back(batch->labels);
    for (const BadSample& bad : batch->bad) log_info("warning: {}", bad.error);
    count_bad += static_cast<int64_t>(batch->bad.size());
    stop_if_interrupted("stopped while evaluating");
  }
  if (count_bad > max_bad_samples(dataset->size()))
    throw FileError("{}: {} of {} samples cannot be decoded", dataset->name(), count_bad,
                    dataset->size());
  return {ops::concat(parts), ops::concat(labels).to(parts[0].device()), count_bad};
}

}  // namespace

Features extract_features(Encoder& encoder, const DatasetPtr& dataset, const Pipeline& pipeline,
                          int64_t workers, bool omit) {
  const NoGrad no_grad;
  encoder.eval();
  return collect(dataset, pipeline, workers, omit, [&](const Tensor& images) {
    TensorList parts;
    in_pieces(encoder, images,
              [&](int64_t, const Variable& x) { parts.push_back(encoder.features(x).value()); });
    return parts.size() == 1 ? parts[0] : ops::concat(parts);
  });
}

Features extract_features(const TrainedNetwork& network, const DatasetPtr& dataset,
                          int64_t workers) {
  return extract_features(*network.encoder, dataset, evaluation_pipeline(network), workers);
}

Features raw_pixels(const DatasetPtr& dataset, const Pipeline& pipeline, Device device, bool omit) {
  return collect(dataset, pipeline, 0, omit, [&](const Tensor& images) {
    return images.reshape({images.dim(0), images.numel() / images.dim(0)}).to(device);
  });
}

double percent_right(const Tensor& scores, const Tensor& labels) {
  return 100.0 * (labels.rank() == 2 ? mean_average_precision(scores, labels).mean
                                     : top_k_accuracy(scores, labels));
}

double knn_accuracy(const Features& train, const Features& test, int64_t classes, int64_t k) {
  const KnnResult result = knn_classify(train.x, train.labels, classes, test.x, {.k = k});
  return test.with_bad(100.0 * top_k_accuracy(result.scores, test.labels));
}

double head_accuracy(const TrainedNetwork& network, const Features& test, const Dataset& dataset) {
  FACET_CHECK(network.head_weight.defined(), "accuracy", "{} has no classifier", network.name);
  require_same_classes(network.metadata, network.name, dataset);
  return test.with_bad(100.0 * top_k_accuracy(ops::matmul(test.x, network.head_weight, false, true,
                                                          network.head_bias),
                                              test.labels));
}

ProbeScore probe_accuracy(const Features& train, const Features& test, int64_t classes,
                          int64_t validation) {
  const int64_t n = train.x.dim(0), kept = n - validation;
  FACET_CHECK(validation > 0 && kept > 0, "probe", "{} of {} samples for validation", validation,
              n);
  const auto part = [](const Features& from, int64_t begin, int64_t end) {
    return ProbeData{from.x.narrow(begin, end - begin), from.labels.narrow(begin, end - begin)};
  };
  const ProbeResult result =
      linear_probe(part(train, 0, kept), part(train, kept, n), classes, ProbeOptions{});
  const Tensor scores = result.classifier(test.x);
  return {test.with_bad(percent_right(scores, test.labels)), result.c};
}

Tensor stage_similarity(TrainedNetwork& first, TrainedNetwork* second, const DatasetPtr& dataset,
                        const SimilarityOptions& options) {
  const NoGrad no_grad;
  std::vector<TrainedNetwork*> networks = {&first};
  if (second) networks.push_back(second);
  std::vector<Pipeline> views;
  for (TrainedNetwork* network : networks) {
    network->encoder->eval();
    views.push_back(evaluation_pipeline(*network));
  }
  DataLoader loader(dataset, {.views = views,
                              .batch_size = std::min(options.batch_size, dataset->size()),
                              .seed = options.seed,
                              .drop_last = false,
                              .workers = static_cast<int>(options.workers)});
  // Stages of a large batch are made a few pictures at a time and kept in memory that all batches
  // share: the first stages of a batch at 224 pixels are gigabytes.
  const auto stages_of = [&](TrainedNetwork& network, const Tensor& images, TensorList& kept) {
    const int64_t count = images.dim(0);
    TensorList whole;
    in_pieces(*network.encoder, images, [&](int64_t at, const Variable& x) {
      const VariableList stages =
          options.blocks ? network.encoder->blocks(x) : network.encoder->stages(x);
      kept.resize(stages.size());
      for (size_t i = 0; i < stages.size(); ++i) {
        const Tensor& value = stages[i].value();
        const int64_t features = value.numel() / value.dim(0);
        if (!kept[i].defined() || kept[i].dim(0) < count)
          kept[i] = Tensor::empty({count, features}, value.dtype(), value.device());
        if (at == 0) whole.push_back(kept[i].narrow(0, count));
        whole[i].narrow(at, value.dim(0)).copy_(value.reshape({value.dim(0), features}));
      }
    });
    return whole;
  };
  TensorList of_first, of_second;
  CkaAccumulator similarity;
  for (int64_t epoch = 0; epoch < options.epochs; ++epoch) {
    loader.start(epoch);
    while (const auto batch = loader.next()) {
      stop_if_interrupted("stopped while comparing representations");
      if (batch->views[0].dim(0) < 4) continue;
      const TensorList a = stages_of(first, batch->views[0], of_first);
      if (second)
        similarity.add(a, stages_of(*second, batch->views[1], of_second));
      else
        similarity.add(a);
    }
  }
  return similarity.result();
}

double mean_of(const Tensor& matrix) {
  return ops::reduce(ReduceOp::mean, matrix.flatten()).item();
}

Json rows_of(const Tensor& matrix) {
  Json rows = Json::array();
  for (int64_t i = 0; i < matrix.dim(0); ++i)
    rows.push_back(matrix.narrow(i, 1).to_vector<double>());
  return rows;
}

Normalization normalization_for(const std::string& dataset, const std::string& method) {
  if (is_grey(dataset)) return kFashionMnistNormalization;
  if (dataset.starts_with("cifar100")) return kCifar100Normalization;
  if (dataset.starts_with("cifar10")) return kCifar10Normalization;
  if (method == "simclr-tf") return {{0, 0, 0}, {1, 1, 1}};
  Normalization n = kImagenetNormalization;
  if (method == "swav") n.std[0] = .228f;
  return n;
}

bool is_grey(const std::string& dataset) {
  return dataset.starts_with("fashion-mnist") || dataset.starts_with("mnist");
}

Pipeline test_view(int64_t size, const Normalization& n, const std::string& method,
                   const std::string& crop, const std::string& interpolation) {
  static const std::set<std::string> bicubic = {"dino",      "inject",     "mae",
                                                "simclr-tf", "supervised", "timm"};
  const bool small = size <= kSmallImage;
  const bool cubic =
      interpolation == "bicubic" || (interpolation == "auto" && !small && bicubic.contains(method));
  return eval_pipeline(static_cast<int>(size), n,
                       crop == "squash" || (small && crop != "center") ? 1.0 : .875,
                       cubic ? Filter::bicubic : Filter::bilinear);
}

Pipeline evaluation_pipeline(const TrainedNetwork& network, const std::string& crop,
                             const std::string& interpolation) {
  const std::string size = value_of(network.metadata, "facet.image_size");
  return test_view(size.empty() ? kDefaultImageSize : std::stol(size),
                   normalization_for(value_of(network.metadata, "facet.data"),
                                     value_of(network.metadata, "facet.start")),
                   value_of(network.metadata, "facet.method"), crop, interpolation);
}

}  // namespace facet
