// Image operations against values computed with Pillow and torchvision, and statistics of the
// random ones.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "data/pipeline.h"
#include "tests/pictures.h"

namespace facet {
namespace {

using test::hash;
using test::scrambled;
using Rows = std::vector<std::vector<int>>;

Image gray_image(const Rows& rows) {
  Image image(static_cast<int>(rows.size()), static_cast<int>(rows[0].size()));
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < image.width; ++x)
      std::fill_n(image.at(y, x), 3,
                  static_cast<uint8_t>(rows[static_cast<size_t>(y)][static_cast<size_t>(x)]));
  return image;
}

Rows red(const Image& image) {
  Rows rows;
  for (int y = 0; y < image.height; ++y) {
    rows.emplace_back();
    for (int x = 0; x < image.width; ++x) rows.back().push_back(image.at(y, x)[0]);
  }
  return rows;
}

Image pixel(int r, int g, int b) {
  Image image(1, 1);
  image.pixels = {static_cast<uint8_t>(r), static_cast<uint8_t>(g), static_cast<uint8_t>(b)};
  return image;
}

std::vector<int> rgb(const Image& image) {
  return {image.pixels.begin(), image.pixels.end()};
}

void to_gray(Image& i) {
  apply({.kind = ImageOpKind::gray}, i);
}
void adjust_brightness(Image& i, float factor) {
  apply({.kind = ImageOpKind::brightness, .value = factor}, i);
}
void adjust_contrast(Image& i, float factor) {
  apply({.kind = ImageOpKind::contrast, .value = factor}, i);
}
void adjust_saturation(Image& i, float factor) {
  apply({.kind = ImageOpKind::saturation, .value = factor}, i);
}
void adjust_hue(Image& i, double shift) {
  apply({.kind = ImageOpKind::hue, .value = hue_turn(shift)}, i);
}
void solarize(Image& i) {
  apply({.kind = ImageOpKind::solarize, .value = 128}, i);
}
void gaussian_blur(Image& i, float sigma) {
  apply({.kind = ImageOpKind::blur, .value = blur_radius(sigma)}, i);
}

TEST(Resize, PillowsAntialiasedRamp) {
  Rows ramp(8, std::vector<int>(8));
  for (int k = 0; k < 64; ++k) ramp[static_cast<size_t>(k / 8)][static_cast<size_t>(k % 8)] = 4 * k;
  EXPECT_EQ(red(resize(gray_image(ramp), 3, 3, Filter::bilinear)),
            (Rows{{39, 49, 59}, {116, 126, 136}, {193, 203, 213}}));
  EXPECT_EQ(red(resize(gray_image(ramp), 3, 3, Filter::bicubic)),
            (Rows{{33, 43, 53}, {116, 126, 136}, {199, 209, 219}}));
}

TEST(Resize, PillowsUpsampling) {
  const Image row = gray_image({{0, 128, 255}});
  EXPECT_EQ(red(resize(row, 1, 5, Filter::bilinear)), (Rows{{0, 51, 128, 204, 255}}));
  EXPECT_EQ(red(resize(row, 1, 5, Filter::bicubic)), (Rows{{0, 39, 128, 216, 255}}));
  EXPECT_EQ(red(resize(row, 1, 3, Filter::bicubic)), red(row));
}

TEST(Color, PillowsIntegers) {
  EXPECT_EQ(luma(pixel(200, 100, 50).pixels.data()), 124);
  Image p = pixel(200, 100, 50);
  adjust_brightness(p, 1.4f);
  EXPECT_EQ(rgb(p), (std::vector<int>{255, 140, 70}));
  p = pixel(200, 100, 50);
  adjust_saturation(p, .6f);
  EXPECT_EQ(rgb(p), (std::vector<int>{169, 109, 79}));
  p = pixel(200, 100, 50);
  adjust_saturation(p, 1.4f);
  EXPECT_EQ(rgb(p), (std::vector<int>{230, 90, 20}));
  p = pixel(200, 100, 50);
  adjust_hue(p, .1);
  EXPECT_EQ(rgb(p), (std::vector<int>{200, 188, 50}));
  p = pixel(200, 100, 50);
  adjust_hue(p, -.1);
  EXPECT_EQ(rgb(p), (std::vector<int>{200, 50, 85}));
  Image two(1, 2);
  two.pixels = {200, 100, 50, 10, 20, 30};
  adjust_contrast(two, .6f);
  EXPECT_EQ(rgb(two), (std::vector<int>{148, 88, 58, 34, 40, 46}));
  p = pixel(127, 128, 255);
  solarize(p);
  EXPECT_EQ(rgb(p), (std::vector<int>{127, 127, 0}));
}

std::vector<int> blurred_impulse(float sigma) {
  Rows rows(21, std::vector<int>(21, 0));
  rows[10][10] = 255;
  Image image = gray_image(rows);
  gaussian_blur(image, sigma);
  return red(image)[10];
}

void expect_middle(const std::vector<int>& row, const std::vector<int>& want) {
  const size_t first = 10 - want.size() / 2;
  EXPECT_EQ(std::vector<int>(row.begin() + static_cast<std::ptrdiff_t>(first),
                             row.begin() + static_cast<std::ptrdiff_t>(first + want.size())),
            want);
}

TEST(Blur, PillowsExtendedBox) {
  expect_middle(blurred_impulse(.5f), {1, 21, 154, 21, 1});
  expect_middle(blurred_impulse(1), {1, 6, 24, 42, 24, 6, 1});
  expect_middle(blurred_impulse(2), {1, 2, 4, 6, 8, 9, 8, 6, 4, 2, 1});
  Rows step(12, std::vector<int>(12, 0));
  for (auto& row : step) std::fill(row.begin() + 6, row.end(), 255);
  Image image = gray_image(step);
  gaussian_blur(image, 1);
  const std::vector<int> row = red(image)[6];
  EXPECT_EQ(std::vector<int>(row.begin() + 3, row.begin() + 9),
            (std::vector<int>{1, 15, 75, 179, 240, 254}));
}

// Hashes of what Pillow 9.4 and torchvision 0.14 make of the scrambled picture.
template <typename Change>
uint64_t hash_after(Change change) {
  Image image = scrambled();
  change(image);
  return hash(image);
}

TEST(Pillow, BitEqualOnAScrambledPicture) {
  const Image image = scrambled();
  EXPECT_EQ(hash(resize(image, 16, 20, Filter::bilinear)), 0x5de5bf9356a2eb07u);
  EXPECT_EQ(hash(resize(image, 37, 61, Filter::bilinear)), 0xeb428c095f33f6e1u);
  EXPECT_EQ(hash(resize(image, 16, 20, Filter::bicubic)), 0x4425c320e75e68f2u);
  EXPECT_EQ(hash(resize(image, 90, 37, Filter::bicubic)), 0xf2302f88ea3bb521u);
  EXPECT_EQ(hash(resize(scrambled(2, 3), 5, 41, Filter::bicubic)), 0x240a720f2b1b42eau);
  EXPECT_EQ(hash(resize(scrambled(401, 3), 7, 2, Filter::bilinear)), 0x6cdf5c3e83e1b993u);
  EXPECT_EQ(hash(resize(scrambled(5, 1200), 4, 3, Filter::bicubic)), 0x7bd08fb506ec673au);
  EXPECT_EQ(hash_after([](Image& i) { adjust_brightness(i, 1.37f); }), 0xa3fc6f197202bf2cu);
  EXPECT_EQ(hash_after([](Image& i) { adjust_contrast(i, .63f); }), 0x2fac1ea496531c4eu);
  EXPECT_EQ(hash_after([](Image& i) { adjust_saturation(i, 1.71f); }), 0xbd8f3e9418ceb9d5u);
  EXPECT_EQ(hash_after([](Image& i) { adjust_hue(i, .17); }), 0xea6755aa71a4647du);
  EXPECT_EQ(hash_after([](Image& i) { adjust_hue(i, -.33); }), 0x71dcd864ce2139d2u);
  EXPECT_EQ(hash_after([](Image& i) { to_gray(i); }), 0x35961dbed3548c7bu);
  EXPECT_EQ(hash_after([](Image& i) { gaussian_blur(i, .7f); }), 0xd73a7072c655ba0cu);
  EXPECT_EQ(hash_after([](Image& i) { gaussian_blur(i, 1.9f); }), 0x5cdd80eb124eed47u);
  EXPECT_EQ(hash_after([](Image& i) { solarize(i); }), 0xdd12560f0abc5b11u);
}

TEST(Pillow, HueOfEveryColour) {
  Image all(4096, 4096);
  for (uint32_t k = 0; k < all.pixels.size(); ++k)
    all.pixels[k] = static_cast<uint8_t>(k / 3 >> (16 - k % 3 * 8));
  adjust_hue(all, .1);
  EXPECT_EQ(hash(all), 0x5c646aae7df7d11fu);
}

TEST(Crop, StaysInsideAndHasTheRightStatistics) {
  RandomSequence random({1, 2});
  double area = 0;
  constexpr int kDraws = 10000;
  for (int i = 0; i < kDraws; ++i) {
    const Rectangle w = random_resized_window(100, 100, .2, .6, random);
    ASSERT_TRUE(w.top >= 0 && w.left >= 0 && w.top + w.height <= 100 && w.left + w.width <= 100);
    const double aspect = static_cast<double>(w.width) / w.height;
    ASSERT_TRUE(aspect > .7 && aspect < 1.43);
    area += w.width * w.height / 1e4;
  }
  EXPECT_NEAR(area / kDraws, .4, 4 * .4 / std::sqrt(12.0) / std::sqrt(kDraws) + .002);
}

TEST(Crop, FallsBackToTheCentre) {
  RandomSequence random({1, 2});
  // A strip so narrow that no window of half its area fits the aspect range.
  const Rectangle w = random_resized_window(10, 1000, .9, 1, random);
  EXPECT_EQ(w.height, 10);
  EXPECT_EQ(w.width, 13);
  EXPECT_EQ(w.left, (1000 - 13) / 2);
  EXPECT_THROW(crop(Image(4, 4), 2, 2, 3, 1), Error);
}

TEST(Steps, ProbabilitiesHold) {
  constexpr int kDraws = 10000;
  const auto share = [](const PipelineStep& step, const Image& image) {
    RandomSequence random({3, 4});
    int changed = 0;
    for (int i = 0; i < kDraws; ++i) {
      Image copy = image;
      step.apply(copy, random);
      changed += copy.pixels != image.pixels;
    }
    return static_cast<double>(changed) / kDraws;
  };
  Image image(1, 2);
  image.pixels = {200, 100, 50, 10, 20, 30};
  const auto four_sigma = [](double p) { return 4 * std::sqrt(p * (1 - p) / kDraws); };
  EXPECT_NEAR(share(random_flip(), image), .5, four_sigma(.5));
  EXPECT_NEAR(share(random_gray(.2), image), .2, four_sigma(.2));
  EXPECT_NEAR(share(random_solarize(.2), image), .2, four_sigma(.2));
  EXPECT_NEAR(share(random_blur(.5, 1, 2), image), .5, four_sigma(.5));
  EXPECT_NEAR(share(color_jitter(.4, .4, .4, .1, .8), image), .8, four_sigma(.8) + .01);
}

TEST(Pipeline, EvaluationIsNormalisedAndDeterministic) {
  const Pipeline pipeline = eval_pipeline(4, kImagenetNormalization);
  Image image(4, 4);
  std::fill(image.pixels.begin(), image.pixels.end(), uint8_t{255});
  std::array<float, 48> out{};
  normalize(pipeline.view(image, RandomSequence({1, 1})), pipeline.scale(), out.data());
  EXPECT_NEAR(out[0], (1 - .485) / .229, 1e-5);
  EXPECT_NEAR(out[1], (1 - .456) / .224, 1e-5);
  EXPECT_NEAR(out[2], (1 - .406) / .225, 1e-5);
}

TEST(Pipeline, ResizeAndCentreCrop) {
  Image image(30, 60);
  for (int y = 0; y < 30; ++y)
    for (int x = 0; x < 60; ++x) image.at(y, x)[0] = static_cast<uint8_t>(4 * x);
  RandomSequence random({1, 1});
  resize_and_center_crop(30, 20, Filter::bilinear).apply(image, random);
  EXPECT_EQ(image.height, 20);
  EXPECT_EQ(image.at(0, 0)[0], 4 * 20);  // (60 - 20) / 2
}

TEST(Pipeline, SmallPicturesAreNotBlurred) {
  using enum ImageOpKind;
  const Pipeline pipeline = small_pipeline(28, kHalfNormalization, .08, 1, Filter::bicubic, false);
  std::set<ImageOpKind> seen;
  for (uint64_t i = 0; i < 100; ++i) {
    const ViewPlan plan = pipeline.plan(40, 40, RandomSequence({i, 1}));
    EXPECT_EQ(plan.filter, Filter::bicubic);
    for (int k = 0; k < plan.count; ++k) seen.insert(plan.ops[k].kind);
  }
  EXPECT_EQ(seen, (std::set{flip, brightness, contrast, saturation, hue, gray}));
}

}  // namespace
}  // namespace facet
