#include "metrics/knn.h"

#include <gtest/gtest.h>

#include <cmath>

#include "metrics/accuracy.h"
#include "tensor/ops.h"
#include "tests/generators.h"

namespace facet {
namespace {

using namespace test;

void expect_near_all(const Tensor& got, const std::vector<double>& expected, double relative) {
  const std::vector<double> values = got.to_vector<double>();
  ASSERT_EQ(values.size(), expected.size());
  for (size_t i = 0; i < values.size(); ++i)
    EXPECT_NEAR(values[i], expected[i], relative * std::fabs(expected[i])) << i;
}

TEST(Knn, Golden) {
  const Tensor train = hashed("knnT", {20, 6}), queries = hashed("knnQ", {3, 6});
  for (const Setting& at : settings()) {
    const KnnResult result =
        knn_classify(at(train), at(labels_modulo(20, 4)), 4, at(queries), {.k = 5});
    EXPECT_EQ(result.neighbours.to_vector<int64_t>(),
              (std::vector<int64_t>{4, 3, 8, 1, 18, 15, 18, 4, 12, 6, 8, 9, 0, 16, 3}));
    expect_near_all(
        result.scores,
        {5861.4218864758, 152.7274953036, 95.1191343379, 2254.0091515241, 2064.0524435734, 0.0,
         5597.3789511534, 9096.161409208, 9926.8899273, 9.7901482102, 0.0, 0.29035779339},
        at.dtype == DType::f64 ? 1e-9 : 1e-5);
  }
}

TEST(Knn, DevicesGiveTheCpusValues) {
  const Tensor train = hashed("knnT", {20, 6}), queries = hashed("knnQ", {3, 6});
  const Tensor labels = labels_modulo(20, 4);
  const KnnResult want = knn_classify(train, labels, 4, queries, {.k = 5});
  for (const Device device : other_devices()) {
    const KnnResult got = knn_classify(train.to(device), labels.to(device), 4, queries.to(device),
                                       {.k = 5, .scratch_bytes = 2 * 20 * 8});
    EXPECT_EQ(got.neighbours.to_vector<int64_t>(), want.neighbours.to_vector<int64_t>());
    expect_near_all(got.scores, want.scores.to_vector<double>(), 1e-12);
  }
}

TEST(Knn, BlocksOfQueriesDoNotChangeTheResult) {
  const Tensor train = hashed("kb1", {33, 7}), queries = hashed("kb2", {31, 7});
  const Tensor labels = labels_modulo(33, 5);
  const KnnResult whole = knn_classify(train, labels, 5, queries, {.k = 6});
  const KnnResult blocks =
      knn_classify(train, labels, 5, queries, {.k = 6, .scratch_bytes = 33 * 8 * 4});
  EXPECT_EQ(whole.neighbours.to_vector<int64_t>(), blocks.neighbours.to_vector<int64_t>());
  expect_near_all(blocks.scores, whole.scores.to_vector<double>(), 1e-12);
}

TEST(Knn, Bf16FeaturesAreComparedInSinglePrecision) {
  const Tensor train = hashed("kh1", {40, 9}).cast(DType::bf16);
  const KnnResult half = knn_classify(train, labels_modulo(40, 4), 4, train, {.k = 3});
  const KnnResult single = knn_classify(train.cast(DType::f32), labels_modulo(40, 4), 4,
                                        train.cast(DType::f32), {.k = 3});
  EXPECT_EQ(half.similarities.dtype(), DType::f32);
  EXPECT_EQ(half.neighbours.to_vector<int64_t>(), single.neighbours.to_vector<int64_t>());
}

TEST(Knn, EqualSimilaritiesGoByIndex) {
  const Tensor train = Tensor::full({6, 3}, 1.0);
  const KnnResult result =
      knn_classify(train, labels_modulo(6, 3), 3, Tensor::full({1, 3}, 2.0), {.k = 4});
  EXPECT_EQ(result.neighbours.to_vector<int64_t>(), (std::vector<int64_t>{0, 1, 2, 3}));
  EXPECT_EQ(top_k_accuracy(result.scores, Tensor::from({int64_t{0}})), 1.0);  // two votes of four
}

TEST(Knn, Mistakes) {
  const Tensor train = hashed("ke", {4, 3}), labels = labels_modulo(4, 2);
  EXPECT_THROW(knn_classify(train, labels, 2, hashed("kq", {2, 4}), {.k = 2}), Error);
  EXPECT_THROW(knn_classify(train, labels, 2, train, {.k = 5}), Error);
  EXPECT_THROW(knn_classify(train, labels, 1, train, {.k = 2}), Error);
  EXPECT_THROW(knn_classify(train, labels, 2, train, {.k = 2, .temperature = 0.0}), Error);
}

TEST(Accuracy, TopKAndPerClass) {
  const Tensor scores =
      Tensor::from(std::vector<float>{3, 1, 2, 0, 5, 4, 1, 1, 0, 0, 2, 1}, {4, 3});
  const Tensor labels = Tensor::from({int64_t{0}, int64_t{2}, int64_t{1}, int64_t{1}});
  EXPECT_DOUBLE_EQ(top_k_accuracy(scores, labels), 0.5);  // rows 0 and 3; row 2 is a tie
  EXPECT_DOUBLE_EQ(top_k_accuracy(scores, labels, 2), 1.0);
  EXPECT_DOUBLE_EQ(mean_per_class_accuracy(scores, labels), (1.0 + 0.5 + 0.0) / 3.0);
  const Tensor masked = Tensor::from({int64_t{0}, int64_t{-1}, int64_t{-1}, int64_t{1}});
  EXPECT_DOUBLE_EQ(top_k_accuracy(scores, masked), 1.0);
  EXPECT_DOUBLE_EQ(mean_per_class_accuracy(scores, masked), 1.0);  // class 2 has no sample
  EXPECT_THROW(top_k_accuracy(scores, labels, 4), Error);
  EXPECT_THROW(
      top_k_accuracy(scores, Tensor::from({int64_t{3}, int64_t{0}, int64_t{0}, int64_t{0}})),
      Error);
}

// scikit-learn 1.2: average_precision_score of the same columns.
TEST(Accuracy, AveragePrecisionAsInScikitLearn) {
  const Tensor scores =
      Tensor::from(std::vector<double>{.9, .1, 1, .8, .4, 1, .8, .35, 1, .3, .8, 1,
                                       .3, 0,  1, .2, 0,  1, .8, 0,   1, .1, 0,  1},
                   {8, 3});
  const Tensor targets = Tensor::from(
      std::vector<double>{1, 0, 0, 0, 0, 0, 1, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0},
      {8, 3});
  const MeanAveragePrecision result = mean_average_precision(scores, targets);
  EXPECT_NEAR(result.per_class[0], 0.7916666666666666, 1e-15);
  EXPECT_NEAR(result.per_class[1], 0.8333333333333333, 1e-15);
  EXPECT_TRUE(std::isnan(result.per_class[2]));  // no positive
  EXPECT_NEAR(result.mean, 0.8125, 1e-15);
}

}  // namespace
}  // namespace facet
