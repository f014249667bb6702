// The generator against the published vectors, and what facet builds on it.
#include "tensor/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "tensor/ops.h"
#include "tensor/parallel.h"

namespace facet {
namespace {

using Words = std::array<uint32_t, 4>;

Words words(const Philox4& block) {
  return {block.v[0], block.v[1], block.v[2], block.v[3]};
}

// Random123's kat_vectors, philox4x32 with 10 rounds. The counter's upper half is the stream.
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(words(philox({0, 0}, 0)), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(words(philox({~uint64_t{0}, ~uint64_t{0}}, ~uint64_t{0})),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(words(philox({0x299f31d0a4093822, 0x0370734413198a2e}, 0x85a308d3243f6a88)),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomKey, ChildrenDiffer) {
  const RandomKey key = random_key(7, RandomPurpose::augment);
  std::vector<uint64_t> streams;
  for (uint64_t n = 0; n < 1000; ++n) streams.push_back(key.child(n).stream);
  streams.push_back(random_key(7, RandomPurpose::init).stream);
  std::sort(streams.begin(), streams.end());
  EXPECT_EQ(std::unique(streams.begin(), streams.end()), streams.end());
  EXPECT_EQ(key.child(3).seed, 7u);
}

TEST(RandomFill, ElementDependsOnKeyAndIndexOnly) {
  const RandomKey key{11, 5};
  const int threads = num_threads();
  const std::vector<double> expected =
      ops::random_normal({70001}, key, 0.5, 2.0, DType::f64).to_vector<double>();
  for (const int n : {1, 2, 3, 5}) {
    set_num_threads(n);
    EXPECT_EQ(ops::random_normal({70001}, key, 0.5, 2.0, DType::f64).to_vector<double>(), expected);
  }
  set_num_threads(threads);
  // A shorter tensor is the beginning of a longer one, of whatever shape.
  const std::vector<double> shorter =
      ops::random_normal({9, 7}, key, 0.5, 2.0, DType::f64).to_vector<double>();
  EXPECT_TRUE(std::equal(shorter.begin(), shorter.end(), expected.begin()));
  // f32 holds the same numbers, rounded.
  const std::vector<float> rounded = ops::random_normal({63}, key, 0.5, 2.0).to_vector<float>();
  for (size_t i = 0; i < rounded.size(); ++i)
    EXPECT_EQ(rounded[i], static_cast<float>(expected[i]));
  EXPECT_NE(ops::random_normal({63}, key.child(0)).to_vector<float>(), rounded);
}

TEST(RandomFill, UniformIsTheLanesOfABlock) {
  const RandomKey key{3, 9};
  const std::vector<float> values = ops::random_uniform({10}, key).to_vector<float>();
  for (size_t i = 0; i < values.size(); ++i)
    EXPECT_EQ(values[i], uniform_from_bits(philox(key, i / 4).v[i % 4]));
}

struct Moments {
  double mean = 0, variance = 0, skew = 0, kurtosis = 0;
};

Moments moments(const std::vector<double>& x) {
  const double n = static_cast<double>(x.size());
  Moments m;
  m.mean = std::accumulate(x.begin(), x.end(), 0.0) / n;
  for (const double v : x) {
    const double d = v - m.mean;
    m.variance += d * d / n;
    m.skew += d * d * d / n;
    m.kurtosis += d * d * d * d / n;
  }
  m.skew /= std::pow(m.variance, 1.5);
  m.kurtosis /= m.variance * m.variance;
  return m;
}

// Five standard errors of each moment.
TEST(RandomFill, Moments) {
  constexpr int64_t kN = 400000;
  const double root_n = std::sqrt(static_cast<double>(kN));
  const Moments normal =
      moments(ops::random_normal({kN}, {1, 2}, 3.0, 2.0, DType::f64).to_vector<double>());
  EXPECT_NEAR(normal.mean, 3.0, 5 * 2.0 / root_n);
  EXPECT_NEAR(normal.variance, 4.0, 5 * 4.0 * std::sqrt(2.0) / root_n);
  EXPECT_NEAR(normal.skew, 0.0, 5 * std::sqrt(6.0) / root_n);
  EXPECT_NEAR(normal.kurtosis, 3.0, 5 * std::sqrt(24.0) / root_n);

  const std::vector<double> values =
      ops::random_uniform({kN}, {1, 2}, -1.0, 3.0, DType::f64).to_vector<double>();
  const Moments uniform = moments(values);
  EXPECT_NEAR(uniform.mean, 1.0, 5 * std::sqrt(4.0 / 3.0) / root_n);
  EXPECT_NEAR(uniform.variance, 4.0 / 3.0, 5 * 1.2 / root_n);
  EXPECT_GE(*std::min_element(values.begin(), values.end()), -1.0);
  EXPECT_LT(*std::max_element(values.begin(), values.end()), 3.0);
}

TEST(RandomSequence, BelowIsUniformAndShuffleAPermutation) {
  RandomSequence random({4, 2});
  std::vector<int> counts(7);
  for (int i = 0; i < 70000; ++i) ++counts[random.below(7)];
  for (const int count : counts) EXPECT_NEAR(count, 10000, 5 * std::sqrt(10000.0));

  std::vector<int> order(100);
  std::iota(order.begin(), order.end(), 0);
  std::vector<int> shuffled = order;
  random.shuffle(shuffled);
  EXPECT_NE(shuffled, order);
  std::sort(shuffled.begin(), shuffled.end());
  EXPECT_EQ(shuffled, order);
}

}  // namespace
}  // namespace facet
