// Augmentation policies against hashes of what Pillow 9.4 makes of two pictures, and their draws.
#include "data/policy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "tests/pictures.h"

namespace facet {
namespace {

using Kind = ImageOpKind;

uint64_t hash_after(Image image, const ImageOp& op) {
  apply(op, image);
  return test::hash(image);
}

TEST(Policy, PillowsLevels) {
  const auto scrambled = [](Kind kind, float value) {
    return hash_after(test::scrambled(), {.kind = kind, .value = value});
  };
  const auto smooth = [](Kind kind) { return hash_after(test::smooth(), {.kind = kind}); };
  EXPECT_EQ(scrambled(Kind::equalize, 0), 0xc9da886f791f27dfu);
  EXPECT_EQ(smooth(Kind::equalize), 0x1c68307d61bac21du);
  EXPECT_EQ(scrambled(Kind::autocontrast, 0), 0x60671a4d28422714u);  // uses all values already
  EXPECT_EQ(smooth(Kind::autocontrast), 0x0ece854db28513c2u);
  EXPECT_EQ(scrambled(Kind::invert, 0), 0xe329188e17634593u);
  EXPECT_EQ(scrambled(Kind::posterize, 3), 0x091524118b61e117u);
  EXPECT_EQ(scrambled(Kind::posterize, 0), 0x28e64c5fde1472d7u);
  EXPECT_EQ(scrambled(Kind::solarize, 100), 0x0898828023c4274bu);
  EXPECT_EQ(scrambled(Kind::solarize_add, 99), 0xa689784996b53a58u);
  EXPECT_EQ(scrambled(Kind::sharpness, .1f), 0x2ea40118692a5727u);
  EXPECT_EQ(scrambled(Kind::sharpness, 1.73f), 0x4f65c8bcbd2109a0u);
}

TEST(Policy, PillowsTransforms) {
  const auto scrambled = [](Kind kind, Filter filter, float value) {
    return hash_after(test::scrambled(), {kind, filter, {124, 116, 104}, value});
  };
  const Filter linear = Filter::bilinear, cubic = Filter::bicubic;
  EXPECT_EQ(scrambled(Kind::rotate, linear, 27), 0xeade8e0f909bc13au);
  EXPECT_EQ(scrambled(Kind::rotate, linear, -13.5f), 0xe3dc594ac0885556u);
  EXPECT_EQ(scrambled(Kind::shear_x, linear, .25f), 0x65e8e79d15e119b5u);
  EXPECT_EQ(scrambled(Kind::shear_y, linear, -.3f), 0xa4207c9737aa7f90u);
  EXPECT_EQ(scrambled(Kind::translate_x, linear, .45f), 0x8f3d7d530dcdafe1u);
  EXPECT_EQ(scrambled(Kind::translate_y, linear, -.17f), 0xe3e934126a569c3cu);
  EXPECT_EQ(scrambled(Kind::rotate, cubic, 27), 0xb5eb4282dbdb8e8fu);
  EXPECT_EQ(scrambled(Kind::rotate, cubic, -13.5f), 0xaf666d9005524821u);
  EXPECT_EQ(scrambled(Kind::shear_x, cubic, .25f), 0xe311d3296a27d4e3u);
  EXPECT_EQ(scrambled(Kind::shear_y, cubic, -.3f), 0x2abcde86ee5e580du);
  EXPECT_EQ(scrambled(Kind::translate_x, cubic, .45f), 0x4c722847bcdccfb2u);
  EXPECT_EQ(scrambled(Kind::translate_y, cubic, -.17f), 0x80cc00a825e14c02u);
}

TEST(Policy, TinyPicturesPass) {
  for (const auto& [h, w] : {std::pair{1, 1}, {1, 5}, {3, 2}})
    for (int kind = 0; kind <= static_cast<int>(Kind::translate_y); ++kind) {
      Image image = test::scrambled(h, w);
      apply({.kind = static_cast<Kind>(kind), .value = 1}, image);
      EXPECT_EQ(image.pixels.size(), static_cast<size_t>(h) * w * 3);
    }
}

// The values with which each operation is drawn, rounded to 1e-3, and how many were drawn.
struct Draws {
  std::map<Kind, std::set<int>> values;
  std::map<Kind, int> counts;
  int filters[2] = {};
  int total = 0;
};
constexpr int kDraws = 10000;
Draws draw(const PipelineStep& step) {
  Draws draws;
  RandomSequence random({5, 6});
  for (int i = 0; i < kDraws; ++i) {
    ViewPlan plan = ViewPlan::whole(8, 8);
    step.draw(plan, random);
    for (int k = 0; k < plan.count; ++k) {
      const ImageOp& op = plan.ops[k];
      draws.values[op.kind].insert(static_cast<int>(std::lround(op.value * 1000)));
      ++draws.counts[op.kind];
      ++draws.total;
      if (op.kind == Kind::rotate) ++draws.filters[static_cast<int>(op.filter)];
    }
  }
  return draws;
}

TEST(RandAugment, LevelsAndChances) {
  const Draws draws = draw(rand_augment(9, 0));
  using Values = std::set<int>;
  const std::map<Kind, Values> want = {{Kind::autocontrast, {0}},
                                       {Kind::equalize, {0}},
                                       {Kind::invert, {0}},
                                       {Kind::rotate, {-27000, 27000}},
                                       {Kind::posterize, {1000}},
                                       {Kind::solarize, {26000}},
                                       {Kind::solarize_add, {99000}},
                                       {Kind::saturation, {190, 1810}},
                                       {Kind::contrast, {190, 1810}},
                                       {Kind::brightness, {190, 1810}},
                                       {Kind::sharpness, {190, 1810}},
                                       {Kind::shear_x, {-270, 270}},
                                       {Kind::shear_y, {-270, 270}},
                                       {Kind::translate_x, {-405, 405}},
                                       {Kind::translate_y, {-405, 405}}};
  EXPECT_EQ(draws.values, want);
  EXPECT_NEAR(draws.total, kDraws, 4 * std::sqrt(kDraws * 2 * .25));  // 2 times chance .5
  for (const auto& [kind, count] : draws.counts)
    EXPECT_NEAR(count, kDraws / 15.0, 4 * std::sqrt(kDraws / 15.0)) << static_cast<int>(kind);
  EXPECT_NEAR(draws.filters[0], draws.filters[1], 4 * std::sqrt(kDraws / 15.0));
}

TEST(RandAugment, LevelsVaryAndStayInRange) {
  EXPECT_EQ(draw(rand_augment(9, .5, 2, Filter::bilinear)).filters[int(Filter::bicubic)], 0);
  EXPECT_EQ(draw(auto_augment(Filter::bicubic)).filters[int(Filter::bilinear)], 0);
  const Draws draws = draw(rand_augment(9, .5));
  const std::set<int>& angles = draws.values.at(Kind::rotate);
  EXPECT_GT(angles.size(), 100u);
  EXPECT_GE(*angles.begin(), -30000);
  EXPECT_LE(*angles.rbegin(), 30000);
  EXPECT_EQ(*angles.rbegin(), 30000);  // levels beyond 10 are clamped
}

TEST(AutoAugment, ImageNetPolicy) {
  const Draws draws = draw(auto_augment());
  using Values = std::set<int>;
  EXPECT_EQ(draws.values.at(Kind::posterize), (Values{6000, 7000}));
  EXPECT_EQ(draws.values.at(Kind::rotate), (Values{-27000, -24000, -9000, 9000, 24000, 27000}));
  EXPECT_EQ(draws.values.at(Kind::solarize), (Values{76000, 102000, 128000, 179000, 204000}));
  EXPECT_EQ(draws.values.at(Kind::saturation), (Values{100, 460, 820, 1540}));
  EXPECT_EQ(draws.values.at(Kind::contrast), (Values{1540}));
  EXPECT_EQ(draws.values.at(Kind::sharpness), (Values{1360}));
  EXPECT_EQ(draws.values.at(Kind::shear_x), (Values{-150, 150}));
  EXPECT_NEAR(draws.filters[0], draws.filters[1], 4 * std::sqrt(draws.filters[0] * 2));
  // Contrast is the second, certain operation of two of 25 pairs.
  EXPECT_NEAR(draws.counts.at(Kind::contrast), kDraws * 2 / 25.0,
              4 * std::sqrt(kDraws * .08 * .92));
}

TEST(Cutout, FillsOneBoxAndNothingElse) {
  const int side = 20;
  Image picture(side, side);
  for (size_t i = 0; i < picture.pixels.size(); ++i)
    picture.pixels[i] = static_cast<uint8_t>(i * 7);
  const Pipeline pipeline(side, kImagenetNormalization,
                          {resize_to(side, Filter::bilinear), random_cutout(.5)});
  int whole = 0;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    const ImageOp op = pipeline.plan(side, side, RandomSequence({seed, 1})).ops[0];
    const Image view = pipeline.view(picture, RandomSequence({seed, 1}));
    const auto [top, left, height, width] = op.box;
    for (int y = 0; y < side; ++y)
      for (int x = 0; x < side; ++x) {
        const bool inside = y >= top && y < top + height && x >= left && x < left + width;
        for (int c = 0; c < 3; ++c)
          ASSERT_EQ(view.at(y, x)[c], inside ? op.fill[c] : picture.at(y, x)[c]);
      }
    // Half of the sides and a line, as Pillow draws it, cut at the borders.
    EXPECT_TRUE(height >= 6 && height <= 11 && width >= 6 && width <= 11);
    whole += height == 11 && width == 11;
  }
  EXPECT_NEAR(whole, 100, 4 * std::sqrt(400 * .25 * .75));
}

TEST(RandAugment, RunsInAPipeline) {
  const Pipeline pipeline(24, kImagenetNormalization,
                          {random_resized_crop(24, .08, 1, {}), random_flip(), rand_augment()});
  const Image picture = test::scrambled();
  std::set<uint64_t> seen;
  for (uint64_t i = 0; i < 50; ++i) {
    const Image view = pipeline.view(picture, RandomSequence({i, 1}));
    EXPECT_EQ(view.height, 24);
    seen.insert(test::hash(view));
  }
  EXPECT_GT(seen.size(), 45u);
}

}  // namespace
}  // namespace facet
