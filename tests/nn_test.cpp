// Layers, initialisation, networks and heads.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "nn/heads.h"
#include "nn/init.h"
#include "nn/resnet.h"
#include "tensor/cpu/allocator.h"
#include "tensor/text.h"
#include "tests/fill.h"

namespace facet {
namespace {

using namespace test;

TEST(ResNet, HasTorchvisionsNames) {
  ResNet net({.arch = "resnet18", .width = 8, .num_classes = 5});
  const std::vector<std::string> names = names_of(state(net));
  EXPECT_EQ(names.size(), 122u);  // as torchvision's
  for (const char* name : {"conv1.weight", "bn1.running_var", "layer1.1.bn2.num_batches_tracked",
                           "layer2.0.downsample.0.weight", "layer4.1.conv2.weight", "fc.bias"})
    EXPECT_EQ(std::count(names.begin(), names.end(), name), 1) << name;
  EXPECT_EQ(std::count(names.begin(), names.end(), "layer1.0.downsample.0.weight"), 0);
}

// ---- layers

TEST(Layers, LinearAndConvolutionKeepTheirLayout) {
  Linear linear(3, 2);
  linear.weight.value().copy_(Tensor::from<float>({1, 2, 3, 4, 5, 6}).reshape({2, 3}));
  linear.bias.value().copy_(Tensor::from<float>({10, 20}));
  const Variable x(Tensor::from<float>({1, 0, 2}).reshape({1, 3}));
  EXPECT_EQ(values(linear(x).value()), (std::vector<double>{17, 36}));
  Conv2d conv(3, 2, 1);
  EXPECT_EQ(conv.weight.shape(), Shape({2, 1, 1, 3}));
  conv.weight.value().copy_(linear.weight.value().reshape({2, 1, 1, 3}));
  const Variable pixel(x.value().reshape({1, 1, 1, 3}));
  EXPECT_EQ(values(conv(pixel).value()), (std::vector<double>{7, 16}));
}

TEST(Layers, BatchNormTracksTheUnbiasedVariance) {
  BatchNorm norm(2);
  const Tensor x = Tensor::from<float>({1, 10, 2, 30, 6, 50}).reshape({3, 2});
  norm(Variable(x));
  const std::vector<double> mean = values(norm.running_mean), var = values(norm.running_var);
  EXPECT_NEAR(mean[0], .1 * 3, 1e-6);
  EXPECT_NEAR(mean[1], .1 * 30, 1e-5);
  EXPECT_NEAR(var[0], .9 + .1 * 7, 1e-6);  // (4 + 1 + 9) / 2
  EXPECT_NEAR(var[1], .9 + .1 * 400, 1e-4);
  EXPECT_EQ(norm.num_batches_tracked.item(), 1.0);

  set_update_running(norm, false);
  norm(Variable(x));
  EXPECT_EQ(values(norm.running_mean), mean);
  EXPECT_EQ(norm.num_batches_tracked.item(), 1.0);

  norm.eval();
  const std::vector<double> y = values(norm(Variable(x)).value());
  EXPECT_NEAR(y[4], (6 - mean[0]) / std::sqrt(var[0] + 1e-5), 1e-5);
  EXPECT_EQ(values(norm.running_mean), mean);
}

TEST(Layers, BatchNormFusesTheAdditionAndTheRelu) {
  BatchNorm fused(4, true), plain(4, false);
  for (BatchNorm* norm : {&fused, &plain}) test::fill(*norm);
  const auto run = [](BatchNorm& norm, bool is_fused, std::vector<Tensor>& grads) {
    const Variable x(hashed("x", {6, 4}), true), r(hashed("r", {6, 4}), true);
    const Variable y = is_fused ? norm(x, r) : relu(norm(x) + r);
    backward(sum(y * Variable(hashed("seed", {6, 4}))));
    grads = {y.value(), x.grad(), r.grad(), norm.weight.grad(), norm.bias.grad()};
  };
  std::vector<Tensor> a, b;
  run(fused, true, a);
  run(plain, false, b);
  for (size_t i = 0; i < a.size(); ++i)
    for (size_t k = 0; k < values(a[i]).size(); ++k)
      EXPECT_NEAR(values(a[i])[k], values(b[i])[k], 1e-12) << i;
}

TEST(Layers, NormsAreFoldedIntoConvolutionsWhereNothingIsRecorded) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    ResNet net({.arch = "resnet50", .width = 8});
    initialize(net, 3);
    to_dtype(net, dtype);
    const Variable x(hashed("x", {4, 32, 32, 3}).cast(dtype));
    for (int step = 0; step < 3; ++step) net.features(x);  // statistics that are not 0 and 1
    net.eval();
    const std::vector<double> want = values(net.features(x).value());
    const NoGrad no_grad;
    const std::vector<double> got = values(net.features(x).value());
    const double tolerance = dtype == DType::f64 ? 1e-12 : 1e-4;
    bool same = true;
    for (size_t i = 0; i < want.size(); ++i) {
      EXPECT_NEAR(got[i], want[i], tolerance * (1 + std::fabs(want[i])));
      same = same && got[i] == want[i];
    }
    EXPECT_FALSE(same) << "folded weights round differently";
    net.train();
    net.features(x);
    EXPECT_EQ(test::tensor_of(net, "bn1.num_batches_tracked").item(), 4);
  }
}

