#include "metrics/cka.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tensor/ops.h"
#include "tests/generators.h"

namespace facet {
namespace {

using namespace test;

Tensor x_golden() {
  return hashed("cka.x", {24, 10});
}
// Y = V("cka.y", (24, 6)) + the first six columns of X
Tensor y_golden() {
  Tensor y = hashed("cka.y", {24, 6});
  const Tensor x = x_golden();
  for (int64_t i = 0; i < 24 * 6; ++i) y.data<double>()[i] += x.data<double>()[i / 6 * 10 + i % 6];
  return y;
}

// CKA of two representations over batches of `size` rows.
double minibatch_cka(const Tensor& x, const Tensor& y, int64_t size) {
  CkaAccumulator accumulator;
  for (int64_t start = 0; start < x.dim(0); start += size) {
    const Tensor first[] = {x.narrow(start, size)}, second[] = {y.narrow(start, size)};
    accumulator.add(first, second);
  }
  return accumulator.result().item();
}

// Computed in f64 by NumPy.
TEST(Cka, Goldens) {
  for (const auto& [dtype, tolerance] : {std::pair{DType::f64, 1e-9}, {DType::f32, 1e-5}}) {
    const Tensor x = x_golden().cast(dtype), y = y_golden().cast(dtype);
    EXPECT_NEAR(linear_cka(x, y), 0.578175570653, tolerance);
    EXPECT_NEAR(minibatch_cka(x, y, 8), 0.339642807673, tolerance);
    EXPECT_NEAR(minibatch_cka(x, y, 24), 0.445258720954, tolerance);
  }
  EXPECT_NEAR(linear_cka(x_golden().cast(DType::bf16), y_golden().cast(DType::bf16)),
              0.578175570653, 5e-3);
}

// HSIC_1 as the definition has it, by loops.
double hsic(const Tensor& x, const Tensor& y) {
  const int64_t n = x.dim(0);
  const auto size = static_cast<double>(n);
  const auto gram = [](const Tensor& t, int64_t i, int64_t j) {
    const int64_t d = t.dim(1);
    double sum = 0.0;
    for (int64_t c = 0; c < d; ++c)
      sum += t.data<double>()[i * d + c] * t.data<double>()[j * d + c];
    return i == j ? 0.0 : sum;
  };
  double trace = 0.0, sum_k = 0.0, sum_l = 0.0, product = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    double row_k = 0.0, row_l = 0.0;
    for (int64_t j = 0; j < n; ++j) {
      const double k = gram(x, i, j), l = gram(y, i, j);
      trace += k * l;
      row_k += k;
      row_l += l;
    }
    sum_k += row_k;
    sum_l += row_l;
    product += row_k * row_l;
  }
  return (trace + sum_k * sum_l / ((size - 1) * (size - 2)) - 2.0 / (size - 2) * product) /
         (size * (size - 3));
}

TEST(Cka, AllPairsOfLayersOverBatchesOfSeveralSizes) {
  const Shape shapes[] = {{3}, {2, 2, 5}, {1}, {40}};
  const int64_t batches[] = {4, 7, 31};
  CkaAccumulator accumulator, two_models;
  double sums[4][4] = {};
  for (const int64_t n : batches) {
    TensorList layers, flat;
    for (const Shape& shape : shapes) {
      flat.push_back(hashed(fmt::format("cka{}.{}", n, shape.numel()), {n, shape.numel()}));
      Shape full = {n};
      for (const int64_t extent : shape) full.push_back(extent);
      layers.push_back(flat.back().reshape(full));
    }
    accumulator.add(layers);
    two_models.add(std::span(layers).first(1), std::span(layers).last(3));
    for (size_t i = 0; i < 4; ++i)
      for (size_t j = 0; j < 4; ++j) sums[i][j] += hsic(flat[i], flat[j]);
  }
  const Tensor matrix = accumulator.result();
  ASSERT_EQ(matrix.shape(), (Shape{4, 4}));
  double off_diagonal = 0.0;
  for (size_t i = 0; i < 4; ++i)
    for (size_t j = 0; j < 4; ++j) {
      const double want = sums[i][j] / std::sqrt(sums[i][i] * sums[j][j]);
      EXPECT_NEAR(matrix.data<double>()[i * 4 + j], want, 1e-12) << i << " " << j;
      if (i != j) off_diagonal += want / 12.0;
    }
  EXPECT_NEAR(cka_score(matrix), 100.0 * off_diagonal, 1e-9);
  const Tensor cross = two_models.result();
  ASSERT_EQ(cross.shape(), (Shape{1, 3}));
  for (int64_t j = 0; j < 3; ++j)
    EXPECT_DOUBLE_EQ(cross.data<double>()[j], matrix.data<double>()[j + 1]);
}

// The plane rotated by one radian in the first two columns, then scaled.
Tensor rotated(const Tensor& x, double scale) {
  Tensor y = x.clone();
  const int64_t d = x.dim(1);
  for (int64_t i = 0; i < x.dim(0); ++i) {
    double* row = y.data<double>() + i * d;
    const double a = row[0], b = row[1];
    row[0] = std::cos(1.0) * a - std::sin(1.0) * b;
    row[1] = std::sin(1.0) * a + std::cos(1.0) * b;
  }
  return ops::affine(scale, y, 0.0);
}

TEST(Cka, IsOneForItselfSymmetricAndInvariant) {
  for (const int64_t d : {3, 90}) {  // by the products of features, and by Gram matrices
    const Tensor x = hashed("cka.a", {20, d}), y = hashed("cka.b", {20, d + 2});
    EXPECT_NEAR(linear_cka(x, x), 1.0, 1e-12);
    EXPECT_NEAR(linear_cka(x, y), linear_cka(y, x), 1e-12);
    EXPECT_NEAR(linear_cka(rotated(x, 1e3), y), linear_cka(x, y), 1e-12);
    EXPECT_NEAR(linear_cka(ops::affine(1.0, x, 5.0), y), linear_cka(x, y), 1e-12);
    EXPECT_NEAR(minibatch_cka(x, x, 10), 1.0, 1e-12);
    EXPECT_NEAR(minibatch_cka(rotated(x, -0.01), y, 5), minibatch_cka(x, y, 5), 1e-12);
    EXPECT_NEAR(minibatch_cka(ops::affine(1.0, x, 5.0), y, 5), minibatch_cka(x, y, 5), 1e-12);
  }
}

// Both ways to take the exact form, on the same numbers: zero columns change nothing but the way.
TEST(Cka, GramAndFeatureFormsAgree) {
  const Tensor x = hashed("cka.f", {12, 4}), y = hashed("cka.g", {12, 3});
  Tensor wide = Tensor::zeros({12, 200}, DType::f64);
  for (int64_t i = 0; i < 12 * 4; ++i)
    wide.data<double>()[i / 4 * 200 + i % 4] = x.data<double>()[i];
  EXPECT_NEAR(linear_cka(wide, y), linear_cka(x, y), 1e-13);
}

// A mean a thousand times the spread: the textbook form loses every digit in f32.
TEST(Cka, KeepsItsDigitsBesideALargeMean) {
  const Tensor x = hashed("cka.m", {64, 32}), y = hashed("cka.n", {64, 48});
  const Tensor shifted = ops::affine(1.0, x, 1000.0).cast(DType::f32);
  const Tensor same = shifted.cast(DType::f64);  // the numbers that f32 can hold
  EXPECT_NEAR(minibatch_cka(shifted, y.cast(DType::f32), 32), minibatch_cka(same, y, 32), 1e-5);
  EXPECT_NEAR(linear_cka(shifted, y.cast(DType::f32)), linear_cka(same, y), 1e-5);
}

TEST(Cka, DevicesGiveTheCpusValues) {
  for (const Device device : test::other_devices()) {
    const Tensor x = x_golden().to(device), y = y_golden().to(device);
    EXPECT_NEAR(linear_cka(x, y), 0.578175570653, 1e-9);
    EXPECT_NEAR(minibatch_cka(x, y, 8), 0.339642807673, 1e-9);
    EXPECT_NEAR(minibatch_cka(x.cast(DType::f32), y.cast(DType::f32), 8), 0.339642807673, 1e-5);
    expect_refused(
        [&] {
          linear_cka(x, Tensor::zeros({24, 3}, DType::f64, device));
        },
        "same for all");
  }
}

TEST(Cka, Mistakes) {
  const Tensor x = x_golden(), y = y_golden();
  CkaAccumulator accumulator;
  const auto add = [&](const Tensor& a, const Tensor& b) {
    const Tensor layers[] = {a, b};
    accumulator.add(layers);
  };
  expect_refused([&] { accumulator.result(); }, "no batches");
  expect_refused([&] { accumulator.add({}); }, "no layers");
  expect_refused([&] { add(x.narrow(0, 3), y.narrow(0, 3)); }, "at least 4 samples");
  expect_refused([&] { add(x, y.narrow(0, 23)); }, "24 samples of f64 on cpu");
  expect_refused([&] { add(x, y.cast(DType::f32)); }, "layer 1");
  expect_refused([&] { add(x, Tensor::full({24, 2}, 0.1, DType::f64)); }, "representation 2");
  expect_refused([&] { add(x, Tensor::zeros({24}, DType::f64)); }, "(n, ...)");
  expect_refused([&] { add(x, Tensor::zeros({24, 2}, DType::i64)); }, "(n, ...)");
  Tensor broken = y.clone();
  broken.data<double>()[7] = std::nan("");
  expect_refused([&] { add(x, broken); }, "not finite");
  add(x, y);
  expect_refused([&] { accumulator.add(std::span(&x, 1)); }, "expected 2 and 0 layers");
  expect_refused([&] { linear_cka(x, y.narrow(0, 23)); }, "the same samples");
  expect_refused([&] { linear_cka(x.narrow(0, 1), y.narrow(0, 1)); }, "at least 2 samples");
  expect_refused([&] { linear_cka(x, Tensor::full({24, 2}, 0.1, DType::f64)); }, "same for all");
  expect_refused([&] { cka_score(Tensor::zeros({1, 1})); }, "at least 2 layers");
}

}  // namespace
}  // namespace facet
