// Classification quality of scores (N, classes).
#pragma once

#include <cstdint>
#include <vector>

#include "tensor/tensor.h"

namespace facet {

// Share of rows whose label (i64) is among the k highest scores; equal scores by smaller class.
// Rows with a negative label do not count.
double top_k_accuracy(const Tensor& scores, const Tensor& labels, int64_t k = 1);

// Mean of the accuracies within each class that has samples.
double mean_per_class_accuracy(const Tensor& scores, const Tensor& labels);

// Multi-label: targets (N, classes) with 1 (or any value above 0) for each class present. Average
// precision is scikit-learn's: sum over distinct scores of (R_i - R_i-1) P_i, no interpolation.
struct MeanAveragePrecision {
  double mean = 0.0;              // over the classes with a positive
  std::vector<double> per_class;  // NaN for a class without one
};
MeanAveragePrecision mean_average_precision(const Tensor& scores, const Tensor& targets);

}  // namespace facet
