#include "metrics/accuracy.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tensor/ops.h"
#include "tensor/parallel.h"

namespace facet {
namespace {

std::vector<int64_t> checked_labels(const Tensor& scores, const Tensor& labels) {
  FACET_CHECK(scores.rank() == 2 && labels.numel() == scores.dim(0), "accuracy",
              "expected scores (N, classes) and N labels, got {} and {}", scores.shape(),
              labels.shape());
  std::vector<int64_t> values = labels.to_vector<int64_t>();
  for (const int64_t label : values)
    FACET_CHECK(label < scores.dim(1), "accuracy", "label {} among {} classes", label,
                scores.dim(1));
  return values;
}

double average_precision(std::vector<std::pair<float, bool>>& ranked) {
  std::stable_sort(ranked.begin(), ranked.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  double found = 0.0, sum = 0.0;  // positives so far; sum of precision times new positives
  for (size_t i = 0; i < ranked.size();) {
    size_t end = i;
    double fresh = 0.0;
    for (; end < ranked.size() && ranked[end].first == ranked[i].first; ++end)
      fresh += ranked[end].second;
    found += fresh;
    sum += fresh * found / static_cast<double>(end);
    i = end;
  }
  return found > 0.0 ? sum / found : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

double top_k_accuracy(const Tensor& scores, const Tensor& labels, int64_t k) {
  const std::vector<int64_t> expected = checked_labels(scores, labels);
  FACET_CHECK(k >= 1 && k <= scores.dim(1), "accuracy", "top {} of {} classes", k, scores.dim(1));
  const Tensor best = k == 1 ? ops::argmax(scores) : ops::topk(scores, k).indices;  // (N, k)
  const std::vector<int64_t> classes = best.to_vector<int64_t>();
  int64_t hits = 0, count = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (expected[i] < 0) continue;
    const auto first = classes.begin() + static_cast<int64_t>(i) * k;
    hits += std::find(first, first + k, expected[i]) != first + k;
    ++count;
  }
  FACET_CHECK(count > 0, "accuracy", "no labelled sample among {}", expected.size());
  return static_cast<double>(hits) / static_cast<double>(count);
}

double mean_per_class_accuracy(const Tensor& scores, const Tensor& labels) {
  const std::vector<int64_t> expected = checked_labels(scores, labels);
  const std::vector<int64_t> predicted = ops::argmax(scores).to_vector<int64_t>();
  std::vector<int64_t> hits(static_cast<size_t>(scores.dim(1))), counts(hits.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    if (expected[i] < 0) continue;
    const auto label = static_cast<size_t>(expected[i]);
    hits[label] += predicted[i] == expected[i];
    ++counts[label];
  }
  double sum = 0.0;
  int64_t classes = 0;
  for (size_t c = 0; c < hits.size(); ++c) {
    if (counts[c] == 0) continue;
    sum += static_cast<double>(hits[c]) / static_cast<double>(counts[c]);
    ++classes;
  }
  FACET_CHECK(classes > 0, "accuracy", "no labelled sample among {}", expected.size());
  return sum / static_cast<double>(classes);
}

MeanAveragePrecision mean_average_precision(const Tensor& scores, const Tensor& targets) {
  FACET_CHECK(scores.rank() == 2 && scores.shape() == targets.shape() && scores.numel() > 0,
              "mean_average_precision", "expected scores and targets (N, classes), got {} and {}",
              scores.shape(), targets.shape());
  const int64_t n = scores.dim(0), classes = scores.dim(1);
  const std::vector<float> score = scores.to_vector<float>(), target = targets.to_vector<float>();
  MeanAveragePrecision result;
  result.per_class.resize(static_cast<size_t>(classes));
  parallel_for(classes, 1, [&](int64_t begin, int64_t end) {
    std::vector<std::pair<float, bool>> ranked(static_cast<size_t>(n));
    for (int64_t c = begin; c < end; ++c) {
      for (int64_t i = 0; i < n; ++i) {
        const auto at = static_cast<size_t>(i * classes + c);
        ranked[static_cast<size_t>(i)] = {score[at], target[at] > 0.0f};
      }
      result.per_class[static_cast<size_t>(c)] = average_precision(ranked);
    }
  });
  int64_t present = 0;
  for (const double ap : result.per_class) {
    if (std::isnan(ap)) continue;
    result.mean += ap;
    ++present;
  }
  FACET_CHECK(present > 0, "mean_average_precision", "no class has a positive among {} samples", n);
  result.mean /= static_cast<double>(present);
  return result;
}

}  // namespace facet
