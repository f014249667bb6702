// Controlled Label Injection: the scalar toy in all its variants, and what must hold for T = 1,
// T = infinity and in between, on the CPU and on a CUDA device.
#include "ssl/label_injection.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "nn/init.h"
#include "nn/vit.h"
#include "optim/ema.h"
#include "tensor/cpu/allocator.h"
#include "tests/fill.h"

namespace facet {
namespace {

Device where;  // of the test that runs

std::vector<Device> devices() {
  std::vector<Device> all = test::other_devices();
  all.insert(all.begin(), Device{});
  return all;
}

class Injection : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override { where = GetParam(); }
  void TearDown() override { where = {}; }
};
INSTANTIATE_TEST_SUITE_P(Devices, Injection, testing::ValuesIn(devices()));

// Features h = b x.
class ScalarBackbone final : public Encoder {
 public:
  Variable features(const Variable& x) override { return mul(x, b); }
  int64_t feature_dim() const override { return 1; }
  void visit(ModuleVisitor& v) override { v("b", b); }
  Variable b{Tensor::full({1}, 1.0, DType::f64), true};
};

struct Toy {
  InjectionOptions injection;
  std::vector<double> after2, after4;  // wanted b, w0, w1
  std::vector<double> wanted_losses{};
  double momentum = 0, weight_decay = 0;

