// Mixup, CutMix and random erasing as timm draws them.
#include "data/mix.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/generators.h"

namespace facet {
namespace {

constexpr int kDraws = 10000;

TEST(CutMix, BoxesAndWeights) {
  const Mix centre = cutmix_at(.5, 224, 224, 112, 112);
  EXPECT_EQ(centre.box.height, 158);
  EXPECT_EQ(centre.box.top, 112 - 79);
  EXPECT_NEAR(centre.weight, .50247130102, 1e-11);
  EXPECT_NEAR(cutmix_at(.5, 224, 224, 10, 200).weight, .81730309311, 1e-11);
  EXPECT_EQ(cutmix_at(.5, 224, 224, 10, 200).box.top, 0);
}

TEST(Mix, DrawsAsTimm) {
  RandomSequence random({3, 5});
  int cuts = 0;
  double mixup = 0, mixup_squares = 0;
  for (int i = 0; i < kDraws; ++i) {
    const Mix mix = draw_mix({}, 32, 20, random);
    if (mix.inside == 0) {
      ++cuts;
      EXPECT_NEAR(mix.weight, 1 - mix.box.height * mix.box.width / 640.0, 1e-12);
      continue;
    }
    EXPECT_EQ(mix.weight, mix.inside);
    EXPECT_EQ(mix.box.height * mix.box.width, 640);
    mixup += mix.weight;
    mixup_squares += mix.weight * mix.weight;
  }
  const double count = kDraws - cuts, mean = mixup / count;
  EXPECT_NEAR(cuts, kDraws / 2, 4 * std::sqrt(kDraws * .25));
  // Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1))
  const double variance = 1 / (4 * (2 * .8 + 1));
  EXPECT_NEAR(mean, .5, 4 * std::sqrt(variance / count));
  EXPECT_NEAR(mixup_squares / count - mean * mean, variance, .005);
  int mixed = 0;
  for (int i = 0; i < kDraws; ++i)
    mixed += draw_mix({.cutmix = 0, .probability = .3}, 8, 8, random).weight != 1;
  EXPECT_NEAR(mixed, .3 * kDraws, 4 * std::sqrt(kDraws * .21));
  EXPECT_EQ(draw_mix({.mixup = 0, .cutmix = 0}, 8, 8, random).weight, 1);
  EXPECT_EQ(draw_mix({.mixup = 0}, 8, 8, random).inside, 0);
}

TEST(Mix, SmallAlphasGoToTheEnds) {
  RandomSequence random({4, 5});
  double squares = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double w = draw_mix({.mixup = .2, .cutmix = 0}, 8, 8, random).weight;
    ASSERT_TRUE(w >= 0 && w <= 1);
    squares += (w - .5) * (w - .5);
  }
  EXPECT_NEAR(squares / kDraws, 1 / (4 * (2 * .2 + 1)), .005);
}

TEST(Mix, TargetsAreSmoothedThenMixed) {
  const Tensor labels = Tensor::from<int64_t>({1, 3});
  const Mix mix{.weight = .3, .inside = .3, .box = {0, 0, 4, 4}};
  const Tensor targets = mix_targets(labels, 5, .1, mix);
  test::expect_near(targets, {.02, .29, .02, .65, .02}, 1e-7);
  test::expect_near(ops::reduce(ReduceOp::sum, targets, 1), {1, 1}, 2e-7);
  for (const test::Setting& at : test::settings())
    at.near(soft_cross_entropy(Variable(at(test::wave({2, 5}, .5))), at(targets)).value(),
            {1.82798458859}, 1e-7);  // targets are f32
  EXPECT_EQ(mix_targets(labels, 5, 0, {}).to_vector<double>(),
            (std::vector<double>{0, 1, 0, 0, 0, 0, 0, 0, 1, 0}));
}

TEST(Mix, ImagesTakeTheBoxOfTheirPartner) {
  Tensor images = Tensor::zeros({4, 6, 5, 1});
  for (int64_t i = 0; i < 4; ++i) images.narrow(i, 1).fill_(static_cast<double>(i));
  const Mix mix = cutmix_at(.5, 6, 5, 3, 2);
  const std::vector<double> mixed = mix_images(images, mix).to_vector<double>();
  double own = 0;
  for (size_t i = 0; i < 30; ++i) own += mixed[i] == 0;
  EXPECT_NEAR(own / 30, mix.weight, 1e-12);  // the weight counts pixels
  EXPECT_TRUE(mix_images(images, {}).shares_storage_with(images));
  EXPECT_THROW(mix_images(images.narrow(0, 3), mix), Error);
}

TEST(RandomErasing, BoxesAsTimm) {
  RandomSequence random({6, 5});
  const std::vector<EraseBox> boxes = draw_erase_boxes({}, kDraws, 100, 100, random);
  EXPECT_NEAR(static_cast<double>(boxes.size()), .25 * kDraws, 4 * std::sqrt(kDraws * .1875));
  double area = 0;
  for (const EraseBox& e : boxes) {
    const Rectangle& b = e.box;
    ASSERT_TRUE(b.top >= 0 && b.left >= 0 && b.top + b.height <= 100 && b.left + b.width <= 100);
    const double aspect = static_cast<double>(b.height) / b.width;
    ASSERT_TRUE(aspect > .28 && aspect < 3.6) << aspect;
    ASSERT_TRUE(b.height * b.width > 150 && b.height * b.width < 3500);
    area += b.height * b.width / 1e4;
  }
  const double count = static_cast<double>(boxes.size()), mean = (.02 + 1 / 3.0) / 2;
  EXPECT_NEAR(area / count, mean, 4 * .0905 / std::sqrt(count) + .002);
}

}  // namespace
}  // namespace facet
