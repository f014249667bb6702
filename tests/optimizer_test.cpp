// Optimisers: golden values of two steps, the rule for parameters without a gradient, control
// cycles, and state that survives saving.
#include "optim/optimizer.h"

#include <gtest/gtest.h>

#include "autograd/ops.h"
#include "optim/ema.h"
#include "tests/generators.h"

namespace facet {
namespace {

using namespace test;

std::vector<double> values(const Variable& v) {
  return v.value().to_vector<double>();
}

ParamGroup group(std::string name, Variable v, double weight_decay, bool adapt = true) {
  ParamGroup g;
  g.name = name;
  g.parameters = {{std::move(name), std::move(v)}};
  g.weight_decay = weight_decay;
  g.adapt = adapt;
  return g;
}

struct Lars {
  Setting at;
  Variable w{at(wave({3, 4}, .5)), true}, b{at(wave({3}, 2.5)), true};

  void run(LarsForm form, bool exclude_bias, std::initializer_list<double> rates) {
    OptimizerOptions options{
        .algorithm = Algorithm::lars, .momentum = .9, .lars_form = form, .lars_trust = .001};
    Optimizer optimizer(
        options, {group("w", w, 1e-4), group("b", b, exclude_bias ? 0 : 1e-4, !exclude_bias)});
    int64_t t = 0;
    for (const double lr : rates) {
      w.grad() = at(ops::affine(.01, wave({3, 4}, 1.5), 0));
      b.grad() = at(ops::affine(.01, wave({3}, 3.5), 0));
      optimizer.step(lr, ++t);
    }
  }
};

TEST(Lars, GoldenTwoSteps) {
  for (const Setting& at : settings()) {
    for (const LarsForm form : {LarsForm::simclr, LarsForm::moco_v3}) {
      Lars lars{at};
      lars.run(form, true, {.3, .3});
      at.near(lars.w.value(), {.478653208899, .563867885327, .782591687196}, 1e-11);
      at.near(lars.b.value(), {.601523958185, .519351299678, .245232894799}, 1e-11);
    }
    Lars larc{at};
    larc.run(LarsForm::larc, false, {.3, .3});
    at.near(larc.w.value(), {.478655523541, .563870206737, .782593890629}, 1e-11);
    at.near(larc.b.value(), {.598747819456, .51585105683, .239797303242}, 1e-11);
  }
}

TEST(Lars, FormsPartWhenTheRateChanges) {
  for (const Setting& at : settings()) {
    Lars popular{at}, classic{at};
    popular.run(LarsForm::moco_v3, true, {.3, .15});
    classic.run(LarsForm::simclr, true, {.3, .15});
    at.near(popular.w.value(), {.478906204323}, 1e-11);
    at.near(classic.w.value(), {.478786351837}, 1e-11);
  }
}

void expect_two_steps(const OptimizerOptions& options, double lr, double weight_decay,
                      const std::vector<double>& want) {
  for (const Setting& at : settings()) {
    Variable w(at(wave({4}, .5)), true);
    Optimizer optimizer(options, {group("w", w, weight_decay)});
    for (int64_t t = 1; t <= 2; ++t) {
      w.grad() = at(ops::affine(.1 * static_cast<double>(t), wave({4}, 1.5), 0));
      optimizer.step(lr, t);
    }
    at.near(w.value(), want, 1e-11);
  }
}

TEST(AdamW, Golden) {
  expect_two_steps({.algorithm = Algorithm::adamw, .beta1 = .9, .beta2 = .95}, 1e-3, .05,
                   {.47741966154, .56262807485, .781290643195, .983393251847});
}

TEST(Sgd, NesterovGolden) {
  expect_two_steps({.algorithm = Algorithm::sgd, .momentum = .9, .nesterov = true}, .1, 1e-4,
                   {.414466873728, .499544562869, .721687004446, .9414318919});
}

TEST(Optimizer, NoGradientMeansNothingHappens) {
  for (const Algorithm algorithm : {Algorithm::sgd, Algorithm::adamw, Algorithm::lars}) {
    Variable w(wave({4}, .5), true), other(wave({4}, .5), true);
    Optimizer skips({.algorithm = algorithm}, {group("w", w, .1)});
    Optimizer plain({.algorithm = algorithm}, {group("w", other, .1)});
    for (int64_t t = 1; t <= 4; ++t) {
      const Tensor g = wave({4}, static_cast<double>(t / 2));
      w.clear_grad();
      if (t % 2 == 0) {  // every other step has no gradient at all
        w.grad() = g.clone();
        other.grad() = g.clone();
        plain.step(.1, t / 2);
      }
      const auto before = values(w);
      skips.step(.1, t);
      if (t % 2) {
        EXPECT_EQ(values(w), before);
      }
    }
    // Momentum, moments, bias correction and decay never saw the empty steps.
    EXPECT_EQ(values(w), values(other)) << name(algorithm);
  }
}

TEST(Optimizer, AZeroGradientIsAStep) {
  Variable w(wave({4}, .5), true);
  Optimizer optimizer({.algorithm = Algorithm::sgd, .momentum = 0}, {group("w", w, .1)});
  w.grad() = Tensor::zeros({4}, DType::f64);
  const auto before = values(w);
  optimizer.step(.5, 1);
  for (size_t i = 0; i < 4; ++i) EXPECT_DOUBLE_EQ(values(w)[i], before[i] - .5 * .1 * before[i]);
}

TEST(Optimizer, ControlCycleStepsAtItsMultiples) {
  for (const int64_t cycle : {0, 1, 3}) {
    Variable w(wave({4}, .5), true);
    ParamGroup g = group("w", w, 0);
    g.cycle = cycle;
    Optimizer optimizer({.algorithm = Algorithm::sgd}, {g});
    for (int64_t t = 1; t <= 9; ++t) {
      w.grad() = wave({4}, 1.5);
      const auto before = values(w);
      optimizer.step(.1, t);
      EXPECT_EQ(values(w) != before, cycle != 0 && t % cycle == 0) << "T=" << cycle << " t=" << t;
    }
  }
}

// Plain SGD at rate 1 on gradients 1, 2, 3 ...: the displacement is what has been applied.
std::vector<double> applied(SkippedStep skipped, const std::vector<int64_t>& counts) {
  Variable w(Tensor::zeros({1}, DType::f64), true);
  ParamGroup g = group("w", w, 0);
  g.cycle = 3;
  g.skipped = skipped;
  Optimizer optimizer({.algorithm = Algorithm::sgd, .momentum = 0}, {g});
  std::vector<double> sums;
  double gradient = 0;
  for (const int64_t t : counts) {
    w.grad() = Tensor::full({1}, ++gradient, DType::f64);
    optimizer.step(1, t);
    sums.push_back(-w.value().item());
  }
  return sums;
}

TEST(Optimizer, AccumulatesOverItsCycle) {
  const std::vector<int64_t> global = {1, 2, 3, 4, 5, 6};
  EXPECT_EQ(applied(SkippedStep::skip, global), (std::vector<double>{0, 0, 3, 3, 3, 9}));
  EXPECT_EQ(applied(SkippedStep::accumulate_sum, global), (std::vector<double>{0, 0, 6, 6, 6, 21}));
  EXPECT_EQ(applied(SkippedStep::accumulate_mean, global), (std::vector<double>{0, 0, 2, 2, 2, 7}));
  // Counted from 0, the first cycle is one step; counted anew, an unfinished one is dropped.
  EXPECT_EQ(applied(SkippedStep::accumulate_mean, {0, 1, 2, 3}), (std::vector<double>{1, 1, 1, 4}));
  EXPECT_EQ(applied(SkippedStep::accumulate_sum, {1, 2, 3, 4, 1, 2, 3}),
            (std::vector<double>{0, 0, 6, 6, 6, 6, 24}));
}

TEST(Optimizer, ClipsWhatSteps) {
  const auto run = [](int64_t cycle, double clip, const Optimizer::GroupFilter& only = {}) {
    Variable a(Tensor::zeros({1}, DType::f64), true), b(Tensor::zeros({1}, DType::f64), true);
    ParamGroup first = group("a", a, 0);
    first.cycle = cycle;
    Optimizer optimizer({.algorithm = Algorithm::sgd, .momentum = 0}, {first, group("b", b, 0)});
    a.grad() = Tensor::full({1}, 3.0, DType::f64);
    b.grad() = Tensor::full({1}, 4.0, DType::f64);
    optimizer.step(1, 1, clip, only);
    return std::pair(-a.value().item(), -b.value().item());
  };
  EXPECT_EQ(run(1, 0), std::pair(3.0, 4.0));
  EXPECT_NEAR(run(1, 1).first, .6, 1e-6);
  EXPECT_NEAR(run(1, 1).second, .8, 1e-6);
  EXPECT_EQ(run(2, 4.5), std::pair(0.0, 4.0));  // the gradient that rests does not count
  const auto only_b = [](const ParamGroup& g) { return g.name == "b"; };
  EXPECT_EQ(run(1, 4.5, only_b), std::pair(0.0, 4.0));
  // What is clipped is the accumulated gradient, not its last part.
  Variable w(Tensor::zeros({1}, DType::f64), true);
  ParamGroup g = group("w", w, 0);
  g.cycle = 2;
  g.skipped = SkippedStep::accumulate_sum;
  Optimizer optimizer({.algorithm = Algorithm::sgd, .momentum = 0}, {g});
  for (int64_t t = 1; t <= 2; ++t) {
    w.grad() = Tensor::full({1}, 4.0, DType::f64);
    optimizer.step(1, t, 5);
  }
  EXPECT_NEAR(-w.value().item(), 5, 1e-5);
}

TEST(Optimizer, StateRoundTripIsBitExact) {
  for (const Algorithm algorithm : {Algorithm::sgd, Algorithm::adamw, Algorithm::lars}) {
    Variable straight(wave({4}, .5), true), resumed(wave({4}, .5), true);
    Optimizer a({.algorithm = algorithm}, {group("w", straight, .1)});
    const auto run = [](Optimizer& o, Variable& v, int64_t from, int64_t to) {
      for (int64_t t = from; t <= to; ++t) {
        v.grad() = wave({4}, static_cast<double>(t));
        o.step(.1, t);
      }
    };
    run(a, straight, 1, 6);
    Optimizer b({.algorithm = algorithm}, {group("w", resumed, .1)});
    run(b, resumed, 1, 3);
    Variable copy(resumed.value().clone(), true);
    Optimizer c({.algorithm = algorithm}, {group("w", copy, .1)});
    c.load(b.state());
    run(c, copy, 4, 6);
    EXPECT_EQ(values(copy), values(straight)) << name(algorithm);
  }
}

TEST(Optimizer, StateOfAnotherModelIsRefused) {
  Variable w(wave({4}, .5), true);
  Optimizer optimizer({}, {group("w", w, 0)});
  EXPECT_THROW(optimizer.load({{"momentum.other", Tensor::zeros({4}, DType::f64)}}), Error);
  EXPECT_THROW(optimizer.load({{"momentum.w", Tensor::zeros({5}, DType::f64)}}), Error);
  // Steps without their momentum, or of another algorithm.
  EXPECT_THROW(optimizer.load({{"steps.w", Tensor::from<int64_t>({3})}}), Error);
  EXPECT_THROW(optimizer.load({{"steps.w", Tensor::from<int64_t>({3})},
                               {"momentum.w", Tensor::zeros({4}, DType::f64)},
                               {"second.w", Tensor::zeros({4}, DType::f64)}}),
               Error);
}

TEST(Clip, GlobalAndEach) {
  Variable a(Tensor::zeros({1}), true), b(Tensor::zeros({1}), true);
  const auto set = [&] {
    a.grad() = Tensor::from<float>({3.0f});
    b.grad() = Tensor::from<float>({4.0f});
  };
  const VariableList both = {a, b};
  set();
  EXPECT_DOUBLE_EQ(clip_grad_norm(both, 10), 5.0);
  EXPECT_EQ(a.grad().item(), 3.0);
  EXPECT_DOUBLE_EQ(clip_grad_norm(both, 1), 5.0);
  EXPECT_NEAR(a.grad().item(), .6, 1e-6);
  set();
  clip_grad_norm_each(both, 3.5);  // DINO's: each tensor by its own norm
  EXPECT_EQ(a.grad().item(), 3.0);
  EXPECT_NEAR(b.grad().item(), 3.5, 1e-5);
}

TEST(Clip, NonFiniteGradientIsNamed) {
  Variable a(Tensor::zeros({2}), true);
  a.grad() = Tensor::from<float>({0.0f, std::numeric_limits<float>::infinity()});
  EXPECT_EQ(nonfinite_gradient({group("layer1.weight", a, 0)}), "layer1.weight");
  a.grad() = Tensor::from<float>({0.0f, 1e30f});
  EXPECT_EQ(nonfinite_gradient({group("layer1.weight", a, 0)}), "");
}

TEST(DecayGroups, BiasesAndNormsDoNotDecay) {
  Variable matrix(Tensor::zeros({2, 2}), true), vector(Tensor::zeros({2}), true);
  ParamGroup prototype;
  prototype.name = "all";
  prototype.weight_decay = .5;
  prototype.cycle = 3;
  const auto groups =
      decay_groups({{"fc.weight", matrix}, {"fc.bias", vector}, {"bn.weight", vector}}, prototype);
  ASSERT_EQ(groups.size(), 2u);
  EXPECT_EQ(groups[0].parameters.size(), 1u);
  EXPECT_EQ(groups[0].weight_decay, .5);
  EXPECT_EQ(groups[1].weight_decay, 0.0);
  EXPECT_EQ(groups[1].cycle, 3);
}

TEST(Ema, ClosedForm) {
  Tensor w = Tensor::from<float>({1.0f});
  Ema ema({{"w", w}}, .9);
  w.fill_(0.0);
  for (int i = 0; i < 10; ++i) ema.update();
  EXPECT_NEAR(ema.averages()[0].value.item(), std::pow(.9, 10), 1e-6);
  Ema quick({{"w", w}}, .9, true);
  w.fill_(1.0);
  quick.update();  // warm-up: d = 2/11
  EXPECT_NEAR(quick.averages()[0].value.item(), 9.0 / 11, 1e-6);
}

TEST(Ema, StaysWhereItHasArrived) {
  Tensor w = wave({100}, .5).cast(DType::f32), count = Tensor::full({}, 7, DType::i64);
  const std::vector<float> start = w.to_vector<float>();
  Ema ema({{"w", w}, {"count", count}}, .9998);
  for (int i = 0; i < 1000; ++i) ema.update();
  EXPECT_EQ(ema.averages()[0].value.to_vector<float>(), start);
  count.fill_(9);
  ema.update();
  EXPECT_EQ(ema.averages()[1].value.item(), 9);  // counters are copied
}

TEST(Ema, RestoresBitExactly) {
  Tensor w = Tensor::from<float>({1.0f});
  Ema straight({{"w", w}}, .9, true), resumed({{"w", w}}, .9, true);
  const auto run = [&w](Ema& ema, int from, int to) {
    for (int i = from; i < to; ++i) {
      w.fill_(std::sin(i));
      ema.update();
    }
  };
  run(straight, 0, 4);
  resumed.restore(straight.averages(), straight.updates());
  run(straight, 4, 9);
  run(resumed, 4, 9);
  EXPECT_EQ(resumed.averages()[0].value.item(), straight.averages()[0].value.item());
  EXPECT_THROW(resumed.restore({{"v", w}}, 3), Error);
}

}  // namespace
}  // namespace facet
