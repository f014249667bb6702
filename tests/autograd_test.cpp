// The graph: what backward() does with it, and what checkpoint() changes.
#include <gtest/gtest.h>

#include <cstring>

#include "tests/generators.h"
#include "tests/gradcheck.h"

namespace facet::test {
namespace {

Variable leaf(const std::vector<double>& values, bool requires_grad = true) {
  return Variable(Tensor::from(values, {static_cast<int64_t>(values.size())}), requires_grad);
}
std::vector<double> grad_of(const Variable& v) {
  return v.grad().to_vector<double>();
}
using Values = std::vector<double>;

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.raw(), b.raw(), a.bytes()) == 0;
}

TEST(Autograd, AddsWhatComesFromEveryUse) {
  const Variable x = leaf({1, 2, 3});
  const Variable y = x * x;          // 2x
  const Variable z = add(y, x) * y;  // (x^2 + x) x^2: 4x^3 + 3x^2
  backward(sum(z));
  EXPECT_EQ(grad_of(x), (Values{7, 44, 135}));
}

TEST(Autograd, GradientsOfSeveralBackwardsAdd) {
  const Variable x = leaf({1, 2});
  backward(sum(x * x));
  backward(sum(2.0 * x));
  EXPECT_EQ(grad_of(x), (Values{4, 6}));
  Variable same = x;
  same.clear_grad();
  EXPECT_FALSE(x.grad().defined());
}

TEST(Autograd, TakesASeed) {
  const Variable x = leaf({1, 2, 3});
  backward(x * x, Tensor::from({1.0, 0.0, -1.0}));
  EXPECT_EQ(grad_of(x), (Values{2, 0, -6}));
}

TEST(Autograd, RootMayBeALeaf) {
  const Variable x = leaf({5});
  const Tensor seed = Tensor::from({3.0});
  backward(x, seed);
  backward(x, seed);
  EXPECT_EQ(grad_of(x), (Values{6}));
  EXPECT_EQ(seed.item(), 3.0);  // the seed is the caller's
}

TEST(Autograd, LeavesNeverShareAGradient) {
  const Variable a = leaf({1, 2}), b = leaf({3, 4});
  const Tensor seed = Tensor::from({1.0, 1.0});
  backward(a + b, seed);
  EXPECT_FALSE(a.grad().shares_storage_with(b.grad()));
  EXPECT_FALSE(a.grad().shares_storage_with(seed));
  Variable handle = a;
  handle.grad().fill_(7);
  EXPECT_EQ(grad_of(b), (Values{1, 1}));
}

TEST(Autograd, AHeldGradientIsNotChangedByLaterOnes) {
  const Variable x = leaf({1, 2});
  backward(sum(x));
  const Tensor held = x.grad();
  backward(sum(x));
  EXPECT_EQ(held.to_vector<double>(), (Values{1, 1}));
  EXPECT_EQ(grad_of(x), (Values{2, 2}));
}

TEST(Autograd, DetachStopsGradients) {
  const Variable x = leaf({3});
  backward(sum(x * (x * x).detach()));
  EXPECT_EQ(grad_of(x), (Values{9}));
  EXPECT_FALSE((x * x).detach().needs_grad());
}

TEST(Autograd, FrozenLeavesGetNothingAndAreNotRecorded) {
  const Variable frozen = leaf({2}, false), x = leaf({3});
  backward(sum(frozen * x));
  EXPECT_FALSE(frozen.grad().defined());
  EXPECT_EQ(grad_of(x), (Values{2}));
  EXPECT_FALSE((frozen * frozen).needs_grad());
}

TEST(Autograd, NoGradRecordsNothingAndEndsWithItsScope) {
  const Variable x = leaf({3});
  {
    const NoGrad outer;
    {
      const NoGrad inner;
      EXPECT_FALSE((x * x).needs_grad());
    }
    EXPECT_FALSE(grad_enabled());
    EXPECT_FALSE((x * x).needs_grad());
    {
      const EnableGrad again;
      EXPECT_TRUE((x * x).needs_grad());
    }
  }
  EXPECT_TRUE((x * x).needs_grad());
}

TEST(Autograd, AGraphIsConsumedOnce) {
  const Variable x = leaf({3});
  const Variable shared = x * x;
  const Variable first = sum(shared), second = sum(2.0 * shared);
  backward(first);
  EXPECT_THROW(backward(first), Error);
  EXPECT_THROW(backward(second), Error);  // through the part that both share
  EXPECT_EQ(grad_of(x), (Values{6}));
}

TEST(Autograd, MistakesAreTold) {
  const Variable x = leaf({1, 2});
  EXPECT_THROW(backward(x * x), Error);                       // not a scalar, no seed
  EXPECT_THROW(backward(x * x, Tensor::from({1.0})), Error);  // another shape
  EXPECT_THROW(backward(x * x, Tensor::zeros({2})), Error);   // f32 for f64
  EXPECT_THROW(backward(sum(leaf({1}, false))), Error);       // nothing to differentiate
  EXPECT_THROW(backward(Variable()), Error);
  EXPECT_THROW(Variable(Tensor::zeros({2}, DType::i64), true), Error);
}

