// Modules: what their visitors see and do.
#include <gtest/gtest.h>

#include "nn/layers.h"
#include "tensor/text.h"
#include "tests/folder.h"
#include "tests/generators.h"

namespace facet::test {
namespace {

struct Inner final : Module {
  Linear fc{3, 2};
  Variable absent;  // undefined: not visited
  void visit(ModuleVisitor& v) override {
    v("fc", fc);
    v("absent", absent);
  }
};

struct Outer final : Module {
  Inner first, second;
  Variable scale{Tensor::full({2}, 1.5), true};
  Tensor steps = Tensor::from({int64_t{4}}), average = Tensor::zeros({2});
  void visit(ModuleVisitor& v) override {
    v("blocks.0", first);
    v("blocks.1", second);
    v("scale", scale);
    v("steps", steps);
    v("average", average);
  }
};

using Names = std::vector<std::string>;
using Values = std::vector<double>;

TEST(Module, NamesInVisitingOrder) {
  Outer module;
  EXPECT_EQ(names_of(parameters(module)),
            (Names{"blocks.0.fc.weight", "blocks.0.fc.bias", "blocks.1.fc.weight",
                   "blocks.1.fc.bias", "scale"}));
  EXPECT_EQ(names_of(buffers(module)), (Names{"steps", "average"}));
  EXPECT_EQ(names_of(state(module)),
            (Names{"blocks.0.fc.weight", "blocks.0.fc.bias", "blocks.1.fc.weight",
                   "blocks.1.fc.bias", "scale", "steps", "average"}));
  EXPECT_EQ(parameter_count(module), 2 * (3 * 2 + 2) + 2);
}

TEST(Module, TrainAndEvalReachEveryChild) {
  Outer module;
  EXPECT_TRUE(module.second.fc.training());
  module.eval();
  int visited = 0;
  for_each_module(module, [&](Module& m) {
    ++visited;
    EXPECT_FALSE(m.training());
  });
  EXPECT_EQ(visited, 5);
  module.first.train();
  EXPECT_TRUE(module.first.fc.training());
  EXPECT_FALSE(module.training());
  EXPECT_FALSE(module.second.training());
}

TEST(Module, FreezesAndClears) {
  Outer module;
  for (NamedParameter& p : parameters(module)) p.value.grad() = Tensor::zeros_like(p.value.value());
  clear_grads(module);
  for (NamedParameter& p : parameters(module)) EXPECT_FALSE(p.value.grad().defined());
  set_requires_grad(module, false);
  const Variable x(Tensor::full({1, 3}, 1.0));
  EXPECT_FALSE(module.first.fc(x).needs_grad());
  set_requires_grad(module, true);
  EXPECT_TRUE(module.first.fc(x).needs_grad());
}

TEST(Module, ToDtypeLeavesIntegersAlone) {
  Outer module;
  to_dtype(module, DType::f64);
  for (const NamedTensor& t : state(module))
    EXPECT_EQ(t.value.dtype(), t.name == "steps" ? DType::i64 : DType::f64) << t.name;
  EXPECT_EQ(module.scale.value().to_vector<double>(), (Values{1.5, 1.5}));
  EXPECT_TRUE(module.scale.requires_grad());
}

TEST(Module, CopyStateCopiesValuesNotHandles) {
  Outer from, to;
  for (NamedTensor& t : state(from))
    if (is_floating(t.value.dtype())) t.value.copy_(hashed(t.name, t.value.shape()));
  from.steps.fill_(9);
  copy_state(from, to);
  const std::vector<NamedTensor> a = state(from), b = state(to);
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].value.to_vector<double>(), b[i].value.to_vector<double>()) << a[i].name;
    EXPECT_FALSE(a[i].value.shares_storage_with(b[i].value)) << a[i].name;
  }
  Inner other;
  EXPECT_THROW(copy_state(from, other), Error);
}

TEST(Module, LoadStateIsAllOrNothingAndSaysWhatIsWrong) {
  Outer module;
  std::vector<NamedTensor> values;
  for (const NamedTensor& t : state(module)) values.push_back({t.name, t.value.clone()});
  values[4].value.fill_(7);
  load_state(module, values);
  EXPECT_EQ(module.scale.value().to_vector<double>(), (Values{7, 7}));

  // from another type
  values[4].value = Tensor::from({1.0, 2.0});
  load_state(module, values);
  EXPECT_EQ(module.scale.value().dtype(), DType::f32);
  EXPECT_EQ(module.scale.value().to_vector<double>(), (Values{1, 2}));

  EXPECT_EQ(FileError("").exit_code(), ExitCode::bad_file);
  const auto message = [&](bool strict) {
    return error_of<FileError>([&] { load_state(module, values, strict); });
  };
  values[4].value = Tensor::from({3.0, 4.0});
  values[0].value = Tensor::zeros({2, 4});
  values[1].name = "blocks.0.fc.other";
  expect_parts(message(true), {"blocks.0.fc.weight (expected (2, 3), got (2, 4))",
                               "1 missing: blocks.0.fc.bias", "1 unexpected: blocks.0.fc.other"});
  EXPECT_EQ(module.scale.value().to_vector<double>(), (Values{1, 2}));  // nothing was loaded
  EXPECT_NE(message(false), "");  // a shape that does not fit is never loaded

  values[0].value = Tensor::zeros({2, 3});
  EXPECT_NE(message(true), "");
  const LoadReport report = load_state(module, values, false);
  EXPECT_EQ(report.missing, Names{"blocks.0.fc.bias"});
  EXPECT_EQ(report.unexpected, Names{"blocks.0.fc.other"});
  EXPECT_EQ(module.scale.value().to_vector<double>(), (Values{3, 4}));
}

}  // namespace
}  // namespace facet::test
