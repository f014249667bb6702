// SupCon, InfoNCE, MoCo v2 and CE + SelfSupCon against the official codes' values, and what must
// hold for all of them; losses and gradients are the same on one rank and on several.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <mutex>

#include "nn/init.h"
#include "ssl/moco.h"
#include "ssl/supcon.h"
#include "ssl/swav.h"
#include "tests/fill.h"
#include "tests/folder.h"
#include "tests/gradcheck.h"

namespace facet {
namespace {

using namespace test;

// ---- SupCon

// wave((4, 2, 8), .5) holds the two views of a sample side by side; the loss takes them view-major.
Tensor view_major(const Tensor& f) {
  return ops::permute(f, {1, 0, 2}).reshape({f.dim(0) * f.dim(1), f.dim(2)});
}
const Tensor& labels() {
  static const Tensor all = Tensor::from<int64_t>({0, 1, 0, 2});
  return all;
}
Tensor supcon_rows() {
  return view_major(wave({4, 2, 8}, .5));
}

TEST(Supcon, Golden) {
  for (const Setting& at : settings()) {
    const Variable h(at(supcon_rows()), true);
    const auto expect = [&](const Tensor& y, const SupconOptions& options, double want) {
      const Variable loss = supcon(h, at(y), options);
      at.near(loss.value(), {want}, 1e-9);
      return loss;
    };
    SupconOptions paper{.temperature = .1, .base_temperature = .1};
    backward(expect(labels(), paper, 5.58943185083));
    at.near(h.grad(), {-.06181633853, -.3106306034, .01811717861, -.2279981496}, 1e-9);
    at.orthogonal(h);
    expect(labels(), {.temperature = .1}, 7.98490264404);
    // Labels that are all different: SimCLR.
    expect(Tensor::from<int64_t>({0, 1, 2, 3}), paper, 4.22712430472);
    at.near(nt_xent(h, .1).value(), {4.22712430472}, 1e-9);
    paper.first_view_only = true;
    expect(labels(), paper, 4.94646344513);
  }
}

TEST(Supcon, CollapseAndAnchorsWithoutPositives) {
  const Variable same(ops::add(Tensor::zeros({8, 5}, DType::f64), hashed("v", {5})));
  EXPECT_NEAR(supcon(same, labels(), {.temperature = .1}).item(), .1 / .07 * std::log(7.0), 1e-12);
  // One view a sample and all labels different: no anchor has a positive.
  EXPECT_EQ(supcon(Variable(hashed("h", {4, 5})), Tensor::from<int64_t>({0, 1, 2, 3}), {}).item(),
            0);
}

TEST(Supcon, PassesTheGradientCheck) {
  const Variable h(hashed("h", {8, 4}), true);
  EXPECT_EQ(gradcheck([&] { return supcon(h, labels(), {.temperature = .3}); }, {h}), "");
}

TEST(Supcon, BadInput) {
  EXPECT_THROW(supcon(Variable(hashed("h", {7, 4})), labels(), {}), Error);
  EXPECT_THROW(supcon(Variable(hashed("h", {8, 4})), labels(), {.temperature = 0}), Error);
}

// ---- InfoNCE

struct Queries {
  Setting at{{}, DType::f64};
  Variable raw{at(wave({4, 8}, .5)), true};
  Tensor k = ops::l2_normalize(at(wave({4, 8}, 1.5))).y;
  // The official queue has keys in columns.
  Tensor queue = ops::l2_normalize(at(ops::transpose(wave({8, 16}, 2.5)))).y;

