// Whole-network golden values: torchvision's ResNet-50 in f64 with the weights of fill.h.
#include "nn/resnet.h"

#include <gtest/gtest.h>

#include <cmath>

#include "nn/init.h"
#include "tests/fill.h"

namespace facet {
namespace {

using test::fill;
using test::image_input;
using test::norm;

void expect_near(double got, double want, double relative) {
  EXPECT_NEAR(got, want, relative * std::max(1e-3, std::fabs(want)));
}

void check_eval(DType dtype, double tolerance) {
  ResNet net({.arch = "resnet50", .num_classes = 1000});
  fill(net, dtype);
  net.eval();
  const NoGrad no_grad;
  const Tensor logits =
      net.logits(Variable(image_input("input", 2, 224, dtype))).value().cast(DType::f64);
  const std::vector<double> v = logits.to_vector<double>();
  const double first[] = {-.321921321, 1.88355793, -1.33305468, -.647097287};
  const double second[] = {-.322780767, 1.93692583, -1.30706969, -.60581132};
  for (int i = 0; i < 4; ++i) {
    expect_near(v[static_cast<size_t>(i)], first[i], tolerance);
    expect_near(v[static_cast<size_t>(1000 + i)], second[i], tolerance);
  }
  expect_near(ops::reduce(ReduceOp::sum, logits).item(), 65.4293865697, tolerance);
  expect_near(norm(logits), 73.9015047126, tolerance);
}

TEST(ResNet50, EvalGoldenF64) {
  check_eval(DType::f64, 5e-9);
}
TEST(ResNet50, EvalGoldenF32) {
  check_eval(DType::f32, 2e-5);
}

void check_train(DType dtype, double loss_tolerance, double tolerance) {
  ResNet net({.arch = "resnet50", .num_classes = 1000});
  fill(net, dtype);
  const Variable logits = net.logits(Variable(image_input("input64", 4, 64, dtype)));
  const Variable loss = cross_entropy(logits, Tensor::from<int64_t>({1, 10, 100, 999}));
  expect_near(loss.item(), 7.75925469474, loss_tolerance);
  const std::vector<double> v = logits.value().to_vector<double>();
  const double first[] = {2.03053392, -.10754619, .211931675, .647011131};
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(v[static_cast<size_t>(i)], first[i], tolerance);
  backward(loss);
  const std::pair<const char*, double> norms[] = {{"conv1.weight", 861.585771},
                                                  {"bn1.weight", 33.50939476},
                                                  {"layer1.0.conv1.weight", 295.4559192},
                                                  {"layer2.0.downsample.0.weight", 140.9565545},
                                                  {"layer4.2.conv3.weight", 4.428712642},
                                                  {"layer4.2.bn3.bias", .3705323548},
                                                  {"fc.weight", 26.4588987},
                                                  {"fc.bias", .5010613223}};
  for (const auto& [name, want] : norms)
    for (const NamedParameter& p : parameters(net))
      if (p.name == name) {
        SCOPED_TRACE(name);
        expect_near(norm(p.value.grad()), want, tolerance);
      }
  const auto buffer = [&](const std::string& name) {
    for (const NamedTensor& b : buffers(net))
      if (b.name == name) return b.value.to_vector<double>();
    throw Error("no buffer " + name);
  };
  const auto mean = buffer("bn1.running_mean"), var = buffer("bn1.running_var");
  const double means[] = {-.0717195499, -.0187885071, -.0190275901};
  const double vars[] = {.490510364, .566020127, .870313971};
  for (size_t i = 0; i < 3; ++i) {
    expect_near(mean[i], means[i], tolerance);
    expect_near(var[i], vars[i], tolerance);
  }
  const auto last = buffer("layer4.2.bn3.running_var");
  expect_near(last[0], .696927793, tolerance);
  expect_near(last[1], 1.04337516, tolerance);
  EXPECT_EQ(buffer("bn1.num_batches_tracked")[0], 1.0);
}

TEST(ResNet50, TrainGoldenF64) {
  check_train(DType::f64, 1e-11, 5e-9);
}
// Batch 4 on a 2x2 last map is ill-conditioned: f32 gradients of the reference itself differ by
// 3e-3.
TEST(ResNet50, TrainGoldenF32) {
  check_train(DType::f32, 2e-5, 5e-3);
}

// Large enough that the CPU takes Winograd in every stage: 512 tiles in the first, 128 in the last.
// The loss says how exact the forward pass is; gradients differ by the few ReLUs whose input is so
// near zero that rounding decides, some 1e-2 in norm.
TEST(ResNet18, TrainsInF32AsInF64OnWinograd) {
  const auto gradients = [](DType dtype, double& loss) {
    ResNet net({.arch = "resnet18", .stem = Stem::small, .num_classes = 10});
    fill(net, dtype);
    const Variable y = cross_entropy(net.logits(Variable(image_input("winograd", 32, 32, dtype))),
                                     Tensor::from<int64_t>(std::vector<int64_t>(32, 3), {32}));
    backward(y);
    loss = y.item();
    std::vector<NamedTensor> result;
    for (const NamedParameter& p : parameters(net)) result.push_back({p.name, p.value.grad()});
    return result;
  };
  double loss32 = 0, loss64 = 0;
  const auto narrow = gradients(DType::f32, loss32), wide = gradients(DType::f64, loss64);
  expect_near(loss32, loss64, 1e-5);
  ASSERT_EQ(narrow.size(), wide.size());
  for (size_t i = 0; i < wide.size(); ++i) {
    const Tensor error = ops::sub(narrow[i].value.cast(DType::f64), wide[i].value);
    EXPECT_LE(norm(error), 2e-2 * norm(wide[i].value)) << wide[i].name;
  }
}

TEST(ResNet50, HasTorchvisionsParameters) {
  ResNet net({.arch = "resnet50", .num_classes = 1000});
  EXPECT_EQ(parameter_count(net), 25557032);
  EXPECT_EQ(state(net).size(), 320u);
  ResNet headless({.arch = "resnet50"});
  EXPECT_EQ(parameter_count(headless), 23508032);
}

TEST(ResNet, SmallStemKeepsTheResolution) {
  ResNet net({.arch = "resnet18", .stem = Stem::small, .width = 8});
  initialize(net, 1);
  const VariableList stages = net.stages(Variable(image_input("x", 2, 32, DType::f32)));
  EXPECT_EQ(stages[0].shape(), Shape({2, 32, 32, 8}));
  EXPECT_EQ(stages[3].shape(), Shape({2, 4, 4, 64}));
}

TEST(ResNet, UnknownArchitectureIsNamed) {
  try {
    ResNet net({.arch = "resnet51"});
    FAIL();
  } catch (const UsageError& e) {
    EXPECT_NE(std::string(e.what()).find("resnet51"), std::string::npos);
  }
}

TEST(Initialize, DependsOnTheNameAlone) {
  ResNet small({.arch = "resnet18", .width = 8}),
      large({.arch = "resnet18", .width = 8, .num_classes = 10});
  initialize(small, 7);
  initialize(large, 7);
  const auto a = state(small), b = state(large);
  for (size_t i = 0; i < a.size(); ++i)
    EXPECT_EQ(a[i].value.to_vector<float>(), b[i].value.to_vector<float>()) << a[i].name;
}

}  // namespace
}  // namespace facet
