// SwAV against the official code's values, and what must hold for its assignments, prototypes and
// queue.
#include "ssl/swav.h"

#include <gtest/gtest.h>

#include <cmath>

#include "nn/init.h"
#include "tests/fill.h"
#include "tests/gradcheck.h"

namespace facet {
namespace {

using namespace test;

struct Golden {
  Setting at{{}, DType::f64};
  Tensor order = Tensor::from<int64_t>({0, 1, 2, 3, 4});  // of the prototypes
  Variable raw{at(wave({18, 8}, .5)), true};
  Variable prototypes{
      ops::gather_rows(ops::l2_normalize(at(wave({5, 8}, 1.5))).y, order.to(at.device)), true};
  Variable scores = linear(l2_normalize(raw), prototypes, {});
  TensorList assignments = {sinkhorn(scores.value().narrow(0, 6), .05, 3),
                            sinkhorn(scores.value().narrow(6, 6), .05, 3)};
};

TEST(Sinkhorn, Golden) {
  for (const Setting& at : settings()) {
    const Golden g{at};
    const Tensor& q = g.assignments[0];
    at.near(q, {.9999625632, 7.361936e-6, 2.997834e-5, 9.65e-8, 9.08e-15}, 5e-10);
    at.near(q.narrow(5, 1), {5.638047258e-4, 2.25e-9, .998952717, 2.062e-5, 4.628546908e-4},
            5e-9);  // as many digits as are known
    const Tensor mass = ops::affine(5.0 / 6.0, ops::reduce(ReduceOp::sum, q, 0), 0.0);
    at.near(mass, {.8344818864, .8333150365, 1.665722153, .8330844956, .8333964283}, 1e-9);
  }
}

TEST(Sinkhorn, Properties) {
  const Tensor scores = hashed("scores", {12, 5});
  const auto rows = [](const Tensor& q) { return values(ops::reduce(ReduceOp::sum, q, 1)); };
  for (const int iterations : {1, 3, 2000}) {
    const Tensor q = sinkhorn(scores, .05, iterations);
    for (const double v : rows(q)) EXPECT_NEAR(v, 1, 1e-12) << iterations;
    if (iterations < 2000) continue;
    for (const double v : values(ops::reduce(ReduceOp::sum, q, 0)))
      EXPECT_NEAR(v, 12.0 / 5.0, 1e-9);
  }
  const auto plain = values(sinkhorn(scores, .05, 3));
  expect_near(sinkhorn(ops::affine(1.0, scores, 7.0), .05, 3), plain, 1e-9);
  // Permuting samples permutes the assignments.
  std::vector<int64_t> order;
  for (int64_t i = 0; i < 12; ++i) order.push_back(i * 5 % 12);
  const Tensor index = Tensor::from(order, {12});
  expect_near(sinkhorn(ops::gather_rows(scores, index), .05, 3),
              values(ops::gather_rows(sinkhorn(scores, .05, 3), index)), 1e-12);
  // Equal scores: 1 / K. The most different ones there are stay finite in f32.
  for (const double v : values(sinkhorn(Tensor::zeros({4, 5}), .05, 3))) EXPECT_NEAR(v, .2, 1e-6);
  const Tensor far = Tensor::from<float>({1, -1, -1, 1, -1, -1, -1, -1, 1}).reshape({3, 3});
  for (const double v : rows(sinkhorn(far, .03, 3))) EXPECT_NEAR(v, 1, 1e-6);
}

TEST(Sinkhorn, RanksAssignAsOne) {
  const Tensor scores = hashed("scores", {12, 5});
  const Tensor one = sinkhorn(scores, .05, 3);
  run_ranks(3, [&](Comm& comm) {
    const Tensor mine = sinkhorn(scores.narrow(comm.rank() * 4, 4), .05, 3, comm);
    expect_near(mine, values(one.narrow(comm.rank() * 4, 4)), 1e-12);
  });
}

TEST(SwappedPrediction, Golden) {
  for (const Setting& at : settings()) {
    const Golden g{at}, permuted{at, Tensor::from<int64_t>({3, 1, 4, 0, 2})};
    const Variable loss = swapped_prediction(g.scores, g.assignments, .1);
    at.near(loss.value(), {5.24504319664}, 1e-9);
    backward(loss);
    at.near(g.raw.grad(), {-.01622959725, .06514665302, .1031933938, -.05621942687}, 1e-9);
    at.near(g.prototypes.grad(), {-.04833392784, .2687666344, .2614498002, .6226531434}, 1e-8);
    at.orthogonal(g.raw);
    // Other numbers for the prototypes.
    at.near(swapped_prediction(permuted.scores, permuted.assignments, .1).value(), {5.24504319664},
            1e-9);
    at.near(permuted.assignments[0].narrow(0, 1), {9.65e-8, 7.361936e-6, 9.08e-15, .9999625632},
            5e-10);
  }
}

TEST(SwappedPrediction, PassesTheGradientCheckAndKnowsItsCollapseValue) {
  const Variable scores(hashed("scores", {12, 5}), true);
  const TensorList targets = {sinkhorn(hashed("t0", {4, 5}), .05, 3),
                              sinkhorn(hashed("t1", {4, 5}), .05, 3)};
  EXPECT_EQ(gradcheck([&] { return swapped_prediction(scores, targets, .1); }, {scores}), "");
  const Variable equal(Tensor::zeros({12, 5}, DType::f64));
  EXPECT_NEAR(swapped_prediction(equal, targets, .1).item(), std::log(5.0), 1e-12);
  EXPECT_THROW(swapped_prediction(scores, {hashed("t", {5, 5})}, .1), Error);
}

std::unique_ptr<Swav> make_swav(const SwavOptions& options) {
  auto swav = std::make_unique<Swav>(small_resnet(), options);
  initialize(*swav, 2);
  swav->begin(2);
  return swav;
}
Batch crops(int64_t n, int64_t step = 0) {
  return hashed_batch(n, {12, 12, 8, 8}, step);
}
const SwavOptions kSmall = {.prototypes = 6, .projection_dim = 8, .freeze_steps = 2};

TEST(Swav, PrototypesStayUnitRowsAndFreeze) {
  const auto swav = make_swav(kSmall);
  Optimizer optimizer({}, swav->groups(1e-2));
  const Tensor prototypes = tensor_of(*swav, "prototypes.weight");
  auto before = values(prototypes);
  for (int64_t step = 0; step < 4; ++step) {
    const double loss = swav->train_step(crops(4), optimizer, .1, step, 0);
    EXPECT_TRUE(std::isfinite(loss));
    // Frozen ones change by nothing but rounding: no decay, no momentum.
    double moved = 0;
    const auto now = values(prototypes);
    for (size_t i = 0; i < now.size(); ++i) moved = std::max(moved, std::fabs(now[i] - before[i]));
    if (step < 2) {
      EXPECT_LT(moved, 1e-6) << step;
      for (const double norm : values(ops::l2_normalize(prototypes).norm))
        EXPECT_NEAR(norm, 1, 1e-6);
    } else {
      EXPECT_GT(moved, 1e-4) << step;
    }
    before = now;
  }
}

TEST(Swav, TheQueueIsUsedWhenItIsFull) {
  SwavOptions options = kSmall;
  options.queue = 8;
  options.queue_from = 1;
  const auto with = make_swav(options), without = make_swav(kSmall);
  Optimizer a({}, with->groups(0)), b({}, without->groups(0));
  std::vector<double> difference;
  for (int64_t step = 0; step < 5; ++step) {
    const double x = with->train_step(crops(4, step), a, .05, step, 0);
    const double y = without->train_step(crops(4, step), b, .05, step, 0);
    difference.push_back(std::fabs(x - y));
  }
  // Filled by steps 1 and 2, so it tells from step 3 on.
  EXPECT_EQ(difference[0], 0);
  EXPECT_EQ(difference[1], 0);
  EXPECT_EQ(difference[2], 0);
  EXPECT_GT(difference[3], 0);
  EXPECT_EQ(tensor_of(*with, "queue_rows").item(), 8);
  for (const double norm : values(ops::l2_normalize(tensor_of(*with, "queue")).norm))
    EXPECT_NEAR(norm, 1, 1e-5);
}

TEST(Swav, LeavesItsCollapseValue) {
  const auto swav = make_swav(kSmall);
  EXPECT_NEAR(swav->collapse_loss(4), std::log(6.0), 1e-12);
  Optimizer optimizer({}, swav->groups(0));
  Batch batch = crops(8);
  for (size_t v = 1; v < 4; ++v) batch.views[v] = batch.views[0];
  double last = 0;
  for (int64_t step = 0; step < 30; ++step) last = swav->train_step(batch, optimizer, .1, step, 0);
  EXPECT_LT(last, swav->collapse_loss(8) - .3);
}

TEST(Swav, BadSizesAreRefused) {
  SwavOptions options = kSmall;
  options.queue = 10;
  const auto swav = make_swav(options);
  EXPECT_THROW(swav->check_batch(4), UsageError);
  EXPECT_NO_THROW(swav->check_batch(5));
  EXPECT_THROW(make_swav({.prototypes = 1}), UsageError);
}

}  // namespace
}  // namespace facet
