// The optimiser steps of the backend; more values of the official implementations are in
// optimizer_test.cpp.
#include <gtest/gtest.h>

#include "tensor/ops.h"
#include "tensor/parallel.h"
#include "tests/generators.h"

namespace facet {
namespace {

void expect_start(const Tensor& x, const std::vector<double>& expected) {
  test::expect_near(x, expected, 5e-12);
}

TEST(Lars, ZeroNormsDoNotAdapt) {
  for (const LarsForm form : {LarsForm::simclr, LarsForm::moco_v3, LarsForm::larc}) {
    std::vector<Tensor> params = {Tensor::zeros({4}, DType::f64), Tensor::full({4}, 2, DType::f64)};
    const std::vector<Tensor> grads = {Tensor::full({4}, .5, DType::f64),
                                       Tensor::zeros({4}, DType::f64)};
    // Filled with what must not be read at the first step.
    std::vector<Tensor> momentum = {Tensor::full({4}, 1e30, DType::f64),
                                    Tensor::full({4}, 1e30, DType::f64)};
    const LarsArgs args{
        .lr = .1, .weight_decay = form == LarsForm::larc ? .1 : 0., .form = form, .first = true};
    params[0].backend().lars_step(params, grads, momentum, std::vector{args, args});
    expect_start(params[0], {-.05, -.05, -.05, -.05});  // trust ratio 1
    expect_start(params[1], {2, 2, 2, 2});              // LARC does not even decay
  }
}

// torch.optim.Adam by hand: the decay joins the gradient.
TEST(Adam, L2Form) {
  std::vector<Tensor> params = {Tensor::from({2.0})};
  const std::vector<Tensor> grads = {Tensor::from({0.5})};
  std::vector<Tensor> mean = {Tensor::from({0.1})}, square = {Tensor::from({0.2})};
  params[0].backend().adamw_step(
      params, grads, mean, square,
      std::vector{AdamArgs{.lr = .01, .weight_decay = .1, .decoupled = false, .step = 3}});
  const double d = .5 + .1 * 2.0, m = .9 * .1 + .1 * d, v = .999 * .2 + .001 * d * d;
  const double bias1 = 1 - std::pow(.9, 3), bias2 = 1 - std::pow(.999, 3);
  expect_start(params[0], {2.0 - .01 / bias1 * m / (std::sqrt(v) / std::sqrt(bias2) + 1e-8)});
  expect_start(mean[0], {m});
  expect_start(square[0], {v});
}

TEST(Sgd, WithoutMomentumNeedsNoBuffer) {
  std::vector<Tensor> params = {Tensor::from({2.0, -1.0})};
  const std::vector<Tensor> grads = {Tensor::from({0.5, 0.25})};
  std::vector<Tensor> momentum(1);
  params[0].backend().sgd_step(params, grads, momentum,
                               std::vector{SgdArgs{.lr = .1, .weight_decay = .5}});
  expect_start(params[0], {2.0 - .1 * 1.5, -1.0 - .1 * -.25});
}

// Many tensors of odd sizes in one call, for several numbers of threads: bit for bit what each
// tensor gives alone on one thread.
TEST(MultiTensor, SameAsOneByOne) {
  const std::vector<int64_t> sizes = {1, 5, 4095, 4096, 4097, 0, 33, 100003, 7};
  const auto make = [&](uint64_t stream) {
    std::vector<Tensor> tensors;
    for (size_t i = 0; i < sizes.size(); ++i)
      tensors.push_back(ops::random_normal({sizes[i]}, RandomKey{stream, 0}.child(i)));
    return tensors;
  };
  const auto step = [](std::span<Tensor> w, std::span<const Tensor> g, std::span<Tensor> m,
                       std::span<double> squares) {
    const std::vector<LarsArgs> args(w.size(), {.lr = .1, .weight_decay = 1e-2});
    w[0].backend().lars_step(w, g, m, args);
    w[0].backend().ema_step(m, g, .9);
    w[0].backend().scale(m, std::vector<double>(w.size(), 1.5));
    w[0].backend().sum_squares(m, squares);
  };
  const std::vector<Tensor> grads = make(1);
  std::vector<Tensor> expected_w = make(2), expected_m = make(3);
  std::vector<double> expected_squares(sizes.size());
  const int threads = num_threads();
  set_num_threads(1);
  for (size_t i = 0; i < sizes.size(); ++i)
    step(std::span(expected_w).subspan(i, 1), std::span(grads).subspan(i, 1),
         std::span(expected_m).subspan(i, 1), std::span(expected_squares).subspan(i, 1));
  for (const int n : {1, 2, 3, 4}) {
    set_num_threads(n);
    std::vector<Tensor> w = make(2), m = make(3);
    std::vector<double> squares(sizes.size());
    step(w, grads, m, squares);
    for (size_t i = 0; i < sizes.size(); ++i) {
      EXPECT_EQ(w[i].to_vector<float>(), expected_w[i].to_vector<float>()) << i;
      EXPECT_EQ(m[i].to_vector<float>(), expected_m[i].to_vector<float>()) << i;
      EXPECT_EQ(squares[i], expected_squares[i]) << i;
    }
  }
  set_num_threads(threads);
}

TEST(MultiTensor, EmaScaleAndSums) {
  std::vector<Tensor> average = {Tensor::from({1.0, 2.0}), Tensor::from({3.0})};
  const std::vector<Tensor> value = {Tensor::from({5.0, 6.0}), Tensor::from({7.0})};
  average[0].backend().ema_step(average, value, .75);
  expect_start(average[0], {2.0, 3.0});
  expect_start(average[1], {4.0});
  average[0].backend().scale(average, std::vector{2.0, .5});
  expect_start(average[0], {4.0, 6.0});
  expect_start(average[1], {2.0});
  std::vector<double> sums(2);
  average[0].backend().sum_squares(average, sums);
  EXPECT_EQ(sums, (std::vector{52.0, 4.0}));
}

}  // namespace
}  // namespace facet
