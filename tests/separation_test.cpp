#include "metrics/separation.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tensor/ops.h"
#include "tests/generators.h"

namespace facet {
namespace {

using namespace test;

Tensor features_golden() {
  return ops::affine(1.0, hashed("sep.e", {20, 7}), 0.5);
}
// 0, 1, 2, 3 four times, then 0, 0, 1, 2
Tensor labels_golden() {
  std::vector<int64_t> labels;
  for (int64_t i = 0; i < 16; ++i) labels.push_back(i % 4);
  for (const int64_t label : {0, 0, 1, 2}) labels.push_back(label);
  return Tensor::from(labels, {20});
}

void expect_near(const Separation& got, const Separation& want, double tolerance) {
  EXPECT_NEAR(got.intra, want.intra, tolerance);
  EXPECT_NEAR(got.inter, want.inter, tolerance);
  EXPECT_NEAR(got.inter_other, want.inter_other, tolerance);
  EXPECT_NEAR(got.silhouette, want.silhouette, tolerance);
  EXPECT_EQ(got.classes, want.classes);
}

// The definitions by loops over all pairs of samples.
Separation by_pairs(const Tensor& features, const Tensor& labels) {
  const int64_t n = features.dim(0), d = features.dim(1);
  const std::vector<double> x = features.to_vector<double>();
  const int64_t* label = labels.data<int64_t>();
  const auto distance = [&](int64_t i, int64_t j) {
    double ij = 0, ii = 0, jj = 0;
    for (int64_t c = 0; c < d; ++c) {
      const double a = x[static_cast<size_t>(i * d + c)], b = x[static_cast<size_t>(j * d + c)];
      ij += a * b;
      ii += a * a;
      jj += b * b;
    }
    return 1.0 - ij / std::sqrt(ii * jj);
  };
  std::vector<int64_t> present;
  for (int64_t k = 0; k < 100; ++k)
    if (std::find(label, label + n, k) != label + n) present.push_back(k);
  Separation result;
  result.classes = static_cast<int64_t>(present.size());
  const auto classes = static_cast<double>(present.size());
  // Mean distance of the pairs of classes a and b.
  const auto between = [&](int64_t a, int64_t b) {
    double sum = 0, count = 0;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j)
        if (label[i] == a && label[j] == b) {
          sum += distance(i, j);
          ++count;
        }
    return sum / count;
  };
  for (const int64_t a : present)
    for (const int64_t b : present) {
      const double mean = between(a, b);
      if (a == b) result.intra += mean / classes;
      if (a != b) result.inter_other += mean / (classes * (classes - 1));
      result.inter += mean / (classes * classes);
    }
  for (int64_t i = 0; i < n; ++i) {
    double v = 0, nearest = 1e300, mates = 0;
    for (const int64_t k : present) {
      double sum = 0, count = 0;
      for (int64_t j = 0; j < n; ++j)
        if (label[j] == k && j != i) {
          sum += distance(i, j);
          ++count;
        }
      if (k == label[i]) {
        v = sum / std::max(count, 1.0);
        mates = count;
      } else {
        nearest = std::min(nearest, sum / count);
      }
    }
    if (mates > 0)
      result.silhouette += (nearest - v) / std::max(nearest, v) / static_cast<double>(n);
  }
  return result;
}

// NumPy, and silhouette_score of scikit-learn 1.2, in f64.
TEST(Separation, Golden) {
  const Separation golden = {.intra = 0.445094569463,
                             .inter = 0.564365209428,
                             .inter_other = (4 * 0.564365209428 - 0.445094569463) / 3,
                             .silhouette = -0.104143655029,
                             .classes = 4};
  const Tensor x = features_golden(), labels = labels_golden();
  expect_near(separation(x, labels, 4), golden, 1e-9);
  expect_near(separation(x.cast(DType::f32), labels, 4), golden, 1e-6);
  expect_near(separation(x.cast(DType::bf16), labels, 4), golden, 5e-3);
}

TEST(Separation, IsWhatLoopsOverAllPairsGive) {
  for (const int64_t d : {2, 31}) {
    const Tensor x = hashed(fmt::format("sep.{}", d), {33, d});
    std::vector<int64_t> labels;
    for (int64_t i = 0; i < 33; ++i) labels.push_back(i * i % 7);  // 0, 1, 2 and 4
    labels[5] = 9;                                                 // alone in its class
    const Tensor y = Tensor::from(labels, {33});
    const Separation want = by_pairs(x, y);
    EXPECT_EQ(want.classes, 5);
    expect_near(separation(x, y, 12), want, 1e-12);
    // Blocks of few rows, the last one smaller.
    expect_near(separation(x, y, 12, {.scratch_bytes = 4 * 8 * (4 * d + 5)}), want, 1e-12);
    expect_near(separation(x, y, 12, {.scratch_bytes = 0}), want, 1e-12);
  }
}

// Classes whose samples differ in the last digits that f32 holds: `spread` around class means that
// lie `apart` from each other on the sphere.
TEST(Separation, TightClustersKeepTheirDigitsInSinglePrecision) {
  for (const auto& [apart, spread] : {std::pair{1.0, 1e-3}, {1e-2, 1e-3}, {1e-3, 1e-3}}) {
    const Tensor base = hashed("sep.base", {1, 16});
    const Tensor centres = ops::affine(apart, hashed("sep.centres", {5, 16}), 0.0);
    std::vector<int64_t> labels;
    for (int64_t i = 0; i < 60; ++i) labels.push_back(i % 5);
    const Tensor y = Tensor::from(labels, {60});
    const Tensor x = ops::add(ops::add(ops::gather_rows(centres, y), base),
                              ops::affine(spread, hashed("sep.noise", {60, 16}), 0.0))
                         .cast(DType::f32);
    expect_near(separation(x, y, 5), by_pairs(x, y), 1e-6);
  }
}

TEST(Separation, LimitingCases) {
  const Tensor labels = Tensor::from<int64_t>({0, 0, 1, 1});
  // Two directions at a right angle: nothing within a class, 1 between.
  const Tensor apart = Tensor::from(std::vector<double>{1, 0, 5, 0, 0, 2, 0, 1}, {4, 2});
  expect_near(separation(apart, labels, 2),
              {.intra = 0, .inter = 0.5, .inter_other = 1, .silhouette = 1, .classes = 2}, 1e-15);
  const Separation same = separation(Tensor::full({4, 3}, 0.1), labels, 2);
  EXPECT_NEAR(same.inter, 0.0, 1e-14);
  EXPECT_EQ(same.silhouette, 0.0);
  const Separation singles =
      separation(hashed("sep.s", {3, 4}), Tensor::from<int64_t>({2, 0, 1}), 3);
  EXPECT_EQ(singles.silhouette, 0.0);
  EXPECT_NEAR(singles.intra, 0.0, 1e-15);
  // Lengths do not matter.
  const Tensor x = hashed("sep.l", {4, 3});
  const Tensor lengths = Tensor::from(std::vector<double>{1e-9, 1, 1e9, 3}, {4, 1});
  expect_near(separation(ops::mul(x, lengths), labels, 2), separation(x, labels, 2), 1e-14);
}

TEST(Separation, DevicesGiveTheCpusValues) {
  for (const Device device : test::other_devices()) {
    const Tensor x = features_golden(), labels = labels_golden();
    const Separation want = separation(x, labels, 4);
    expect_near(separation(x.to(device), labels, 4), want, 1e-12);
    expect_near(
        separation(x.cast(DType::f32).to(device), labels.to(device), 4, {.scratch_bytes = 2000}),
        want, 1e-6);
    Tensor zero = x.clone();
    zero.narrow(17, 1).zero_();
    expect_refused([&] { separation(zero.to(device), labels, 4); }, "row 17 is zero");
  }
}

TEST(Separation, Mistakes) {
  const Tensor x = features_golden(), labels = labels_golden();
  expect_refused([&] { separation(x, labels, 3); }, "label 3 of row 3 is outside [0, 3)");
  expect_refused(
      [&] { separation(x, ops::affine(-1.0, labels.cast(DType::f64), 0.0).cast(DType::i64), 4); },
      "label -1 of row 1");
  expect_refused([&] { separation(x, Tensor::zeros({20}, DType::i64), 4); },
                 "at least 2 classes, got 1");
  expect_refused([&] { separation(x, labels, 1); }, "at least 2 classes, got 1");
  expect_refused([&] { separation(x, labels.narrow(0, 19), 4); }, "i64 labels (20)");
  expect_refused([&] { separation(x, labels.cast(DType::i32), 4); }, "i64 labels (20)");
  expect_refused([&] { separation(x.flatten(), labels, 4); }, "features (N, d)");
  Tensor broken = x.clone();
  broken.narrow(6, 1).zero_();
  expect_refused([&] { separation(broken, labels, 4, {.scratch_bytes = 0}); }, "row 6 is zero");
  broken.data<double>()[1] = INFINITY;
  expect_refused([&] { separation(broken, labels, 4); }, "NaN or infinity");
}

}  // namespace
}  // namespace facet