TEST(Autograd, LeafGradientsOfBf16AreF32) {
  const Variable x(Tensor::from({0.5, -1.0}).cast(DType::bf16), true);
  for (int i = 0; i < 300; ++i) backward(sum(x));  // bf16 would stick at 256
  EXPECT_EQ(x.grad().dtype(), DType::f32);
  EXPECT_EQ(grad_of(x), (Values{300, 300}));
}

TEST(Autograd, WeightGradientsAreSummedInF32) {
  // An f32 master behind a cast, as mixed precision has it: 300 equal terms that bf16 cannot add.
  const Variable w(Tensor::full({1, 1}, 0.5), true), b(Tensor::zeros({1}), true);
  const Variable x(Tensor::full({300, 1}, 1.0, DType::bf16));
  const Variable y = linear(x, cast(w, DType::bf16), cast(b, DType::bf16));
  backward(y, Tensor::full(y.shape(), 1.0078125, DType::bf16));
  EXPECT_EQ(grad_of(w), (Values{302.34375}));
  EXPECT_EQ(grad_of(b), (Values{302.34375}));
}

TEST(Autograd, MixedTypesOfGradientsMeet) {
  // A bf16 value that is no leaf gets f32 from linear() and bf16 from mul(), in either order.
  const Variable w(Tensor::full({2, 2}, 0.5, DType::bf16), true);
  const Variable x(Tensor::full({3, 2}, 1.0, DType::bf16));
  for (const bool linear_first : {true, false}) {
    Variable again = w;
    again.clear_grad();
    const Variable hidden = affine(2.0, w);
    const auto product = [&] { return sum(linear(x, hidden, {})); };
    const auto square_sum = [&] { return sum(hidden * hidden); };
    backward(linear_first ? product() + square_sum() : square_sum() + product());
    EXPECT_EQ(grad_of(w), (Values{10, 10, 10, 10}));  // 2 (3 + 2)
  }
}

TEST(Autograd, UnwantedGradientsAreNotComputed) {
  const Variable x = leaf({1}, false), w = leaf({2});
  // An image needs no gradient, so a first convolution does not compute it.
  const Variable image(hashed("image", {1, 5, 5, 3}));
  const Variable weight(hashed("weight", {4, 3, 3, 3}), true);
  const Variable y = conv2d(image, weight, {});
  const TensorList gradients = y.node()->backward(Tensor::full(y.shape(), 1.0, DType::f64));
  EXPECT_FALSE(gradients[0].defined());
  EXPECT_TRUE(gradients[1].defined());
  const TensorList product = (x * w).node()->backward(Tensor::from({1.0}));
  EXPECT_FALSE(product[0].defined());
  EXPECT_TRUE(product[1].defined());
}

TEST(Autograd, ClosuresAreFreedAsTheyArePassed) {
  const auto kept = std::make_shared<int>(0);
  const Variable x = leaf({1});
  const Variable y = Variable::result("keeper", x.value().clone(), {x},
                                      [kept](const Tensor& dy) -> TensorList { return {dy}; });
  EXPECT_EQ(kept.use_count(), 2);
  backward(y);
  EXPECT_EQ(kept.use_count(), 1);
}

TEST(Autograd, DeepGraphsNeedNoDeepStack) {
  constexpr int kDepth = 100000;
  const Variable x = leaf({1});
  {
    Variable y = x;
    for (int i = 0; i < kDepth; ++i) y = affine(1.0, y, 0.0);
    backward(y);
    EXPECT_EQ(grad_of(x), (Values{1}));
  }
  {
    Variable y = x;  // dropped without a backward
    for (int i = 0; i < kDepth; ++i) y = affine(1.0, y, 0.0);
  }
  {
    const auto same = [](const VariableList& in) { return affine(1.0, in[0], 0.0); };
    Variable y = x;
    for (int i = 0; i < kDepth; ++i) y = checkpoint(same, {y});
  }
}

TEST(Autograd, WideGraphsAddInAFixedOrder) {
  const Variable x = leaf({0.1, 0.7});
  const auto run = [&] {
    Variable leaf_again = x;
    leaf_again.clear_grad();
    Variable total = x;
    for (int i = 0; i < 1000; ++i) total = total + affine(1.0 / (i + 3), x);
    backward(sum(total));
    return x.grad().clone();
  };
  EXPECT_TRUE(same_bits(run(), run()));
}

