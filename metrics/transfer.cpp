#include "metrics/transfer.h"

#include <algorithm>
#include <cmath>

#include "tensor/check.h"

namespace facet {

double accuracy_logit(double accuracy, int64_t test_samples) {
  FACET_CHECK(accuracy >= 0.0 && accuracy <= 1.0, "transfer",
              "expected an accuracy in [0, 1], got {}", accuracy);
  if (test_samples > 0) {
    const double margin = 0.5 / static_cast<double>(test_samples);
    accuracy = std::clamp(accuracy, margin, 1.0 - margin);
  }
  FACET_CHECK(accuracy > 0.0 && accuracy < 1.0, "transfer",
              "accuracy {} has infinite log odds: give the size of the test set", accuracy);
  return std::log(accuracy / (1.0 - accuracy));
}

TransferScores transfer_scores(std::span<const double> accuracies, int64_t models,
                               std::span<const int64_t> test_samples) {
  FACET_CHECK(models >= 2, "transfer", "scores compare models: expected 2 or more, got {}", models);
  const auto m = static_cast<size_t>(models);
  const size_t datasets = accuracies.size() / m;
  FACET_CHECK(datasets >= 1 && accuracies.size() == m * datasets, "transfer",
              "{} accuracies are no table of {} models", accuracies.size(), models);
  FACET_CHECK(test_samples.empty() || test_samples.size() == datasets, "transfer",
              "expected {} test set sizes, got {}", datasets, test_samples.size());

  TransferScores result;
  result.adjusted.resize(accuracies.size());
  for (size_t d = 0; d < datasets; ++d) {
    double mean = 0.0;
    for (size_t i = d; i < accuracies.size(); i += datasets) {
      result.adjusted[i] =
          accuracy_logit(accuracies[i], test_samples.empty() ? 0 : test_samples[d]);
      mean += result.adjusted[i];
    }
    mean /= static_cast<double>(models);
    for (size_t i = d; i < accuracies.size(); i += datasets) result.adjusted[i] -= mean;
  }

  const auto count = static_cast<double>(datasets);
  const double correction = static_cast<double>(models) / static_cast<double>(models - 1);
  for (size_t model = 0; model < m; ++model) {
    const std::span<const double> row(&result.adjusted[model * datasets], datasets);
    double mean = 0.0, squares = 0.0;
    for (const double y : row) mean += y / count;
    for (const double y : row) squares += (y - mean) * (y - mean);
    result.score.push_back(mean);
    result.standard_error.push_back(
        datasets > 1 ? correction * std::sqrt(squares / (count - 1.0) / count) : 0.0);
  }
  return result;
}

}  // namespace facet
