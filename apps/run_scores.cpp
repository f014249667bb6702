#include "apps/run_scores.h"

#include <algorithm>

#include "metrics/accuracy.h"
#include "metrics/cka.h"
#include "metrics/diversity.h"

namespace facet {
namespace {
constexpr int64_t kPictures = 2048;  // of the comparison with the start
}

RunScores::RunScores(Supervised& objective, DatasetPtr test, Pipeline view, int64_t workers)
    : objective_(objective), test_(std::move(test)), view_(std::move(view)), workers_(workers) {
  std::vector<int64_t> first(static_cast<size_t>(std::min(test_->size(), kPictures)));
  for (size_t i = 0; i < first.size(); ++i) first[i] = static_cast<int64_t>(i);
  const auto part = std::make_shared<SubsetDataset>(test_, first);
  start_ = extract_features(objective_.encoder(), part, view_, workers_).x;
}

Json RunScores::measure(const std::string& prefix) {
  const Features features = extract_features(objective_.encoder(), test_, view_, workers_);
  Linear& head = objective_.classifier();
  const Tensor scores =
      ops::matmul(features.x, head.weight.value(), false, true, head.bias.value());
  const double percent =
      100.0 * (test_->multi_label() ? mean_average_precision(scores, features.labels).mean
                                    : top_k_accuracy(scores, features.labels));
  const ModelDiversity diversity = model_diversity(
      named_weights(objective_.encoder()), {.heads = attention_heads(objective_.encoder())});
  return {{prefix + quality(), percent},
          {prefix + "clustering_diversity", diversity.clustering},
          {prefix + "spectral_diversity", diversity.spectral},
          {prefix + "clustering_cis", percent * diversity.clustering},
          {prefix + "spectral_cis", percent * diversity.spectral},
          {prefix + "cka_to_start", linear_cka(features.x.narrow(0, start_.dim(0)), start_)}};
}

}  // namespace facet