TEST(Autograd, CompositionPassesTheGradientCheck) {
  const Variable x(hashed("x", {5, 7}), true), w(hashed("w", {4, 7}), true),
      b(hashed("b", {4}), true);
  const Tensor labels = Tensor::from({int64_t{0}, int64_t{3}, int64_t{1}, int64_t{-1}, int64_t{2}});
  const auto loss = [&] {
    const Variable hidden = l2_normalize(gelu(linear(x, w, b)));
    return cross_entropy(matmul(hidden, hidden, false, true), labels, 0.1) + mean(square(hidden));
  };
  EXPECT_EQ(gradcheck(loss, {x, w, b}), "");
}

// ---- checkpoint

// A block with batch norm: statistics, parameters that the body captures, and an input used twice.
struct Block {
  Variable weight{hashed("weight", {3, 3, 3, 3}), true};
  Variable gamma{Tensor::full({3}, 1.25, DType::f64), true};
  Variable beta{Tensor::full({3}, 0.125, DType::f64), true};
  Tensor mean = Tensor::zeros({3}, DType::f64), var = Tensor::full({3}, 1.0, DType::f64);
  int runs = 0;

  Variable operator()(const Variable& x) {
    ++runs;
    return batch_norm(conv2d(x, weight, {.padding = 1}), gamma, beta, mean, var, true,
                      {.relu = true}, x);
  }
};

struct BlockResult {
  TensorList tensors;  // output, gradients, running statistics
  int runs;
};

BlockResult run_block(bool use_checkpoint, DType dtype) {
  Block block;
  for (Variable* p : {&block.weight, &block.gamma, &block.beta})
    p->value() = p->value().cast(p == &block.weight ? dtype : acc_dtype(dtype));
  for (Tensor* t : {&block.mean, &block.var}) *t = t->cast(acc_dtype(dtype));
  const Variable x(hashed("x", {2, 6, 5, 3}).cast(dtype), true);
  const Variable before = affine(1.5, x);  // so that the input is not a leaf
  Variable y;
  if (use_checkpoint)
    y = checkpoint([&block](const VariableList& in) { return block(in[0]); }, {before});
  else
    y = block(before);
  const Tensor seed = hashed("seed", y.shape()).cast(dtype);
  backward(affine(2.0, y), seed);
  EXPECT_FALSE(recomputing());
  return {{y.value(), x.grad(), block.weight.grad(), block.gamma.grad(), block.beta.grad(),
           block.mean, block.var},
          block.runs};
}

TEST(Checkpoint, EqualsThePlainRunBitForBit) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    const BlockResult plain = run_block(false, dtype), again = run_block(true, dtype);
    EXPECT_EQ(plain.runs, 1);
    EXPECT_EQ(again.runs, 2);
    for (size_t i = 0; i < plain.tensors.size(); ++i)
      EXPECT_TRUE(same_bits(plain.tensors[i], again.tensors[i])) << "tensor " << i;
  }
}

TEST(Checkpoint, WorksInBf16) {
  const BlockResult plain = run_block(false, DType::bf16), again = run_block(true, DType::bf16);
  EXPECT_TRUE(same_bits(plain.tensors[0], again.tensors[0]));
  // The input's two gradients are added in f32 by one and in bf16 by the other.
  const auto a = plain.tensors[1].to_vector<double>(), b = again.tensors[1].to_vector<double>();
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 0.02 * (1 + std::fabs(a[i])));
}

TEST(Checkpoint, NestsAndLeavesFrozenInputsAlone) {
  const Variable x = leaf({1, 2}), frozen = leaf({3, 4}, false);
  const auto inner = [](const VariableList& in) { return in[0] * in[0] * in[1]; };
  const auto outer = [&](const VariableList& in) {
    return in[0] + checkpoint(inner, {in[0], in[1]});
  };
  backward(sum(checkpoint(outer, {x, frozen})));
  EXPECT_EQ(grad_of(x), (Values{7, 17}));  // 1 + 2 x frozen
  EXPECT_FALSE(frozen.grad().defined());
}

TEST(Checkpoint, ParametersInsideGetGradientsWhenNoInputNeedsOne) {
  const Variable w = leaf({2}), x = leaf({3}, false);
  backward(sum(checkpoint([&](const VariableList& in) { return in[0] * w; }, {x})));
  EXPECT_EQ(grad_of(w), (Values{3}));
}

TEST(Checkpoint, RecordsNothingWithoutGradients) {
  const Variable x = leaf({3});
  const NoGrad no_recording;
  EXPECT_FALSE(checkpoint([](const VariableList& in) { return in[0] * in[0]; }, {x}).needs_grad());
}

TEST(Checkpoint, AnErrorInTheSecondRunLeavesNoTrace) {
  const Variable x = leaf({3});
  const Variable y = checkpoint(
      [](const VariableList& in) {
        FACET_CHECK(!recomputing(), "body", "refuses to run twice");
        return in[0] * in[0];
      },
      {x});
  EXPECT_THROW(backward(sum(y)), Error);
  EXPECT_FALSE(recomputing());
  EXPECT_TRUE(grad_enabled());
}

}  // namespace
}  // namespace facet::test
