// Transferability of models over datasets (Kornblith et al. 2019): the log odds of each accuracy,
// minus the mean over the models on that dataset, averaged over the datasets.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace facet {

// log(p / (1 - p)) of an accuracy p in [0, 1], clipped to [1/(2 n), 1 - 1/(2 n)] for a test set of
// n samples. n = 0: size unknown, and an accuracy of exactly 0 or 1 is an error.
double accuracy_logit(double accuracy, int64_t test_samples);

struct TransferScores {
  std::vector<double> score;           // one a model
  std::vector<double> standard_error;  // over datasets, times M / (M - 1)
  std::vector<double> adjusted;        // (models, datasets): the centred log odds
};

// accuracies: (models, datasets) row-major, in [0, 1]. test_samples: one a dataset (0: unknown),
// or empty. Scores are relative to the models given: at least two.
TransferScores transfer_scores(std::span<const double> accuracies, int64_t models,
                               std::span<const int64_t> test_samples = {});

}  // namespace facet
