#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "metrics/accuracy.h"
#include "metrics/linear_probe.h"
#include "tensor/ops.h"
#include "tests/generators.h"

namespace facet {
namespace {

using namespace test;

LbfgsOptions converged() {
  return {.max_iterations = 2000, .gradient_tolerance = 1e-9, .decrease_tolerance = -1.0};
}

ProbeData golden_data() {
  return {hashed("lrX", {12, 3}), labels_modulo(12, 3)};
}

double cross_entropy_sum(const LinearClassifier& model, const ProbeData& data) {
  const Tensor loss = ops::cross_entropy(model(data.features), data.targets).loss;
  return ops::reduce(ReduceOp::sum, loss).item();
}

// Rosenbrock's function of n variables as pairs; minimum 0 at ones.
double rosenbrock(const Tensor& x, Tensor& gradient) {
  const double* p = x.data<double>();
  double* g = gradient.data<double>();
  double value = 0.0;
  for (int64_t i = 0; i < x.numel(); i += 2) {
    const double a = 1.0 - p[i], b = p[i + 1] - p[i] * p[i];
    value += a * a + 100.0 * b * b;
    g[i] = -2.0 * a - 400.0 * p[i] * b;
    g[i + 1] = 200.0 * b;
  }
  return value;
}

TEST(Lbfgs, FindsTheMinimumOfRosenbrock) {
  Tensor x = Tensor::from({-1.2, 1.0, 0.3, -2.0, 4.0, 4.0});
  const LbfgsResult result = minimize_lbfgs(x, rosenbrock, converged());
  EXPECT_EQ(result.stop, LbfgsStop::gradient);
  EXPECT_LT(result.evaluations, 160);  // SciPy's L-BFGS-B: 135
  expect_near(x, std::vector<double>(6, 1.0), 1e-8);
}

TEST(Lbfgs, FindsTheMinimumOfAnIllConditionedQuadratic) {
  const int64_t n = 40;
  Tensor x = Tensor::full({n}, 3.0, DType::f64);
  const auto quadratic = [](const Tensor& at, Tensor& gradient) {
    double value = 0.0;
    for (int64_t i = 0; i < at.numel(); ++i) {
      const double scale = std::pow(10.0, 4.0 * static_cast<double>(i) / 39.0);
      const double d = at.data<double>()[i] - 0.5;
      value += 0.5 * scale * d * d;
      gradient.data<double>()[i] = scale * d;
    }
    return value;
  };
  const LbfgsResult result = minimize_lbfgs(x, quadratic, converged());
  EXPECT_EQ(result.stop, LbfgsStop::gradient);
  EXPECT_NEAR(result.value, 0.0, 1e-15);
  expect_near(x, std::vector<double>(n, 0.5), 1e-8);
}

TEST(Lbfgs, StopsAsAskedAndKeepsTheCallersStart) {
  const Tensor start = Tensor::from({-1.2, 1.0});
  Tensor x = start;
  EXPECT_EQ(minimize_lbfgs(x, rosenbrock, {.max_iterations = 3}).iterations, 3);
  EXPECT_EQ(start.to_vector<double>(), (std::vector<double>{-1.2, 1.0}));
  x = start;
  LbfgsOptions loose;
  loose.decrease_tolerance = 0.5;
  EXPECT_EQ(minimize_lbfgs(x, rosenbrock, loose).stop, LbfgsStop::decrease);
  x = Tensor::full({2}, 1.0, DType::f64);
  const LbfgsResult there = minimize_lbfgs(x, rosenbrock);
  EXPECT_EQ(there.stop, LbfgsStop::gradient);
  EXPECT_EQ(there.evaluations, 1);
}

TEST(Lbfgs, BacksOffWhereTheFunctionIsNotFinite) {
  Tensor x = Tensor::from({5.0});  // x - log x: infinite for x <= 0, minimum at 1
  const auto barrier = [](const Tensor& at, Tensor& gradient) {
    const double v = at.data<double>()[0];
    gradient.data<double>()[0] = 1.0 - 1.0 / v;
    return v > 0.0 ? v - std::log(v) : std::numeric_limits<double>::infinity();
  };
  minimize_lbfgs(x, barrier, converged());
  EXPECT_NEAR(x.item(), 1.0, 1e-8);
  x = Tensor::from({-1.0});
  EXPECT_THROW(minimize_lbfgs(x, barrier), NonFiniteError);
}

// Values rounded to f32 around 1000: the search must end where they stop telling anything.
TEST(Lbfgs, DoesNotSearchBelowTheRoundingError) {
  Tensor x = Tensor::full({30}, 2.0);
  const auto rounded = [](const Tensor& at, Tensor& gradient) {
    double value = 1000.0;
    for (int64_t i = 0; i < at.numel(); ++i) {
      const double scale = 1.0 + static_cast<double>(i * i), d = at.data<float>()[i] - 0.3;
      value += 0.5 * scale * d * d;
      gradient.data<float>()[i] = static_cast<float>(scale * d);
    }
    return static_cast<double>(static_cast<float>(value));
  };
  LbfgsOptions options;
  options.gradient_tolerance = 0.0;
  const LbfgsResult result = minimize_lbfgs(x, rounded, options);
  EXPECT_EQ(result.stop, LbfgsStop::decrease);
  EXPECT_NEAR(result.value, 1000.0, 1e-3);
  EXPECT_LT(result.evaluations, 2 * result.iterations + 20);
}

// The exact minimum (Newton's method to |gradient| < 1e-13 in NumPy). scikit-learn 1.2 stops a
// little before, by SciPy's ftol, at coefficients up to 1e-5 away whose objective is 4e-10 higher.
TEST(LogisticRegression, Golden) {
  const ProbeData data = golden_data();
  const LogisticFit fit = fit_logistic(std::span(&data, 1), 3, 1.0, converged());
  expect_near(fit.classifier.weight.narrow(0, 1), {-0.25766335, 0.55366225, -0.48086106}, 1e-8);
  expect_near(fit.classifier.bias, {-0.18521383, 0.16114468, 0.02406915}, 1e-8);
  EXPECT_NEAR(cross_entropy_sum(fit.classifier, data), 10.756429994641, 1e-9);
  EXPECT_NEAR(fit.solver.value, 11.527106770166, 1e-9);
  EXPECT_LT(fit.solver.value, 11.527106770777);  // scikit-learn's
  for (const Setting& at : settings()) {
    const ProbeData there = {at(data.features), at(data.targets)};
    expect_near(fit_logistic(std::span(&there, 1), 3, 1.0).classifier.weight.narrow(0, 1),
                {-0.25766335, 0.55366225, -0.48086106}, 1e-4);
  }
  const LogisticFit loose = fit_logistic(std::span(&data, 1), 3, 100.0, converged());
  EXPECT_NEAR(cross_entropy_sum(loose.classifier, data), 9.240300589461, 1e-8);
  EXPECT_NEAR(loose.solver.value, 934.993165482440, 1e-9);
}

// With the protocol's own tolerances, where scikit-learn reports these.
TEST(LogisticRegression, GoldenAsScikitLearnStops) {
  const ProbeData data = golden_data();
  const LogisticFit fit = fit_logistic(std::span(&data, 1), 3, 1.0);
  expect_near(fit.classifier.weight.narrow(0, 1), {-0.25765436, 0.55366537, -0.48085441}, 3e-5);
  EXPECT_NEAR(fit.solver.value, 11.52710677, 1e-8);
  const LogisticFit loose = fit_logistic(std::span(&data, 1), 3, 100.0);
  EXPECT_NEAR(loose.solver.value, 934.9931659557, 1e-6);
}

TEST(LogisticRegression, GoldenInSinglePrecision) {
  const ProbeData data = {golden_data().features.cast(DType::f32), golden_data().targets};
  const LogisticFit fit = fit_logistic(std::span(&data, 1), 3, 1.0);
  expect_near(fit.classifier.weight.narrow(0, 1), {-0.25766335, 0.55366225, -0.48086106}, 1e-4);
  EXPECT_NEAR(fit.solver.value, 11.527106770, 1e-5);
}

// The exact minimum of each column's own binary problem (scipy.optimize.root in f64).
TEST(LogisticRegression, MultiLabelIsOneBinaryModelAClass) {
  const double targets[2][12] = {{0, 1, 1, 0, 0, 1, 0, 1, 1, 1, 0, 0},
                                 {1, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0}};
  Tensor y = Tensor::empty({12, 2}, DType::f64);
  for (int i = 0; i < 24; ++i) y.data<double>()[i] = targets[i % 2][i / 2];
  const ProbeData data = {golden_data().features, y};
  const LogisticFit fit = fit_logistic(std::span(&data, 1), 2, 3.0, converged());
  expect_near(fit.classifier.weight,
              {-0.749795587811, -1.076168703251, -0.037609444711, -0.111671639113, -0.730282056672,
               0.666853563886},
              1e-8);
  expect_near(fit.classifier.bias, {0.125143973349, -0.926236424290}, 1e-8);
}

// More rows than one block; the same rows given as two parts; labels below 0 do not count.
TEST(LogisticRegression, RowsMayComeInParts) {
  const int64_t n = 5000, masked = 70;
  const Tensor x = hashed("parts", {n, 4});
  Tensor y = labels_modulo(n, 3);
  for (int64_t i = n - masked; i < n; ++i) y.data<int64_t>()[i] = -1;
  const ProbeData whole = {x, y};
  const ProbeData parts[] = {
      {x.narrow(0, 1234), y.narrow(0, 1234)},
      {x.narrow(1234, n - masked - 1234), y.narrow(1234, n - masked - 1234)}};
  LbfgsOptions options = converged();
  options.gradient_tolerance = 1e-7;
  const LogisticFit one = fit_logistic(std::span(&whole, 1), 3, 0.5, options);
  const LogisticFit two = fit_logistic(parts, 3, 0.5, options);
  EXPECT_NEAR(one.solver.value, two.solver.value, 1e-8 * one.solver.value);
  expect_near(one.classifier.weight, two.classifier.weight.to_vector<double>(), 1e-8);
}

ProbeData clusters(const char* name, int64_t n, double spread) {
  const Tensor centres = hashed("centres", {5, 8});
  const Tensor labels = labels_modulo(n, 5);
  const Tensor noise = ops::affine(spread, hashed(name, {n, 8}), 0.0);
  return {ops::add(ops::gather_rows(centres, labels), noise), labels};
}

TEST(LinearProbe, PathChoosesByValidationAndAgreesWithColdStarts) {
  const ProbeData train = clusters("pt", 60, 2.0), validation = clusters("pv", 40, 2.0);
  ProbeOptions options;
  options.c = log_space(-3.0, 2.0, 6);
  options.solver = converged();
  options.refit = false;
  const ProbeResult result = linear_probe(train, validation, 5, options);
  ASSERT_EQ(result.steps.size(), 6u);
  double best = 0.0;
  for (const ProbeStep& step : result.steps) {
    const LogisticFit cold = fit_logistic(std::span(&train, 1), 5, step.c, options.solver);
    EXPECT_NEAR(step.solver.value, cold.solver.value, 1e-9 * cold.solver.value);
    EXPECT_EQ(step.score, top_k_accuracy(cold.classifier(validation.features), validation.targets));
    best = std::max(best, step.score);
  }
  EXPECT_EQ(result.score, best);
  for (const ProbeStep& step : result.steps) {
    if (step.score < best) continue;
    EXPECT_EQ(result.c, step.c);  // the first of equals
    break;
  }
  EXPECT_EQ(top_k_accuracy(result.classifier(validation.features), validation.targets), best);

  options.refit = true;
  const ProbeData both[] = {train, validation};
  const LogisticFit refitted = fit_logistic(both, 5, result.c, options.solver);
  expect_near(linear_probe(train, validation, 5, options).classifier.weight,
              refitted.classifier.weight.to_vector<double>(), 1e-7);
}

TEST(LinearProbe, DefaultPathIsTheProtocols) {
  const std::vector<double> path = log_space(-6.0, 5.0, 45);
  ASSERT_EQ(path.size(), 45u);
  EXPECT_NEAR(path.front(), 1e-6, 1e-18);
  EXPECT_NEAR(path.back(), 1e5, 1e-7);
  EXPECT_NEAR(path[4] / path[0], 10.0, 1e-9);  // quarter decades
  const ProbeData train = clusters("dt", 50, 0.3), validation = clusters("dv", 50, 0.3);
  const ProbeResult result = linear_probe(train, validation, 5);
  EXPECT_EQ(result.steps.size(), 45u);
  EXPECT_GT(result.score, 0.95);
  // The small C, too, whose whole objective is far below the tolerances, and unbalanced labels. (At
  // the largest C the 100 iterations of the protocol end some fits of these few samples.)
  ProbeData single = {train.features.cast(DType::f32), train.targets.clone()};
  for (int64_t i = 0; i < 20; ++i) single.targets.data<int64_t>()[i] = 0;
  const ProbeData exact = {single.features.cast(DType::f64), single.targets};
  const ProbeData other = {validation.features.cast(DType::f32), validation.targets};
  ProbeOptions options;
  options.c.assign(path.begin(), path.begin() + 25);
  const std::vector<ProbeStep> steps = linear_probe(single, other, 5, options).steps;
  for (const ProbeStep& step : steps) {
    const LogisticFit best = fit_logistic(std::span(&exact, 1), 5, step.c, converged());
    EXPECT_NEAR(step.solver.value / best.solver.value, 1.0, 1e-6) << step.c;
  }
}

TEST(LinearProbe, DevicesGiveTheCpusValues) {
  const ProbeData train = clusters("gt", 60, 2.0), validation = clusters("gv", 40, 2.0);
  ProbeOptions options;
  options.c = {0.01, 1.0};
  options.solver = converged();
  const ProbeResult want = linear_probe(train, validation, 5, options);
  for (const Device device : other_devices()) {
    const auto there = [&](const ProbeData& data) {
      return ProbeData{data.features.to(device), data.targets.to(device)};
    };
    const ProbeResult got = linear_probe(there(train), there(validation), 5, options);
    EXPECT_EQ(got.classifier.weight.device(), device);
    EXPECT_EQ(got.c, want.c);
    EXPECT_EQ(got.score, want.score);
    expect_near(got.classifier.weight, want.classifier.weight.to_vector<double>(), 1e-7);

    const ProbeData data = {golden_data().features.cast(DType::f32), golden_data().targets};
    const ProbeData single = there(data);
    const ProbeData mixed = {single.features, data.targets};
    EXPECT_THROW(fit_logistic(std::span(&mixed, 1), 3, 1.0), Error);
    EXPECT_THROW(fit_logistic(std::span(&single, 1), 2, 1.0), Error);  // label 2 of 2 classes
  }
}

TEST(LinearProbe, Mistakes) {
  const ProbeData data = golden_data();
  const ProbeData wide = {hashed("wide", {12, 4}), data.targets};
  const ProbeData pixels = {Tensor::zeros({12, 3}, DType::u8), data.targets};
  const ProbeData few = {data.features, labels_modulo(11, 3)};
  EXPECT_THROW(linear_probe(data, wide, 3), Error);
  EXPECT_THROW(fit_logistic(std::span(&pixels, 1), 3, 1.0), Error);
  EXPECT_THROW(fit_logistic(std::span(&few, 1), 3, 1.0), Error);
  EXPECT_THROW(fit_logistic(std::span(&data, 1), 3, 0.0), Error);
  ProbeOptions descending;
  descending.c = {1.0, 0.1};
  EXPECT_THROW(linear_probe(data, data, 3, descending), Error);
}

}  // namespace
}  // namespace facet
