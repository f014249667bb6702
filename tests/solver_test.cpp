// Eigenvalues and average linkage against slow and plain ways to get the same.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "tensor/ops.h"

namespace facet {
namespace {

// Greedy O(n^3) agglomeration; the similarity of two clusters is the mean over their pairs, taken
// from the original matrix.
std::vector<double> greedy_linkage(const std::vector<double>& s, size_t n) {
  std::vector<std::vector<size_t>> clusters;
  for (size_t i = 0; i < n; ++i) clusters.push_back({i});
  std::vector<std::vector<double>> link(n, std::vector<double>(n));
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j) link[i][j] = s[i * n + j];
  std::vector<double> merges;
  while (clusters.size() > 1) {
    size_t a = 0, b = 1;
    for (size_t i = 0; i < clusters.size(); ++i)
      for (size_t j = i + 1; j < clusters.size(); ++j)
        if (link[i][j] > link[a][b]) a = i, b = j;
    merges.push_back(link[a][b]);
    clusters[a].insert(clusters[a].end(), clusters[b].begin(), clusters[b].end());
    clusters.erase(clusters.begin() + static_cast<std::ptrdiff_t>(b));
    link.erase(link.begin() + static_cast<std::ptrdiff_t>(b));
    for (auto& row : link) row.erase(row.begin() + static_cast<std::ptrdiff_t>(b));
    for (size_t c = 0; c < clusters.size(); ++c) {
      if (c == a) continue;
      double sum = 0;
      for (const size_t i : clusters[a])
        for (const size_t j : clusters[c]) sum += s[i * n + j];
      link[a][c] = link[c][a] = sum / static_cast<double>(clusters[a].size() * clusters[c].size());
    }
  }
  return merges;
}

Tensor cosines(const Tensor& x) {
  const Tensor unit = ops::l2_normalize(x).y;
  return ops::matmul(unit, unit, false, true);
}

void expect_linkage(const Tensor& similarity, double tolerance) {
  const std::vector<double> expected =
      greedy_linkage(similarity.to_vector<double>(), static_cast<size_t>(similarity.dim(0)));
  for (const DType dtype : {DType::f64, DType::f32}) {
    const std::vector<double> merges =
        ops::average_linkage(similarity.cast(dtype).clone()).to_vector<double>();
    ASSERT_EQ(merges.size(), expected.size());
    EXPECT_TRUE(std::is_sorted(merges.rbegin(), merges.rend()));
    const double allowed = dtype == DType::f64 ? tolerance : 2e-5;
    for (size_t i = 0; i < merges.size(); ++i) EXPECT_NEAR(merges[i], expected[i], allowed) << i;
  }
}

TEST(AverageLinkage, MatchesGreedyAgglomeration) {
  // 130 and 200 shrink the matrix on the way.
  for (const int64_t n : {1, 2, 3, 7, 64, 65, 130, 200})
    for (const int64_t features : {3, 40})
      expect_linkage(cosines(ops::random_normal({n, features}, {1, static_cast<uint64_t>(n)}, 0.0,
                                                1.0, DType::f64)),
                     1e-12);
}

TEST(AverageLinkage, HandExample) {
  const Tensor s = Tensor::from(std::vector<double>{1, .9, .2, .1,   //
                                                    .9, 1, .4, .3,   //
                                                    .2, .4, 1, .8,   //
                                                    .1, .3, .8, 1},  //
                                {4, 4});
  const std::vector<double> merges = ops::average_linkage(s.clone()).to_vector<double>();
  ASSERT_EQ(merges.size(), 3u);
  EXPECT_DOUBLE_EQ(merges[0], .9);
  EXPECT_DOUBLE_EQ(merges[1], .8);
  EXPECT_NEAR(merges[2], .25, 1e-15);  // the mean of .2, .1, .4, .3
}

// Ties, copies and zero rows: all merges between equals are at the same similarity in any order.
TEST(AverageLinkage, TiesAndZeroRows) {
  const int64_t n = 90;
  std::vector<double> x(static_cast<size_t>(n) * 3, 0.0);
  for (size_t i = 0; i < static_cast<size_t>(n); ++i)
    if (i % 4 < 3) x[i * 3 + i % 4] = 1.0;  // three axes and zeros
  const std::vector<double> merges =
      ops::average_linkage(cosines(Tensor::from(x, {n, 3}))).to_vector<double>();
  // Copies of one axis merge at 1; the rest, zero rows included, at 0.
  int ones = 0, zeros = 0;
  for (const double s : merges) ones += s == 1.0, zeros += s == 0.0;
  EXPECT_EQ(ones, 23 + 23 + 22 - 3);
  EXPECT_EQ(zeros, 22 + 2);
  expect_linkage(Tensor::full({80, 80}, 0.25, DType::f64), 1e-12);
}

TEST(AverageLinkage, RefusesNaN) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THROW(ops::average_linkage(Tensor::full({4, 4}, nan)), Error);
  EXPECT_THROW(ops::average_linkage(Tensor::zeros({3, 4})), Error);
  EXPECT_THROW(ops::average_linkage(Tensor::zeros({3, 3}, DType::bf16)), Error);
}

// The second difference matrix has eigenvalues 2 - 2 cos(pi k / (n + 1)).
TEST(Eigvalsh, SecondDifferences) {
  const int64_t n = 50;
  Tensor matrix = Tensor::zeros({n, n}, DType::f64);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = std::max<int64_t>(0, i - 1); j <= std::min(n - 1, i + 1); ++j)
      matrix.data<double>()[i * n + j] = i == j ? 2.0 : -1.0;
  const std::vector<double> before = matrix.to_vector<double>();
  const std::vector<double> values = ops::eigvalsh(matrix).to_vector<double>();
  const std::vector<double> single = ops::eigvalsh(matrix.cast(DType::f32)).to_vector<double>();
  for (int64_t k = 1; k <= n; ++k) {
    const double expected =
        2.0 - 2.0 * std::cos(M_PI * static_cast<double>(k) / static_cast<double>(n + 1));
    EXPECT_NEAR(values[static_cast<size_t>(k - 1)], expected, 1e-13);
    EXPECT_NEAR(single[static_cast<size_t>(k - 1)], expected, 1e-5);
  }
  EXPECT_EQ(matrix.to_vector<double>(), before);
  EXPECT_THROW(ops::eigvalsh(Tensor::zeros({3, 4})), Error);
}

}  // namespace
}  // namespace facet