  void check() {
    for (const test::Setting& at : test::settings()) check(at);
  }
  void check(const test::Setting& at) {
    injection.smoothing = 0;
    LabelInjection method(std::make_unique<ScalarBackbone>(), 2, injection);
    to_dtype(method, at.dtype);
    to_device(method, at.device);
    Linear& head = method.classifier();
    head.bias.set_requires_grad(false);  // the toy's head has weights only
    head.weight.value().copy_(at(Tensor::from<double>({.1, -.2}).reshape({2, 1})));
    head.bias.value().zero_();
    std::vector<ParamGroup> groups = method.groups(weight_decay);
    for (ParamGroup& group : groups) group.weight_decay = weight_decay;  // b decays, too
    Optimizer optimizer({.algorithm = Algorithm::sgd, .momentum = momentum}, groups);
    const std::pair<double, int64_t> data[] = {{1, 0}, {.5, 1}, {-1, 1}, {2, 0}};
    std::vector<double> losses;
    for (int64_t step = 0; step < 4; ++step) {
      Batch batch;
      batch.views = {at(Tensor::full({1, 1}, data[step].first, DType::f64))};
      batch.labels = at(Tensor::from<int64_t>({data[step].second}));
      losses.push_back(method.train_step(batch, optimizer, .5, step, 0));
      const Variable b = parameters(method.encoder())[0].value;
      if (step % 2)
        at.near(ops::concat(TensorList{b.value(), head.weight.value().reshape({2})}),
                step == 1 ? after2 : after4, 1e-10, 7e-7);
      EXPECT_TRUE(injection.cycle > 0 || b.item() == 1.0);
    }
    at.near(Tensor::from(losses, {4}), wanted_losses, 1e-10, 7e-7);
  }
};

using Order = InjectionOptions::Order;
using Norm = InjectionOptions::Norm;

TEST(InjectionToy, Joint) {
  Toy{{.cycle = 1},
      {.9558517961, .1544526266, -.2544526266},
      {1.1663520667, .5145675734, -.6145675734}}
      .check();
  Toy{{.cycle = 2},
      {.8930323441, .1653505110, -.2653505110},
      {1.0478699608, .5206983457, -.6206983457},
      {.5543552445, .8908981746, .5192118537, .2174176573}}
      .check();
  Toy{{.cycle = 0}, {1, .1653505110, -.2653505110}, {1, .5235308675, -.6235308675}}.check();
}

TEST(InjectionToy, Sequential) {
  Toy{{.cycle = 1, .order = Order::sequential},
      {1.0642789955, .1450134603, -.2450134603},
      {1.2589118360, .5071957092, -.6071957092}}
      .check();
  Toy{{.cycle = 2, .order = Order::sequential},
      {.9403876918, .1653505110, -.2653505110},
      {1.0594627635, .5225595358, -.6225595358}}
      .check();
}

TEST(InjectionToy, MomentumAndDecayOnSkippedSteps) {
  Toy skip{{.cycle = 2},
           {.8882863362, .3543853537, -.4529378537},
           {.9134382249, .7959853774, -.8914953687}};
  skip.momentum = .9;
  skip.weight_decay = .01;
  skip.check();
  skip.injection.skipped = SkippedStep::zero_grad;
  skip.after4 = {.8462633963, .8052176371, -.9007276284};
  skip.check();
}

TEST(InjectionToy, AccumulateMean) {
  Toy{{.cycle = 2, .skipped = SkippedStep::accumulate_mean},
      {.9784329833, .1653505110, -.2653505110},
      {1.0897458308, .5233388520, -.6233388520}}
      .check();
}

// ---- a small ResNet

std::unique_ptr<Encoder> encoder() {
  auto net = test::small_resnet();
  initialize(*net, 3);
  to_device(*net, where);
  return net;
}

Batch batch_of(int64_t step) {
  Batch batch;
  batch.views = {hashed_images("batch" + std::to_string(step), 6, 8, DType::f32).to(where)};
  batch.labels = Tensor::from<int64_t>({0, 1, 2, 0, 1, 2}).to(where);
  return batch;
}

using State = std::map<std::string, std::vector<double>>;

State values_of(const std::vector<NamedTensor>& tensors) {
  State values;
  for (const NamedTensor& t : tensors) values[t.name] = t.value.to_vector<double>();
  return values;
}
State snapshot(Module& module) {
  return values_of(state(module));
}

OptimizerOptions momentum_sgd() {
  return {.algorithm = Algorithm::sgd, .nesterov = true};
}

constexpr double kClip = .5;

void steps(Objective& method, Optimizer& optimizer, int64_t from, int64_t to) {
  for (int64_t s = from; s < to; ++s) method.train_step(batch_of(s), optimizer, .05, s, kClip);
}

std::unique_ptr<LabelInjection> injection(const InjectionOptions& options) {
  auto method = std::make_unique<LabelInjection>(encoder(), 3, options);
  initialize(method->classifier(), 5);
  to_device(*method, where);
  return method;
}

TEST_P(Injection, CycleOneIsFineTuningBitByBit) {
  auto injected = injection({.cycle = 1, .smoothing = .1});
  Supervised plain(encoder(), 3, .1);
  initialize(plain.classifier(), 5);
  to_device(plain, where);
  Optimizer a(momentum_sgd(), injected->groups(1e-4)), b(momentum_sgd(), plain.groups(1e-4));
  steps(*injected, a, 0, 5);  // gradients are clipped: their norm may not depend on the groups
  steps(plain, b, 0, 5);
  EXPECT_EQ(snapshot(*injected), snapshot(plain));
  EXPECT_EQ(values_of(a.state()), values_of(b.state()));
}

TEST_P(Injection, InfiniteCycleLeavesTheBackboneAlone) {
  auto method = injection({.cycle = 0});
  const State before = snapshot(method->encoder());
  Optimizer optimizer(momentum_sgd(), method->groups(1e-4));
  const State head = snapshot(method->classifier());
  steps(*method, optimizer, 0, 4);
  EXPECT_EQ(snapshot(method->encoder()), before);  // running statistics and counters included
  EXPECT_NE(snapshot(method->classifier()), head);
  for (const NamedParameter& p : parameters(method->encoder()))
    EXPECT_FALSE(p.value.grad().defined()) << p.name;
}

State weights_only(Module& module) {
  State values;
  for (const NamedParameter& p : parameters(module))
    values[p.name] = p.value.value().to_vector<double>();
  return values;
}

TEST_P(Injection, BackboneMovesExactlyAtMultiplesOfT) {
  for (const int64_t cycle : {2, 3}) {
    auto method = injection({.cycle = cycle});
    Optimizer optimizer(momentum_sgd(), method->groups(1e-4));
    for (int64_t s = 0; s < 7; ++s) {
      const State before = weights_only(method->encoder());
      steps(*method, optimizer, s, s + 1);
      EXPECT_EQ(weights_only(method->encoder()) != before, (s + 1) % cycle == 0)
          << "T=" << cycle << " t=" << s + 1;
      if ((s + 1) % cycle != 0) {
        for (const NamedParameter& p : parameters(method->encoder()))
          EXPECT_FALSE(p.value.grad().defined()) << p.name;
      }
    }
  }
}

TEST_P(Injection, HeadTrajectoryIsTheSameBeforeTheFirstBackboneStep) {
  // One norm mode for all, as only then the features agree.
  std::vector<State> heads;
  for (const int64_t cycle : {4, 5, 100}) {
    auto method = injection({.cycle = cycle, .norm = Norm::train});
    Optimizer optimizer(momentum_sgd(), method->groups(1e-4));
    steps(*method, optimizer, 0, 3);
    heads.push_back(snapshot(method->classifier()));
  }
  EXPECT_EQ(heads[0], heads[1]);
  EXPECT_EQ(heads[0], heads[2]);
}

TEST_P(Injection, ResumesInsideACycle) {
  const std::pair<Algorithm, SkippedStep> cases[] = {
      {Algorithm::sgd, SkippedStep::skip},
      {Algorithm::sgd, SkippedStep::zero_grad},
      {Algorithm::sgd, SkippedStep::accumulate_sum},
      {Algorithm::adamw, SkippedStep::skip},
      {Algorithm::adamw, SkippedStep::accumulate_mean}};
  for (const auto& [algorithm, skipped] : cases) {
    const InjectionOptions options{.cycle = 3, .skipped = skipped};
    const auto fresh = [&, algorithm = algorithm](LabelInjection& method) {
      return Optimizer({.algorithm = algorithm}, method.groups(1e-4));
    };
    auto straight = injection(options), resumed = injection(options);
    Optimizer a = fresh(*straight);
    steps(*straight, a, 0, 5);
    copy_state(*straight, *resumed);
    Optimizer b = fresh(*resumed);
    b.load(a.state());
    steps(*straight, a, 5, 7);
    steps(*resumed, b, 5, 7);
    EXPECT_EQ(snapshot(*resumed), snapshot(*straight))
        << name(algorithm) << ' ' << static_cast<int>(skipped);
  }
}

TEST_P(Injection, SequentialWithARestingHeadIsJoint) {
  std::vector<State> ends;
  for (const Order order : {Order::joint, Order::sequential}) {
    auto method = injection({.cycle = 2, .order = order});
    std::vector<ParamGroup> groups = method->groups(0);
    for (ParamGroup& group : groups)
      if (group.name.starts_with("head")) group.lr_scale = 0;
    Optimizer optimizer(momentum_sgd(), groups);
    for (int64_t s = 0; s < 4; ++s) method->train_step(batch_of(s), optimizer, .05, s, 0);
    ends.push_back(snapshot(method->encoder()));
  }
  EXPECT_EQ(ends[0], ends[1]);
}

// Whether the running statistics move on head-only step 0 and on full step 1 of T = 2.
TEST_P(Injection, NormModes) {
  const auto buffers_move = [](Norm norm, int64_t cycle) {
    auto method = injection({.cycle = cycle, .norm = norm});
    Optimizer optimizer(momentum_sgd(), method->groups(0));
    const auto statistics = [&] { return values_of(buffers(*method)); };
    std::string moves;
    for (int64_t s = 0; s < 2; ++s) {
      const State before = statistics();
      steps(*method, optimizer, s, s + 1);
      moves += statistics() != before ? '1' : '0';
    }
    return moves;
  };
  EXPECT_EQ(buffers_move(Norm::automatic, 2), "11");
  EXPECT_EQ(buffers_move(Norm::train, 2), "11");
  EXPECT_EQ(buffers_move(Norm::eval, 2), "01");
  EXPECT_EQ(buffers_move(Norm::batch_no_update, 2), "01");
  EXPECT_EQ(buffers_move(Norm::automatic, 0), "00");
  EXPECT_EQ(buffers_move(Norm::train, 0), "11");
  // T = 1 has no head-only step, so that every mode is fine-tuning.
  EXPECT_EQ(buffers_move(Norm::eval, 1), "11");
}

TEST_P(Injection, InfiniteCycleIsAProbeOnEvalFeatures) {
  auto method = injection({.cycle = 0});
  Optimizer optimizer(momentum_sgd(), method->groups(1e-4));
  steps(*method, optimizer, 0, 4);
  auto net = encoder();
  net->eval();
  Linear probe(net->feature_dim(), 3);
  initialize(probe, 5);
  to_device(probe, where);
  ParamGroup prototype;
  prototype.name = "head";
  prototype.weight_decay = 1e-4;
  Optimizer plain(momentum_sgd(), decay_groups(parameters(probe), prototype));
  for (int64_t s = 0; s < 4; ++s) {
    const Batch batch = batch_of(s);
    Variable features;
    {
      const NoGrad no_grad;
      features = net->features(Variable(batch.views[0]));
    }
    plain.clear_grads();
    backward(cross_entropy(probe(features), batch.labels, .1));
    plain.step(.05, s + 1, kClip);
  }
  EXPECT_EQ(snapshot(probe), snapshot(method->classifier()));
}

// Without batch norm the parts' gradients are the batch's.
TEST_P(Injection, PartsOfABatchAreTheBatch) {
  const auto after = [](InjectionOptions options, int64_t parts, bool many_labels) {
    const DType dtype = where.is_cpu() && many_labels ? DType::f64 : DType::f32;
    LabelInjection method(std::make_unique<Vit>(VitOptions{
                              .patch = 4, .image_size = 8, .width = 8, .depth = 1, .heads = 2}),
                          3, options);
    initialize(method, 3);
    to_dtype(method, dtype);
    to_device(method, where);
    method.set_parts(parts);
    if (many_labels)
      method.set_multi_label({});
    else
      method.set_mixed_training({.mix = {.mixup = .8, .cutmix = 0}, .seed = 5});
    Optimizer optimizer(momentum_sgd(), method.groups(1e-4));
    for (int64_t s = 0; s < 4; ++s) {
      Batch batch = batch_of(s);
      batch.views[0] = batch.views[0].cast(dtype);
      if (many_labels) batch.labels = Tensor::full({6, 3}, 1.0, dtype, where);
      method.train_step(batch, optimizer, .05, s, kClip);
    }
    return snapshot(method);
  };
  for (const InjectionOptions& o :
       {InjectionOptions{.cycle = 1}, InjectionOptions{.cycle = 2, .order = Order::sequential},
        InjectionOptions{.cycle = 3, .skipped = SkippedStep::accumulate_mean}})
    for (const bool many_labels : {false, true}) {
      const State whole = after(o, 1, many_labels);
      for (const int64_t parts :
           where.is_cpu() ? std::vector<int64_t>{2, 6} : std::vector<int64_t>{3}) {
        const State got = after(o, parts, many_labels);
        for (const auto& [name, values] : whole)
          for (size_t i = 0; i < values.size(); ++i)
            ASSERT_NEAR(got.at(name)[i], values[i], where.is_cpu() && many_labels ? 1e-12 : 1e-5)
                << name << parts << many_labels;
      }
    }
}

TEST_P(Injection, TheNormOfAllGroupsCountsABackboneThatRests) {
  const auto moved = [](int64_t cycle, bool all) {
    auto method = injection({.cycle = cycle, .clip_all = all});
    Optimizer optimizer({.algorithm = Algorithm::sgd, .momentum = 0}, method->groups(0));
    optimizer.clip_all(all);
    const State backbone = weights_only(method->encoder()), head = snapshot(method->classifier());
    method->train_step(batch_of(0), optimizer, 1, 0, .01);
    EXPECT_EQ(weights_only(method->encoder()) == backbone, cycle == 2);
    double squares = 0, all_squares = 0;
    for (const auto& [name, values] : snapshot(method->classifier()))
      for (size_t i = 0; i < values.size(); ++i)
        squares += (values[i] - head.at(name)[i]) * (values[i] - head.at(name)[i]);
    // Unless it steps, a gradient is left as it was; the head's was brought down.
    for (const NamedParameter& p : parameters(method->encoder()))
      if (p.value.grad().defined())
        for (const double g : p.value.grad().to_vector<double>()) all_squares += g * g;
    return std::pair{std::sqrt(squares), std::sqrt(all_squares)};
  };
  EXPECT_NEAR(moved(2, false).first, .01, 1e-5);
  EXPECT_EQ(moved(2, false).second, 0);
  const auto [head, rests] = moved(2, true);
  EXPECT_LT(head, .0099);
  EXPECT_GT(rests, .02);
  EXPECT_EQ(moved(1, true), moved(1, false));
}

TEST(InjectionSteps, HeadOnlyStepsKeepNoActivations) {
  auto method = injection({.cycle = 2});
  method->loss(batch_of(0), 0);
  const size_t before = cpu_allocator_stats().in_use;
  const Variable head_only = method->loss(batch_of(0), 0);
  const size_t little = cpu_allocator_stats().in_use - before;
  const Variable full = method->loss(batch_of(0), 1);
  EXPECT_LT(little * 20, cpu_allocator_stats().in_use - before - little);
}

TEST_P(Injection, AverageFollowsEveryStepAndRestsWithTheBackbone) {
  auto probing = injection({.cycle = 0}), tuned = injection({.cycle = 1});
  Supervised plain(encoder(), 3, .1);
  initialize(plain.classifier(), 5);
  to_device(plain, where);
  const auto run = [](Objective& method) {
    Optimizer optimizer(momentum_sgd(), method.groups(1e-4));
    Ema ema(state(method), .99);
    for (int64_t s = 0; s < 4; ++s) {
      steps(method, optimizer, s, s + 1);
      ema.update();
    }
    return values_of(ema.averages());
  };
  const State resting = run(*probing), weights = snapshot(*probing);
  for (const auto& [name, value] : weights) {
    if (name.starts_with("encoder.")) {
      EXPECT_EQ(resting.at(name), value) << name;
    } else {
      EXPECT_NE(resting.at(name), value) << name;
    }
  }
  EXPECT_EQ(run(*tuned), run(plain));
}

TEST(InjectionSteps, Phases) {
  using Phase = InjectionOptions::Phase;
  const auto due = [](const InjectionOptions& o) {
    auto method = injection(o);
    std::string text;
    for (int64_t s = 0; s < 10; ++s) text += method->backbone_steps(s) ? '1' : '0';
    return text;
  };
  for (const InjectionOptions& o :
       {InjectionOptions{.cycle = 3}, InjectionOptions{.cycle = 3, .phase = Phase::zero_based},
        InjectionOptions{.cycle = 3, .phase = Phase::per_epoch, .steps_per_epoch = 4},
        InjectionOptions{.cycle = 0}}) {
    auto method = injection(o);
    int64_t updates = 0;
    for (int64_t s = 0; s < 12; ++s) {
      EXPECT_EQ(method->backbone_updates(s), updates) << s;
      updates += method->backbone_steps(s);
    }
  }
  EXPECT_EQ(due({.cycle = 3}), "0010010010");
  EXPECT_EQ(due({.cycle = 3, .phase = Phase::zero_based}), "1001001001");
  EXPECT_EQ(due({.cycle = 3, .phase = Phase::per_epoch, .steps_per_epoch = 4}), "0010001000");
}

TEST(Centroids, Golden) {
  const Tensor f = ops::abs(test::hashed("cent", {6, 4}));
  const Tensor labels = Tensor::from<int64_t>({0, 1, 0, 1, 1, 0});
  for (const test::Setting& at : test::settings())
    at.near(class_centroids(at(f), at(labels), 2),
            {.8080305082, .4473456618, .506508451, .4845507385}, 1e-9);
}

TEST(Centroids, Options) {
  const Tensor f = Tensor::from<float>({3, 4, 0, 2, 100, 100}).reshape({3, 2});
  const Tensor y = Tensor::from<int64_t>({0, 0, -1});  // the last has no label
  const auto expect = [&](const CentroidOptions& o, const std::vector<double>& want) {
    test::expect_near(class_centroids(f, y, 2, o), want, 1e-6);
  };
  expect({}, {1.5, 3, 0, 0});
  expect({.unit_features = true}, {.3, .9, 0, 0});
  expect({.unit_rows = true}, {1 / std::sqrt(5.0), 2 / std::sqrt(5.0), 0, 0});
  expect({.scale = 2}, {3, 6, 0, 0});
  EXPECT_THROW(class_centroids(f, Tensor::from<int64_t>({0, 2, 0}), 2), Error);
  EXPECT_THROW(class_centroids(f, Tensor::from<int64_t>({0}), 2), Error);
  // With its bias the largest logit is the nearest centroid's, not the longest one's.
  const Tensor c = Tensor::from<float>({1, 0, 10, 0}).reshape({2, 2});
  test::expect_near(nearest_centroid_bias(c), {-.5, -50}, 1e-6);
}

TEST_P(Injection, ResetHead) {
  auto a = injection({}), b = injection({});
  a->reset_head(1);
  b->reset_head(1);
  EXPECT_EQ(snapshot(a->classifier()), snapshot(b->classifier()));
  b->reset_head(2);
  EXPECT_NE(snapshot(a->classifier()), snapshot(b->classifier()));
  for (const double v : a->classifier().bias.value().to_vector<double>()) EXPECT_EQ(v, 0);
  for (const double v : a->classifier().weight.value().to_vector<double>()) EXPECT_LT(v, .06);
}

}  // namespace
}  // namespace facet
