#include "metrics/linear_probe.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "metrics/accuracy.h"
#include "tensor/ops.h"

namespace facet {
namespace {

// On the CPU the logits of a block stay in the cache between the two products over its features; a
// device gets as many rows as 128 MiB of f64 logits allow.
int64_t rows_per_block(int64_t classes, Device device) {
  constexpr int64_t kRows = 4096, kLogits = int64_t{1} << 24;
  return device.is_cpu() ? kRows : std::max(kRows, kLogits / classes);
}

// The weights (classes, d) and then the bias (classes) of a classifier as one vector.
LinearClassifier view_of(const Tensor& theta, int64_t classes, int64_t d) {
  return {theta.narrow(0, classes * d).reshape({classes, d}), theta.narrow(classes * d, classes)};
}

// Loss and gradient of the logits are taken in f64: at large C most samples are fitted to losses
// far below the f32 rounding of log-sum-exp minus logit.

// Sum over rows and classes of the binary cross-entropy with logits z and targets t,
// max(z, 0) - t z + log(1 + exp(-|z|)); dz = sigmoid(z) - t.
Tensor binary_cross_entropy(const Tensor& z, const Tensor& t, Tensor& dz) {
  const Tensor tail = ops::log(ops::affine(1.0, ops::exp(ops::neg(ops::abs(z))), 1.0));
  const Tensor loss = ops::add(ops::sub(ops::relu(z), ops::mul(t, z)), tail);
  dz = ops::sub(ops::sigmoid(z), t);
  return ops::reduce(ReduceOp::sum, loss);
}

Tensor cross_entropy(const Tensor& z, const Tensor& labels, Tensor& dz) {
  const ops::CrossEntropy ce = ops::cross_entropy(z, labels);
  const Tensor ones = Tensor::full(ce.loss.shape(), 1.0, ce.loss.dtype(), z.device());
  dz = ops::cross_entropy_backward(z, labels, 0.0, ce.lse, ones);
  return ops::reduce(ReduceOp::sum, ce.loss);
}

// The objective in weights and the bias of *centred* features: logits W (x - mean) + b'. Since the
// intercept is not penalised this is the same problem, but without the direction of the mean,
// whose curvature would dwarf all others (features after a ReLU are positive). b' is taken in units
// of bias_unit_, so that its curvature, C N / classes where all classes are alike, is no smaller
// than that of the weights' half square: at small C it would be the last to arrive.
class Objective {
 public:
  Objective(std::span<const ProbeData> parts, int64_t classes, double c)
      : parts_(parts), classes_(classes), c_(c) {
    int64_t rows = 0;
    for (const ProbeData& part : parts) {
      const Tensor sum = ops::reduce(ReduceOp::sum, part.features, 0);
      if (rows == 0)
        mean_ = sum.clone();
      else
        ops::add_(mean_, sum);
      rows += part.features.dim(0);
    }
    ops::scale_(mean_, 1.0 / static_cast<double>(rows));
    bias_unit_ =
        std::sqrt(std::max(1.0, static_cast<double>(classes) / (c * static_cast<double>(rows))));
  }

  double operator()(const Tensor& theta, Tensor& gradient) const {
    const LinearClassifier model = uncentred(theta);
    LinearClassifier grad = view_of(gradient, classes_, mean_.numel());
    grad.weight.copy_(model.weight);
    grad.bias.zero_();
    // The value gathers on the device and comes to the host once.
    const Tensor squares = ops::reduce(ReduceOp::sum_squares, model.weight, 1).cast(DType::f64);
    Tensor value = ops::affine(0.5, ops::reduce(ReduceOp::sum, squares), 0.0);
    const int64_t block = rows_per_block(classes_, theta.device());
    for (const ProbeData& part : parts_) {
      for (int64_t start = 0; start < part.features.dim(0); start += block) {
        const int64_t rows = std::min(block, part.features.dim(0) - start);
        const Tensor x = part.features.narrow(start, rows), y = part.targets.narrow(start, rows);
        const Tensor z = model(x).cast(DType::f64);
        Tensor dz;
        const Tensor loss = part.is_multi_label() ? binary_cross_entropy(z, y.cast(DType::f64), dz)
                                                  : cross_entropy(z, y, dz);
        ops::add_(value, loss, c_);
        ops::add_(grad.bias, ops::reduce(ReduceOp::sum, dz, 0).cast(x.dtype()), c_);
        ops::matmul_into(dz.cast(x.dtype()), x, {.trans_a = true, .alpha = c_, .beta = 1.0},
                         grad.weight);
      }
    }
    ops::matmul_into(grad.bias.reshape({classes_, 1}), mean_.reshape({1, mean_.numel()}),
                     {.alpha = -1.0, .beta = 1.0}, grad.weight);
    ops::scale_(grad.bias, bias_unit_);
    return value.item();
  }

