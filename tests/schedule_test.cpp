// Golden values of the official codes' schedules.
#include "optim/schedule.h"

#include <gtest/gtest.h>

namespace facet::schedule {
namespace {

// The golden values are printed with ten digits.
void near(double got, double want) {
  EXPECT_NEAR(got, want, 1e-9 * want + 1e-15);
}

TEST(Schedule, Moco) {
  near(moco(.03, 0, 200), .03);
  near(moco(.03, 1, 200), .02999814949);
  near(moco(.03, 100, 200), .015);
  near(moco(.03, 199, 200), 1.850512775e-6);
}

TEST(Schedule, Simclr) {
  const SimclrPlan plan = simclr_plan(1281167, 4096, 100, 10);
  EXPECT_EQ(plan.warmup_steps, 3127);
  EXPECT_EQ(plan.total_steps, 31279);
  near(simclr(4.8, 0, plan), 0);
  near(simclr(4.8, 1, plan), .001535017589);
  near(simclr(4.8, 15000, plan), 2.984094156);
}

TEST(Schedule, SwavHasTheDuplicatePeak) {
  const auto lr = [](int64_t t) { return warmup_linspace_cosine(.3, 4.8, .0048, t, 3120, 31200); };
  near(lr(0), .3);
  near(lr(1), .3014427701);
  near(lr(3119), 4.8);
  near(lr(3120), 4.8);
  near(lr(17160), 2.4024);
  near(lr(31199), .004800015006);
}

TEST(Schedule, Dino) {
  const double base = .0005 * 1024 / 256;
  const auto lr = [&](int64_t t) {
    return warmup_linspace_cosine(0, base, 1e-6, t, 12510, 125100);
  };
  near(lr(1), 1.598848829e-7);
  near(lr(12509), .002);
  near(lr(12510), .002);
  near(lr(62550), .001174061354);
  // Weight decay and the teacher's momentum have no warm-up.
  near(warmup_linspace_cosine(0, .04, .4, 62550, 0, 125100), .22);
  near(warmup_linspace_cosine(0, .996, 1, 62550, 0, 125100), .998);
}

TEST(Schedule, Mae) {
  near(mae(.0024, 0, .5, 40, 800), 3e-5);
  near(mae(.0024, 0, 40, 40, 800), .0024);
  near(mae(.0024, 0, 420, 40, 800), .0012);
  near(mae(.002, 1e-6, 2.5, 5, 100), .001);
  near(mae(.002, 1e-6, 52.5, 5, 100), .0010005);
}

TEST(Schedule, TimmCountsItsCosineFromEpochZero) {
  const auto lr = [](int64_t epoch) { return timm(.1, 1e-5, 1e-4, epoch, 3, 100); };
  near(lr(0), .0001);
  near(lr(1), .0334);
  near(lr(2), .0667);
  near(lr(3), .09977812042);
  near(lr(50), .050005);
  near(lr(99), 3.466951452e-5);
  near(lr(100), 1e-5);
  near(lr(109), 1e-5);
}

TEST(Schedule, IslamEndsAboveItsMinimum) {
  const auto lr = [](int64_t t) { return islam(.48, 1e-8, .0048, t, 10, 5, 400); };
  near(lr(0), .0048 + .02 * .4752);
  near(lr(49), .48);
  near(lr(2059), .24 + 5e-9);       // epoch 205: half of 400 behind the warm-up
  near(lr(3999), 2.6644000358e-4);  // epoch 399, 394 of 400
}

// Values of torch.optim.lr_scheduler.OneCycleLR.
TEST(Schedule, OneCycle) {
  const auto fifth = [](int64_t t) { return one_cycle(2e-4, t, .2 * 50, 50); };
  near(fifth(0), 8e-6);
  near(fifth(1), 1.37895084046e-05);
  near(fifth(5), 0.000120670225056);
  near(fifth(9), 2e-4);
  near(fifth(10), 0.000199691734606);
  near(fifth(25), 0.000130901975831);
  near(fifth(49), 8e-10);
  const auto third = [](int64_t t) { return one_cycle(2e-4, t, .3 * 37, 37); };
  near(third(9), 0.000194435289293);
  near(third(10), 0.0001999535631);
  near(third(11), 0.000199404718821);
  near(third(36), 8e-10);
}

}  // namespace
}  // namespace facet::schedule