TEST(Layers, RecomputingCountsABatchOnce) {
  BatchNorm norm(3);
  const Variable x(hashed("x", {5, 3}).cast(DType::f32), true);
  const Variable y = checkpoint([&](const VariableList& in) { return norm(in[0]); }, {x});
  const std::vector<double> mean = values(norm.running_mean);
  backward(sum(y * y));
  EXPECT_EQ(norm.num_batches_tracked.item(), 1.0);
  EXPECT_EQ(values(norm.running_mean), mean);
}

// ---- initialisation

double deviation(const Tensor& t) {
  return std::sqrt(ops::reduce(ReduceOp::sum_squares, t).item() / static_cast<double>(t.numel()));
}

TEST(Initialize, FollowsTorchvision) {
  ResNet net({.arch = "resnet18", .width = 32, .num_classes = 1000});
  initialize(net, 1);
  for (const NamedParameter& p : parameters(net)) {
    const Tensor& t = p.value.value();
    const double n = static_cast<double>(t.numel());
    if (t.rank() == 4) {
      const double fan_out = static_cast<double>(t.dim(0) * t.dim(1) * t.dim(2));
      const double want = std::sqrt(2.0 / fan_out);  // the sample deviation errs by want / sqrt(2n)
      EXPECT_NEAR(deviation(t), want, 5 * want / std::sqrt(2 * n)) << p.name;
    } else if (p.name.starts_with("fc")) {
      const double bound = 1.0 / std::sqrt(256.0);
      EXPECT_NEAR(deviation(t), bound / std::sqrt(3.0), 5 * bound * .26 / std::sqrt(n)) << p.name;
      EXPECT_LE(ops::reduce(ReduceOp::max, ops::abs(t)).item(), bound);
    } else {
      const double want = p.name.ends_with("weight") ? 1.0 : 0.0;
      for (const double v : values(t)) EXPECT_EQ(v, want) << p.name;
    }
  }
}

TEST(Initialize, SeedsAndNamesDiffer) {
  Linear a(8, 8), b(8, 8);
  initialize(a, 1);
  initialize(b, 2);
  EXPECT_NE(values(a.weight.value()), values(b.weight.value()));
  ResNet net({.arch = "resnet18", .width = 8});
  initialize(net, 1);
  std::vector<std::vector<double>> drawn;
  for (const NamedParameter& p : parameters(net))
    if (p.name == "layer1.0.conv1.weight" || p.name == "layer1.0.conv2.weight")
      drawn.push_back(values(p.value.value()));
  EXPECT_NE(drawn[0], drawn[1]);
}

TEST(Initialize, ZeroResidualTouchesTheBlocksOnly) {
  struct Net final : Module {
    ResNet encoder{{.arch = "resnet18", .width = 8, .zero_init_residual = true}};
    ProjectionHead head{{.in = 64, .hidden = 16, .out = 8, .num_layers = 4}};
    void visit(ModuleVisitor& v) override {
      v("encoder", encoder);
      v("head", head);
    }
  } net;
  initialize(net, 1);
  int zeroed = 0;
  for (const NamedParameter& p : parameters(net)) {
    if (!p.name.ends_with("weight") || p.value.value().rank() != 1) continue;
    const bool is_last = p.name.starts_with("encoder.layer") && p.name.ends_with(".bn2.weight");
    for (const double v : values(p.value.value())) EXPECT_EQ(v, is_last ? 0.0 : 1.0) << p.name;
    zeroed += is_last;
  }
  EXPECT_EQ(zeroed, 8);
  Linear head(100, 50);
  initialize_normal(head, 3, .01);
  EXPECT_NEAR(deviation(head.weight.value()), .01, 5e-4);
  EXPECT_EQ(deviation(head.bias.value()), 0.0);
}

