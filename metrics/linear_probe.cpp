#include "metrics/linear_probe.h"

#include <algorithm>
#include <cmath>

#include "metrics/accuracy.h"
#include "tensor/ops.h"

namespace facet {
namespace {

// Logits of a block stay in the cache between the two products over its features.
constexpr int64_t kRowsPerBlock = 4096;

// The weights (classes, d) and then the bias (classes) of a classifier as one vector.
LinearClassifier view_of(const Tensor& theta, int64_t classes, int64_t d) {
  return {theta.narrow(0, classes * d).reshape({classes, d}), theta.narrow(classes * d, classes)};
}

// Sum over rows and classes of the binary cross-entropy with logits z and targets t,
// max(z, 0) - t z + log(1 + exp(-|z|)); dz = sigmoid(z) - t.
double binary_cross_entropy(const Tensor& z, const Tensor& t, Tensor& dz) {
  const Tensor tail = ops::log(ops::affine(1.0, ops::exp(ops::neg(ops::abs(z))), 1.0));
  const Tensor loss = ops::add(ops::sub(ops::relu(z), ops::mul(t, z)), tail);
  dz = ops::sub(ops::sigmoid(z), t);
  return ops::reduce(ReduceOp::sum, loss.cast(DType::f64)).item();
}

double cross_entropy(const Tensor& z, const Tensor& labels, Tensor& dz) {
  const ops::CrossEntropy ce = ops::cross_entropy(z, labels);
  const Tensor ones = Tensor::full(ce.loss.shape(), 1.0, ce.loss.dtype(), z.device());
  dz = ops::cross_entropy_backward(z, labels, 0.0, ce.lse, ones);
  return ops::reduce(ReduceOp::sum, ce.loss.cast(DType::f64)).item();
}

double objective(std::span<const ProbeData> parts, int64_t classes, double c, const Tensor& theta,
                 Tensor& gradient) {
  const int64_t d = parts[0].features.dim(1);
  const LinearClassifier model = view_of(theta, classes, d);
  LinearClassifier grad = view_of(gradient, classes, d);
  grad.weight.copy_(model.weight);
  grad.bias.zero_();
  double loss = 0.0;
  for (const ProbeData& part : parts) {
    for (int64_t start = 0; start < part.features.dim(0); start += kRowsPerBlock) {
      const int64_t rows = std::min(kRowsPerBlock, part.features.dim(0) - start);
      const Tensor x = part.features.narrow(start, rows), y = part.targets.narrow(start, rows);
      const Tensor z = model(x);
      Tensor dz;
      loss += part.is_multi_label() ? binary_cross_entropy(z, y, dz) : cross_entropy(z, y, dz);
      ops::matmul_into(dz, x, {.trans_a = true, .alpha = c, .beta = 1.0}, grad.weight);
      ops::add_(grad.bias, ops::reduce(ReduceOp::sum, dz, 0), c);
    }
  }
  const Tensor squares = ops::reduce(ReduceOp::sum_squares, model.weight, 1).cast(DType::f64);
  return 0.5 * ops::reduce(ReduceOp::sum, squares).item() + c * loss;
}

void check(const ProbeData& data, const ProbeData& first, int64_t classes) {
  const Tensor &x = data.features, &y = data.targets;
  FACET_CHECK(x.rank() == 2 && x.numel() > 0, "linear_probe", "expected features (N, d), got {}",
              x.shape());
  FACET_CHECK(x.dtype() == DType::f32 || x.dtype() == DType::f64, "linear_probe",
              "expected f32 or f64 features, got {}", name(x.dtype()));
  FACET_CHECK(x.dim(1) == first.features.dim(1) && x.dtype() == first.features.dtype() &&
                  data.is_multi_label() == first.is_multi_label(),
              "linear_probe", "parts differ: {} and {}", x.str(), first.features.str());
  const bool fits = data.is_multi_label()
                        ? y.shape() == Shape{x.dim(0), classes} && y.dtype() == x.dtype()
                        : y.shape() == Shape{x.dim(0)} && y.dtype() == DType::i64;
  FACET_CHECK(fits, "linear_probe",
              "expected i64 labels ({}) or a matrix ({}, {}) of {}, got targets {}", x.dim(0),
              x.dim(0), classes, name(x.dtype()), y.str());
}

double score_of(const LinearClassifier& model, const ProbeData& data, bool mean_per_class) {
  const Tensor logits = model(data.features);
  if (data.is_multi_label()) return mean_average_precision(logits, data.targets).mean;
  return mean_per_class ? mean_per_class_accuracy(logits, data.targets)
                        : top_k_accuracy(logits, data.targets);
}

}  // namespace

Tensor LinearClassifier::operator()(const Tensor& features) const {
  return ops::matmul(features, weight, false, true, bias);
}

LogisticFit fit_logistic(std::span<const ProbeData> parts, int64_t classes, double c,
                         const LbfgsOptions& options, const LinearClassifier* start) {
  FACET_CHECK(!parts.empty() && classes >= 1, "linear_probe", "no samples or no classes");
  FACET_CHECK(c > 0.0 && std::isfinite(c), "linear_probe", "C = {} is not positive", c);
  for (const ProbeData& part : parts) check(part, parts[0], classes);
  const Tensor& x = parts[0].features;
  Tensor theta = Tensor::zeros({classes * (x.dim(1) + 1)}, x.dtype(), x.device());
  if (start) {
    LinearClassifier begin = view_of(theta, classes, x.dim(1));
    begin.weight.copy_(start->weight);
    begin.bias.copy_(start->bias);
  }
  const auto function = [&](const Tensor& at, Tensor& gradient) {
    return objective(parts, classes, c, at, gradient);
  };
  const LbfgsResult solver = minimize_lbfgs(theta, function, options);
  return {view_of(theta, classes, x.dim(1)), solver};
}

ProbeResult linear_probe(const ProbeData& train, const ProbeData& validation, int64_t classes,
                         const ProbeOptions& options) {
  check(validation, train, classes);
  const std::vector<double> path = options.c.empty() ? log_space(-6.0, 5.0, 45) : options.c;
  FACET_CHECK(std::is_sorted(path.begin(), path.end()), "linear_probe",
              "the values of C are not ascending: each fit starts from the one before");
  ProbeResult result;
  LogisticFit fit;
  for (const double c : path) {
    const LinearClassifier* start = result.steps.empty() ? nullptr : &fit.classifier;
    fit = fit_logistic(std::span(&train, 1), classes, c, options.solver, start);
    const double score = score_of(fit.classifier, validation, options.mean_per_class);
    if (result.steps.empty() || score > result.score) {
      result.classifier = fit.classifier;
      result.c = c;
      result.score = score;
    }
    result.steps.push_back({c, score, fit.solver});
  }
  if (options.refit) {
    const ProbeData both[] = {train, validation};
    result.classifier =
        fit_logistic(both, classes, result.c, options.solver, &result.classifier).classifier;
  }
  return result;
}

std::vector<double> log_space(double first, double last, int n) {
  std::vector<double> values;
  for (int i = 0; i < n; ++i)
    values.push_back(std::pow(10.0, first + (last - first) * i / std::max(1, n - 1)));
  return values;
}

}  // namespace facet
