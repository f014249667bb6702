// NT-Xent and cross entropy against the official codes' values; properties of the loss.
#include "ssl/simclr.h"

#include <gtest/gtest.h>

#include <cmath>

#include "nn/init.h"
#include "tests/fill.h"
#include "tests/gradcheck.h"

namespace facet {
namespace {

using namespace test;

TEST(NtXent, Golden) {
  for (const Setting& at : settings()) {
    const Variable h(at(wave({8, 8}, .5)), true);
    const Variable loss = nt_xent(h, .1), twice = affine(2.0, loss);
    at.near(loss.value(), {8.85395496414}, 1e-10);
    at.near(twice.value(), {17.7079099283}, 1e-9);
    at.near(affine(2.0, nt_xent(h, .5)).value(), {5.74237638405}, 1e-10);
    backward(twice);
    at.near(h.grad(), {-.7858111959, -1.328752553, -.3829030276, -.4134862682}, 1e-9);
    at.orthogonal(h);
  }
}

TEST(NtXent, CollapseAndPerfectAlignment) {
  const Tensor same = ops::add(Tensor::zeros({8, 5}, DType::f64), hashed("v", {5}));
  EXPECT_NEAR(nt_xent(Variable(same), .1).item(), std::log(7.0), 1e-12);
  // Views equal, images orthogonal: ln(1 + (2N - 2) e^(-1/T)).
  Tensor eye = Tensor::zeros({8, 4}, DType::f64);
  for (int i = 0; i < 8; ++i) eye.data<double>()[i * 4 + i % 4] = 1.0;
  EXPECT_NEAR(nt_xent(Variable(eye), .1).item(), std::log1p(6 * std::exp(-10.0)), 1e-12);
}

TEST(NtXent, Invariances) {
  const Tensor h = hashed("h", {8, 6});
  const double loss = nt_xent(Variable(h), .2).item();
  // swapping the views
  const Tensor swapped = ops::gather_rows(h, Tensor::from<int64_t>({4, 5, 6, 7, 0, 1, 2, 3}));
  EXPECT_NEAR(nt_xent(Variable(swapped), .2).item(), loss, 1e-12);
  // two equal images in the batch make it harder
  const Tensor twins = ops::gather_rows(h, Tensor::from<int64_t>({0, 0, 2, 3, 4, 4, 6, 7}));
  EXPECT_GT(nt_xent(Variable(twins), .2).item(), loss);
}

TEST(NtXent, PermutingImagesPermutesTheGradient) {
  const Tensor h = hashed("h", {8, 6});
  const Tensor order = Tensor::from<int64_t>({2, 0, 3, 1, 6, 4, 7, 5});  // the same in both views
  const Variable a(h, true), b(ops::gather_rows(h, order), true);
  backward(nt_xent(a, .2));
  backward(nt_xent(b, .2));
  expect_near(b.grad(), values(ops::gather_rows(a.grad(), order)), 1e-13);
}

TEST(NtXent, PassesTheGradientCheck) {
  for (const int64_t n : {2, 5}) {
    const Variable h(hashed("h", {2 * n, 4}), true);
    EXPECT_EQ(gradcheck([&] { return nt_xent(h, .3); }, {h}), "");
  }
}

TEST(NtXent, Bf16EmbeddingsAreComparedInF32) {
  const Tensor rounded = hashed("h", {8, 6}).cast(DType::bf16);
  const Variable h(rounded, true);
  const Variable loss = nt_xent(h, .1);
  EXPECT_EQ(loss.dtype(), DType::f32);
  EXPECT_NEAR(loss.item(), nt_xent(Variable(rounded.cast(DType::f64)), .1).item(), 1e-5);
  backward(loss);
  EXPECT_GT(std::fabs(h.grad().to_vector<double>()[0]), 0);
}

TEST(EmbeddingSpread, HealthyCollapsedAndInBetween) {
  const auto spread = [](const Tensor& h) {
    const auto metrics = embedding_spread(h);
    return std::pair(metrics[0].value, metrics[1].value);
  };
  const auto healthy = spread(ops::random_normal({2000, 16}, RandomKey{1, 1}));
  EXPECT_NEAR(healthy.first, 1 / std::sqrt(16.0), .005);
  EXPECT_NEAR(healthy.second, 16, .2);
  const Tensor row = hashed("v", {16}).cast(DType::f32);
  const auto collapsed =
      spread(ops::mul(ops::random_uniform({64, 1}, RandomKey{1, 2}, .1, 2), row));
  EXPECT_LT(collapsed.first, 1e-6);
  EXPECT_EQ(collapsed.second, 0);  // rounding is not taken for rank
  // Three directions only; more dimensions than rows.
  const auto flat = spread(ops::matmul(ops::random_normal({500, 3}, RandomKey{1, 3}),
                                       ops::random_normal({3, 600}, RandomKey{1, 4})));
  EXPECT_GT(flat.second, 2.5);
  EXPECT_LT(flat.second, 3.001);
}

TEST(NtXent, BadInput) {
  EXPECT_THROW(nt_xent(Variable(hashed("h", {7, 6})), .2), Error);
  EXPECT_THROW(nt_xent(Variable(hashed("h", {8, 6})), 0), Error);
}

TEST(CrossEntropy, LabelSmoothingGolden) {
  const Tensor labels = Tensor::from<int64_t>({1, 3});
  for (const Setting& at : settings())
    at.near(cross_entropy(Variable(at(wave({2, 5}, .5))), at(labels), .1).value(), {1.52057305895},
            1e-10);
}

TEST(Simclr, LeavesItsCollapseValue) {
  Simclr simclr(small_resnet(), {.temperature = .5, .projection_dim = 16});
  initialize(simclr, 1);
  EXPECT_NEAR(simclr.collapse_loss(8), std::log(15.0), 1e-12);
  // Both views alike: a handful of steps separates eight images.
  Batch batch = hashed_batch(8, {8, 8}, 0);
  batch.views[1] = batch.views[0];
  Optimizer optimizer({.algorithm = Algorithm::sgd}, simclr.groups(0));
  double first = 0, last = 0;
  for (int64_t step = 0; step < 20; ++step) {
    last = simclr.train_step(batch, optimizer, .05, step);
    if (step == 0) first = last;
  }
  EXPECT_LT(last, first);
  EXPECT_LT(last, simclr.collapse_loss(8) - .3);
  EXPECT_GT(simclr.metrics()[0].value, .05);  // embeddings are spread
}

TEST(Simclr, OfficialHeadHasNoLastOffset) {
  Simclr simclr(small_resnet(), {});
  bool has_scale = false;
  for (const NamedParameter& p : parameters(simclr)) {
    EXPECT_NE(p.name, "head.bn1.bias");
    EXPECT_NE(p.name, "head.layer0.bias");
    has_scale |= p.name == "head.bn1.weight";
  }
  EXPECT_TRUE(has_scale);
}

TEST(Simclr, NonFiniteLossStopsBeforeTheWeightsMove) {
  Simclr simclr(small_resnet(), {});
  initialize(simclr, 1);
  Batch batch = hashed_batch(4, {8, 8}, 0);
  batch.views[0].data<float>()[7] = std::numeric_limits<float>::quiet_NaN();
  Optimizer optimizer({}, simclr.groups(0));
  std::vector<std::vector<float>> before;
  for (const NamedParameter& p : parameters(simclr))
    before.push_back(p.value.value().to_vector<float>());
  EXPECT_THROW(simclr.train_step(batch, optimizer, .1, 0), NonFiniteError);
  size_t i = 0;
  for (const NamedParameter& p : parameters(simclr))
    EXPECT_EQ(p.value.value().to_vector<float>(), before[i++]);
}

}  // namespace
}  // namespace facet