  // The vector for a classifier, and back: b' = b + W mean, in its unit.
  Tensor centred(const LinearClassifier& model) const {
    Tensor theta = Tensor::empty({classes_ * (mean_.numel() + 1)}, mean_.dtype(), mean_.device());
    LinearClassifier to = view_of(theta, classes_, mean_.numel());
    to.weight.copy_(model.weight);
    to.bias.copy_(model.bias);
    ops::add_(to.bias, mean_logits(to.weight));
    ops::scale_(to.bias, 1.0 / bias_unit_);
    return theta;
  }
  LinearClassifier uncentred(const Tensor& theta) const {
    const LinearClassifier view = view_of(theta, classes_, mean_.numel());
    Tensor bias = ops::affine(bias_unit_, view.bias, 0.0);
    ops::add_(bias, mean_logits(view.weight), -1.0);
    return {view.weight, bias};
  }
  LinearClassifier zeros() const {
    return {Tensor::zeros({classes_, mean_.numel()}, mean_.dtype(), mean_.device()),
            Tensor::zeros({classes_}, mean_.dtype(), mean_.device())};
  }

 private:
  Tensor mean_logits(const Tensor& weight) const {
    return ops::matmul(weight, mean_.reshape({mean_.numel(), 1})).flatten();
  }

  std::span<const ProbeData> parts_;
  int64_t classes_;
  double c_, bias_unit_;
  Tensor mean_;  // (d)
};

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
  FACET_CHECK(x.device() == y.device() && x.device() == first.features.device(), "linear_probe",
              "expected features and targets on one device, got {} and {}", x.str(), y.str());
  if (data.is_multi_label()) return;
  for (const int64_t label : y.to_vector<int64_t>())
    FACET_CHECK(label < classes, "linear_probe", "label {} among {} classes", label, classes);
}

double score_of(const LinearClassifier& model, const ProbeData& data, bool mean_per_class) {
  const Tensor logits = model(data.features);
  if (data.is_multi_label()) return mean_average_precision(logits, data.targets).mean;
  return mean_per_class ? mean_per_class_accuracy(logits, data.targets)
                        : top_k_accuracy(logits, data.targets);
}

// before + (last - before) (1 + ahead): the path of solutions is smooth in log C, so a step along
// its chord starts the next fit close to the end (it more than halves the iterations).
LinearClassifier extrapolate(const LinearClassifier& before, const LinearClassifier& last,
                             double ahead) {
  const auto line = [&](const Tensor& a, const Tensor& b) {
    Tensor x = ops::affine(1.0 + ahead, b, 0.0);
    ops::add_(x, a, -ahead);
    return x;
  };
  return {line(before.weight, last.weight), line(before.bias, last.bias)};
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
  const Objective objective(parts, classes, c);
  Tensor theta = objective.centred(start ? *start : objective.zeros());
  // At small C the whole objective is below 1, and scikit-learn's absolute tolerance on the
  // gradient would stop at the start. The half square of the weights is strongly convex.
  LbfgsOptions with_gap = options;
  if (with_gap.gap_tolerance <= 0.0) with_gap.gap_tolerance = 1e-7;
  const LbfgsResult solver = minimize_lbfgs(theta, objective, with_gap);
  return {objective.uncentred(theta), solver};
}

ProbeResult linear_probe(const ProbeData& train, const ProbeData& validation, int64_t classes,
                         const ProbeOptions& options) {
  check(validation, train, classes);
  const std::vector<double> path = options.c.empty() ? log_space(-6.0, 5.0, 45) : options.c;
  FACET_CHECK(std::is_sorted(path.begin(), path.end()), "linear_probe",
              "the values of C are not ascending: each fit starts from the one before");
  ProbeResult result;
  LinearClassifier last, before;  // of the last two values of C
  for (size_t i = 0; i < path.size(); ++i) {
    LinearClassifier start = last;
    if (i >= 2) {
      const double ahead = std::log(path[i] / path[i - 1]) / std::log(path[i - 1] / path[i - 2]);
      if (std::isfinite(ahead)) start = extrapolate(before, last, ahead);
    }
    const auto begin = std::chrono::steady_clock::now();
    const LogisticFit fit = fit_logistic(std::span(&train, 1), classes, path[i], options.solver,
                                         i == 0 ? nullptr : &start);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    before = std::exchange(last, fit.classifier);
    const double score = score_of(fit.classifier, validation, options.mean_per_class);
    if (result.steps.empty() || score > result.score) {
      result.classifier = fit.classifier;
      result.c = path[i];
      result.score = score;
    }
    result.steps.push_back({path[i], score, seconds.count(), fit.solver});
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
