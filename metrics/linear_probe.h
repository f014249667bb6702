// Logistic regression on frozen features, fitted by L-BFGS as in scikit-learn: it minimises
//   1/2 |W|^2 + C * sum over samples of the cross-entropy,
// the intercept not penalised. The sum, not the mean: C has scikit-learn's meaning.
#pragma once

#include <span>
#include <vector>

#include "optim/lbfgs.h"
#include "tensor/tensor.h"

namespace facet {

// Features (N, d), f32 or f64, and their targets: labels i64 (N), fitted by one multinomial
// (softmax) model, a negative label masking its row; or a matrix (N, classes) of the features'
// type with 0 or 1, fitted by one binary model a class.
struct ProbeData {
  Tensor features;
  Tensor targets;
  bool is_multi_label() const { return targets.rank() == 2; }
};

struct LinearClassifier {
  Tensor weight;                                    // (classes, d)
  Tensor bias;                                      // (classes)
  Tensor operator()(const Tensor& features) const;  // logits (N, classes)
};

struct LogisticFit {
  LinearClassifier classifier;
  LbfgsResult solver;  // solver.value is the objective
};

// Minimises over all rows of `parts` together. `start`: where to begin (zeros when null).
LogisticFit fit_logistic(std::span<const ProbeData> parts, int64_t classes, double c,
                         const LbfgsOptions& options = {}, const LinearClassifier* start = nullptr);

struct ProbeOptions {
  std::vector<double> c;        // ascending; empty: 45 values from 1e-6 to 1e5, evenly in log
  LbfgsOptions solver;          // per value of C
  bool refit = true;            // fit again on training and validation samples with the best C
  bool mean_per_class = false;  // choose by mean per-class accuracy instead of top-1
};

struct ProbeStep {
  double c = 0.0;
  double score = 0.0;    // on the validation samples: accuracy, or mAP for multi-label targets
  double seconds = 0.0;  // of the fit
  LbfgsResult solver;
};

struct ProbeResult {
  LinearClassifier classifier;
  double c = 0.0;      // best on the validation samples, the smallest of equals
  double score = 0.0;  // there, before the refit
  std::vector<ProbeStep> steps;
};

// Fits every C, each starting from where the ones before lead, and chooses on the validation
// samples.
ProbeResult linear_probe(const ProbeData& train, const ProbeData& validation, int64_t classes,
                         const ProbeOptions& options = {});

// n values from 10^first to 10^last, evenly in log.
std::vector<double> log_space(double first, double last, int n);

}  // namespace facet
