// ResNets: parameters, stems, precision. Their golden values are in goldens_test.
#include "nn/resnet.h"

#include <gtest/gtest.h>

#include "nn/init.h"
#include "tests/fill.h"
#include "tests/folder.h"

namespace facet {
namespace {

using namespace test;

// Large enough that the CPU takes Winograd in every stage: 512 tiles in the first, 128 in the last.
// The loss says how exact the forward pass is; gradients differ by the few ReLUs whose input is so
// near zero that rounding decides, some 1e-2 in norm.
TEST(ResNet18, TrainsInF32AsInF64OnWinograd) {
  const auto gradients = [](DType dtype, double& loss) {
    ResNet net({.arch = "resnet18", .stem = Stem::small, .num_classes = 10});
    fill(net, dtype);
    const Variable y = cross_entropy(net.logits(Variable(hashed_images("winograd", 32, 32, dtype))),
                                     Tensor::from<int64_t>(std::vector<int64_t>(32, 3), {32}));
    backward(y);
    loss = y.item();
    std::vector<NamedTensor> result;
    for (const NamedParameter& p : parameters(net)) result.push_back({p.name, p.value.grad()});
    return result;
  };
  double loss32 = 0, loss64 = 0;
  const auto narrow = gradients(DType::f32, loss32), wide = gradients(DType::f64, loss64);
  EXPECT_NEAR(loss32, loss64, 1e-5 * loss64);
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
  const VariableList stages = net.stages(Variable(hashed_images("x", 2, 32, DType::f32)));
  EXPECT_EQ(stages[0].shape(), Shape({2, 32, 32, 8}));
  EXPECT_EQ(stages[3].shape(), Shape({2, 4, 4, 64}));
}

TEST(ResNet, UnknownArchitectureIsNamed) {
  test::expect_parts(test::error_of<UsageError>([] { ResNet net({.arch = "resnet51"}); }),
                     {"resnet51"});
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