  Variable loss(double temperature) const {
    return info_nce(l2_normalize(raw), k, queue, temperature);
  }
};

TEST(InfoNce, Golden) {
  for (const Setting& at : settings()) {
    const Queries in{at};
    const Variable loss = in.loss(.2), v1 = in.loss(.07);
    at.near(loss.value(), {1.5058034544}, 1e-9);
    backward(loss);
    at.near(in.raw.grad(), {-.2271944665, -.04434128619, -.002017025318, .006121557782}, 1e-9);
    at.orthogonal(in.raw);
    at.near(v1.value(), {1.77570608939}, 1e-9);
    // CE + SelfSupCon: cross entropy of the labels plus half of it.
    const Variable ce =
        cross_entropy(Variable(at(wave({4, 3}, .5))), at(Tensor::from<int64_t>({0, 2, 1, 0})));
    at.near(ce.value(), {1.30225801437}, 1e-9);
    at.near((ce + affine(.5, v1)).value(), {2.19011105907}, 1e-9);
  }
}

TEST(InfoNce, PerfectAlignmentAndGradients) {
  // q = k, and a queue orthogonal to both: ln(1 + K e^(-1/T)).
  Tensor eye = Tensor::zeros({2, 6}, DType::f64);
  eye.data<double>()[0] = eye.data<double>()[7] = 1;
  Tensor queue = Tensor::zeros({4, 6}, DType::f64);
  for (int i = 0; i < 4; ++i) queue.data<double>()[i * 6 + 2 + i] = 1;
  EXPECT_NEAR(info_nce(Variable(eye), eye, queue, .2).item(), std::log1p(4 * std::exp(-5.0)),
              1e-12);
  const Queries in;
  EXPECT_EQ(gradcheck([&] { return in.loss(.2); }, {in.raw}), "");
}

// ---- several ranks

// Losses (mean over ranks) and gradients of rows that ranks hold parts of.
struct RankResult {
  double loss = 0;
  std::vector<double> gradient;
};
// Of a rank's rows, the first of which is that sample of all.
using RankLoss = std::function<Variable(const Variable& rows, int64_t first, Comm& comm)>;
RankResult on_ranks(int ranks, const Tensor& rows, int64_t views, const RankLoss& loss) {
  const int64_t n = rows.dim(0) / views, part = n / ranks;
  RankResult result;
  result.gradient.resize(static_cast<size_t>(rows.numel()));
  std::mutex mutex;
  run_ranks(ranks, [&](Comm& comm) {
    TensorList mine;
    for (int64_t v = 0; v < views; ++v)
      mine.push_back(rows.narrow(v * n + comm.rank() * part, part));
    const Variable h(ops::concat(mine), true);
    const Variable value = loss(h, comm.rank() * part, comm);
    backward(value);
    const std::lock_guard lock(mutex);
    result.loss += value.item() / ranks;
    const std::vector<double> g = values(h.grad());
    for (int64_t v = 0; v < views; ++v)
      for (int64_t i = 0; i < part * rows.dim(1); ++i)
        result.gradient[static_cast<size_t>((v * n + comm.rank() * part) * rows.dim(1) + i)] =
            g[static_cast<size_t>(v * part * rows.dim(1) + i)] / ranks;
  });
  return result;
}

TEST(Ranks, LossesAndGradientsAreThoseOfOne) {
  const Tensor rows = hashed("rows", {16, 6});
  const Tensor classes = Tensor::from<int64_t>({0, 1, 0, 2, 2, 1, 0, 3});
  const auto simclr = [](const Variable& h, int64_t, Comm& comm) { return nt_xent(h, .2, comm); };
  const auto labelled = [&](const Variable& h, int64_t first, Comm& comm) {
    return supcon(h, classes.narrow(first, h.dim(0) / 2), {.temperature = .2}, comm);
  };
  const Variable prototypes(ops::l2_normalize(hashed("prototypes", {5, 6})).y);
  const auto swav = [&](const Variable& h, int64_t, Comm& comm) {
    const Variable scores = linear(l2_normalize(h), prototypes, {});
    TensorList assignments;
    for (int64_t view = 0, n = h.dim(0) / 2; view < 2; ++view)
      assignments.push_back(sinkhorn(scores.value().narrow(view * n, n), .05, 3, comm));
    return swapped_prediction(scores, assignments, .1);
  };
  for (const RankLoss& loss : {RankLoss(simclr), RankLoss(labelled), RankLoss(swav)}) {
    const RankResult one = on_ranks(1, rows, 2, loss);
    for (const int ranks : {2, 4}) {
      const RankResult several = on_ranks(ranks, rows, 2, loss);
      EXPECT_NEAR(several.loss, one.loss, 1e-12);
      expect_near(several.gradient, one.gradient, 1e-12);
    }
  }
}

TEST(Ranks, AnErrorOfOneStopsAll) {
  const auto body = [](Comm& comm) {
    if (comm.rank() == 1) throw UsageError("rank 1 cannot");
    comm.barrier();
    comm.barrier();
  };
  EXPECT_EQ(error_of<UsageError>([&] { run_ranks(3, body); }), "rank 1 cannot");
}

TEST(Ranks, SumsGathersAndBroadcasts) {
  run_ranks(3, [](Comm& comm) {
    Tensor x = Tensor::full({2}, comm.rank() + 1.0);
    comm.all_reduce(x);
    EXPECT_EQ(values(x), (std::vector<double>{6, 6}));
    const Tensor all = comm.all_gather(Tensor::from<int64_t>({comm.rank()}));
    EXPECT_EQ(values(all), (std::vector<double>{0, 1, 2}));
    Tensor y = Tensor::full({1}, comm.rank());
    comm.broadcast(y, 2);
    EXPECT_EQ(y.item(), 2);
  });
}

// ---- split batch norm

TEST(SplitNorm, EachPartHasItsOwnStatistics) {
  constexpr int kSplits = 3;
  const Variable x(hashed("x", {6, 2, 2, 5}), true), shortcut(hashed("s", {6, 2, 2, 5}), true);
  BatchNorm norm(5, true);
  fill(norm);
  norm.set_splits(kSplits);
  const Tensor mean_before = norm.running_mean.clone(), var_before = norm.running_var.clone();
  const Variable y = norm(x, shortcut);
  backward(sum(y * y));
  const auto got = values(y.value()), got_dx = values(x.grad()),
             got_dw = values(norm.weight.grad());
  const auto got_mean = values(norm.running_mean), got_var = values(norm.running_var);
  std::vector<double> want_y, want_dx, want_dw(5), want_mean(5), want_var(5);
  for (int64_t split = 0; split < kSplits; ++split) {
    BatchNorm alone(5, true);
    fill(alone);
    const Variable part(x.value().narrow(2 * split, 2).clone(), true);
    const Variable out = alone(part, Variable(shortcut.value().narrow(2 * split, 2)));
    backward(sum(out * out));
    for (const double v : values(out.value())) want_y.push_back(v);
    for (const double v : values(part.grad())) want_dx.push_back(v);
    for (size_t c = 0; c < 5; ++c) {
      want_dw[c] += values(alone.weight.grad())[c];
      want_mean[c] += values(alone.running_mean)[c] / kSplits;
      want_var[c] += values(alone.running_var)[c] / kSplits;
    }
  }
  expect_near(got, want_y, 1e-12);
  expect_near(got_dx, want_dx, 1e-11);
  expect_near(got_dw, want_dw, 1e-11);
  expect_near(got_mean, want_mean, 1e-12);
  expect_near(got_var, want_var, 1e-12);
  EXPECT_THROW(norm(Variable(hashed("x", {5, 2, 2, 5}))), Error);
}

TEST(SplitNorm, PassesTheGradientCheck) {
  const Variable x(hashed("x", {4, 2, 1, 3}), true);
  BatchNorm norm(3);
  fill(norm);
  norm.set_splits(2);
  set_update_running(norm, false);
  EXPECT_EQ(gradcheck([&] { return norm(x); }, {x, norm.weight, norm.bias}), "");
}

// ---- batch norm over ranks

TEST(NormOverRanks, IsThatOfOneRank) {
  const Tensor rows = hashed("x", {8, 2, 2, 5}), residuals = hashed("s", {8, 2, 2, 5});
  for (const bool relu : {false, true}) {
    const auto on = [&](int ranks) {
      std::vector<std::vector<double>> result(7);
      std::mutex mutex;
      run_ranks(ranks, [&](Comm& comm) {
        BatchNorm norm(5, relu);
        fill(norm);
        norm.set_comm(comm);
        const int64_t n = 8 / comm.size();
        const auto part = [&](const Tensor& t) { return t.narrow(comm.rank() * n, n).clone(); };
        const Variable x(part(rows), true), shortcut(part(residuals), true);
        const Variable y = norm(x, shortcut);
        backward(sum(y * y * y));
        TensorList whole = {norm.weight.grad(), norm.bias.grad()};
        comm.all_reduce(std::span(whole));
        const TensorList all = {comm.all_gather(y.value()),
                                comm.all_gather(x.grad()),
                                comm.all_gather(shortcut.grad()),
                                whole[0],
                                whole[1],
                                norm.running_mean,
                                norm.running_var};
        const std::lock_guard lock(mutex);
        for (size_t i = 0; i < all.size(); ++i) result[i] = values(all[i]);
      });
      return result;
    };
    const auto one = on(1);
    for (const int ranks : {2, 4}) {
      const auto several = on(ranks);
      for (size_t i = 0; i < one.size(); ++i) expect_near(several[i], one[i], 1e-12);
    }
  }
}

// ---- MoCo

Batch views(int64_t n, int64_t step = 0) {
  return hashed_batch(n, {8, 8}, step);
}
std::unique_ptr<Moco> make_moco(const MocoOptions& options) {
  auto moco = std::make_unique<Moco>(small_resnet(), small_resnet(), options);
  initialize(*moco, 3);
  moco->begin(3);
  return moco;
}
const MocoOptions kSmallMoco = {.queue = 12, .projection_dim = 8, .splits = 2};

TEST(Moco, TheQueueHoldsTheLastKeysInOrder) {
  const auto moco = make_moco(kSmallMoco);
  Optimizer optimizer({}, moco->groups(0));
  const Tensor queue = tensor_of(*moco, "queue");
  for (const double norm : values(ops::l2_normalize(queue).norm)) EXPECT_NEAR(norm, 1, 1e-6);
  std::vector<std::vector<float>> blocks;  // the queue's newest block after each step
  for (int64_t step = 0; step < 5; ++step) {
    moco->train_step(views(4, step), optimizer, .01, step);
    const int64_t at = step % 3 * 4;
    blocks.push_back(queue.narrow(at, 4).to_vector<float>());
    for (const double norm : values(ops::l2_normalize(queue).norm)) EXPECT_NEAR(norm, 1, 1e-6);
  }
  // After five batches of 4 in a queue of 12: batches 3, 4, 2 from row 0 on.
  EXPECT_EQ(queue.narrow(0, 4).to_vector<float>(), blocks[3]);
  EXPECT_EQ(queue.narrow(4, 4).to_vector<float>(), blocks[4]);
  EXPECT_EQ(queue.narrow(8, 4).to_vector<float>(), blocks[2]);
  EXPECT_NE(blocks[0], blocks[3]);
  EXPECT_EQ(tensor_of(*moco, "queue_pointer").item(), 8);
}

TEST(Moco, TheKeyNetworkFollowsAndGetsNoGradient) {
  MocoOptions options = kSmallMoco;
  options.momentum = .9;
  const auto moco = make_moco(options);
  const Tensor query = tensor_of(*moco, "encoder.conv1.weight");
  const Tensor key = tensor_of(*moco, "key_encoder.conv1.weight");
  EXPECT_EQ(query.to_vector<float>(), key.to_vector<float>());
  // With a learning rate of 0 the query stands still: key_n = m^n key_0 + (1 - m^n) query.
  Tensor moved = ops::affine(1.0, key, 0.5);
  const_cast<Tensor&>(key).copy_(moved);
  Optimizer optimizer({}, moco->groups(0));
  for (int64_t step = 0; step < 6; ++step) moco->train_step(views(4), optimizer, 0, step);
  const double rest = std::pow(.9, 6) * .5;
  const auto got = values(key), want = values(ops::affine(1.0, query, rest));
  expect_near(got, want, 1e-6);
  for (const NamedParameter& p : parameters(*moco))
    if (p.name.starts_with("key_")) {
      EXPECT_FALSE(p.value.requires_grad() || p.value.grad().defined()) << p.name;
    }
  // Batch norm buffers are the key network's own, not an average of the query's.
  EXPECT_NE(tensor_of(*moco, "key_encoder.bn1.running_mean").to_vector<float>(),
            tensor_of(*moco, "encoder.bn1.running_mean").to_vector<float>());
  for (const ParamGroup& group : moco->groups(1e-4))
    for (const NamedParameter& p : group.parameters)
      EXPECT_FALSE(p.name.starts_with("key_")) << p.name;
}

// Only batch norm sees the keys in another order: where each is made alone, no order tells.
TEST(Moco, KeysComeBackInTheirOrder) {
  const auto loss = [](int splits, uint64_t seed) {
    MocoOptions options = kSmallMoco;
    options.splits = splits;  // one has no order of its own
    options.seed = seed;
    const auto moco = make_moco(options);
    moco->eval();
    return moco->loss(views(4), 0).item();
  };
  EXPECT_NEAR(loss(2, 0), loss(1, 0), 1e-5);
  EXPECT_NEAR(loss(2, 1), loss(1, 0), 1e-5);
}

// Two ranks with their own batch norm are one rank with two splits: both are runs of rows.
TEST(Moco, TwoRanksAreTwoSplits) {
  const auto run = [&](int ranks) {
    std::vector<double> losses(3), gradients, after;
    std::mutex mutex;
    run_ranks(ranks, [&](Comm& comm) {
      MocoOptions options = kSmallMoco;
      options.queue = 16;
      options.splits = 2 / ranks;
      const auto moco = make_moco(options);
      to_dtype(*moco, DType::f64);
      moco->set_comm(comm);
      Optimizer optimizer({}, moco->groups(1e-4));
      for (int64_t step = 0; step < 3; ++step) {
        Batch batch = views(8, step);
        for (Tensor& view : batch.views)
          view = view.cast(DType::f64).narrow(comm.rank() * 8 / ranks, 8 / ranks).clone();
        const double loss = moco->train_step(batch, optimizer, .05, step);
        const std::lock_guard lock(mutex);
        losses[static_cast<size_t>(step)] += loss / ranks;
        for (const NamedParameter& p : parameters(*moco))
          if (step == 0 && comm.rank() == 0 && p.value.grad().defined())
            for (const double g : values(p.value.grad())) gradients.push_back(g);
      }
      if (comm.rank() > 0) return;
      after = {values(tensor_of(*moco, "encoder.layer4.1.conv2.weight"))[7],
               values(tensor_of(*moco, "queue"))[100]};
    });
    after.push_back(losses.back());
    losses.pop_back();
    return std::array{losses, gradients, after};
  };
  const auto one = run(1), two = run(2);
  const auto [least, largest] = std::ranges::minmax(one[1]);
  expect_near(two[0], one[0], 1e-12);
  expect_near(two[1], one[1], 1e-12 * std::max(-least, largest));
  expect_near(two[2], one[2], 1e-8);
}

TEST(Moco, LeavesItsCollapseValue) {
  MocoOptions options = kSmallMoco;
  options.queue = 64;
  options.momentum = .9;  // a few steps are enough for the keys to follow
  const auto moco = make_moco(options);
  EXPECT_NEAR(moco->collapse_loss(8), std::log(65.0), 1e-12);
  Optimizer optimizer({}, moco->groups(0));
  Batch batch = views(8);
  batch.views[1] = batch.views[0];
  double last = 0;
  for (int64_t step = 0; step < 12; ++step) last = moco->train_step(batch, optimizer, .03, step);
  EXPECT_LT(last, moco->collapse_loss(8) - .3);
}

TEST(Moco, BadSizesAreRefusedBeforeTheFirstStep) {
  const auto moco = make_moco(kSmallMoco);
  EXPECT_NO_THROW(moco->check_batch(4));
  expect_parts(error_of<UsageError>([&] { moco->check_batch(8); }), {"--queue"});
  expect_parts(error_of<UsageError>([&] { moco->check_batch(2); }), {"--norm-splits"});
  expect_parts(error_of<UsageError>([&] { moco->check_batch(3); }), {"--norm-splits"});
  expect_parts(error_of<UsageError>([] { make_moco({.queue = 0}); }), {"queue"});
}

// ---- the other two

TEST(CeSelfSupcon, AddsBothLossesAndWrapsItsQueue) {
  HybridOptions options;
  options.moco = kSmallMoco;
  options.moco.queue = 10;  // not a multiple of the batch
  options.moco.temperature = .07;
  CeSelfSupcon hybrid(small_resnet(), small_resnet(), 5, options);
  initialize(hybrid, 4);
  hybrid.begin(4);
  EXPECT_NO_THROW(hybrid.check_batch(4));
  EXPECT_NEAR(hybrid.collapse_loss(4), std::log(5.0) + .5 * std::log(11.0), 1e-12);
  Optimizer optimizer({}, hybrid.groups(0));
  Batch batch = views(4);
  batch.labels = Tensor::from<int64_t>({0, 1, 2, 3});
  // Four samples behind batch norm: single steps' losses leap, and differently with each
  // instruction set, so the mean of the last eight is looked at.
  const int64_t steps = 32;
  double end = 0;
  for (int64_t step = 0; step < steps; ++step) {
    const double loss = hybrid.train_step(batch, optimizer, .01, step);
    if (step >= steps - 8) end += loss / 8;
  }
  EXPECT_LT(end, hybrid.collapse_loss(4) - .3);
  EXPECT_EQ(tensor_of(hybrid, "queue_pointer").item(), steps * 4 % 10);
}

TEST(Supcon, TrainsWithLabels) {
  Supcon objective(small_resnet(), {.temperature = .1, .base_temperature = .1}, 8);
  initialize(objective, 5);
  Optimizer optimizer({}, objective.groups(0));
  Batch batch = views(8);
  batch.labels = Tensor::from<int64_t>({0, 1, 0, 1, 2, 3, 2, 3});
  double last = 0;
  for (int64_t step = 0; step < 15; ++step)
    last = objective.train_step(batch, optimizer, .05, step);
  EXPECT_LT(last, objective.collapse_loss(8) - .3);
}

}  // namespace
}  // namespace facet