// ---- networks and heads

TEST(ResNet, ParameterCounts) {
  EXPECT_EQ(resnet_names(), (std::vector<std::string>{"resnet18", "resnet34", "resnet50"}));
  ResNet small({.arch = "resnet18", .num_classes = 1000});
  EXPECT_EQ(parameter_count(small), 11689512);
  ResNet middle({.arch = "resnet34", .num_classes = 1000});
  EXPECT_EQ(parameter_count(middle), 21797672);
  EXPECT_EQ(state(middle).size(), 218u);
}

// Before the backward a training step holds each norm's input, its output and one bit a ReLU.
TEST(ResNet, TrainingKeepsNothingExtra) {
  ResNet net({.arch = "resnet18", .stem = Stem::small, .width = 16});
  initialize(net, 1);
  const Variable x(hashed_images("x", 8, 32, DType::f32));
  {
    const NoGrad warm_up;
    net.features(x);
  }
  const size_t before = cpu_allocator_stats().in_use;
  const Variable y = net.features(x);
  const auto held = static_cast<double>(cpu_allocator_stats().in_use - before);
  // Elements of one output a stage, and its number of norms (with the shortcut's).
  const double stage[] = {8. * 32 * 32 * 16, 8. * 16 * 16 * 32, 8. * 8 * 8 * 64, 8. * 4 * 4 * 128};
  const double norms[] = {5, 5, 5, 5}, relus[] = {5, 4, 4, 4};
  double expected = 0;
  for (int i = 0; i < 4; ++i) expected += stage[i] * (8 * norms[i] + relus[i] / 8);
  EXPECT_NEAR(held / expected, 1.0, .05);
  const size_t recorded = cpu_allocator_stats().in_use;
  {
    const NoGrad no_grad;
    const Variable z = net.features(x);
    EXPECT_LT(cpu_allocator_stats().in_use - recorded, 64u << 10);
  }
}

TEST(ProjectionHead, OfficialAndPlainForms) {
  ProjectionHead official({.in = 6, .hidden = 5, .out = 4, .num_layers = 3});
  EXPECT_EQ(names_of(parameters(official)),
            (std::vector<std::string>{"layer0.weight", "bn0.weight", "bn0.bias", "layer1.weight",
                                      "bn1.weight", "bn1.bias", "layer2.weight", "bn2.weight"}));
  initialize(official, 1);
  // The last norm has no offset, so that every output column has mean 0.
  const Tensor y = official(Variable(hashed("x", {7, 6}).cast(DType::f32))).value();
  EXPECT_EQ(y.shape(), Shape({7, 4}));
  for (const double v : values(ops::reduce(ReduceOp::mean, y, 0))) EXPECT_NEAR(v, 0, 1e-6);

  ProjectionHead plain({.in = 2, .hidden = 2, .out = 1, .form = ProjectionForm::plain});
  std::vector<NamedParameter> all = parameters(plain);
  ASSERT_EQ(all.size(), 4u);
  all[0].value.value().copy_(Tensor::from<float>({1, 0, 0, -1}).reshape({2, 2}));
  all[1].value.value().copy_(Tensor::from<float>({1, 1}));
  all[2].value.value().copy_(Tensor::from<float>({2, 3}).reshape({1, 2}));
  all[3].value.value().copy_(Tensor::from<float>({-20}));
  const Variable x(Tensor::from<float>({4, 5}).reshape({1, 2}));
  EXPECT_EQ(plain(x).item(), 2 * 5 + 0 - 20);  // relu(1 - 5) = 0, no ReLU at the end
  EXPECT_THROW(ProjectionHead({.num_layers = 0}), Error);
}

}  // namespace
}  // namespace facet
