// The CPU kernels against plain loops in f64 on odd shapes, and what they keep between calls:
// primitives and memory. The op table covers gradients and the usual shapes.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <future>

#include "tensor/cpu/allocator.h"
#include "tensor/cpu/conv.h"
#include "tensor/ops.h"
#include "tensor/parallel.h"

namespace facet {
namespace {

Tensor random(const Shape& shape, int stream, double low = -1.0, double high = 1.0) {
  return ops::random_uniform(shape, RandomKey{7, 0}.child(stream), low, high, DType::f64);
}

double worst_difference(const Tensor& got, const std::vector<double>& want) {
  const auto values = got.to_vector<double>();
  EXPECT_EQ(values.size(), want.size());
  double worst = 0.0;
  for (size_t i = 0; i < std::min(values.size(), want.size()); ++i) {
    if (!(std::fabs(values[i] - want[i]) <= worst)) worst = std::fabs(values[i] - want[i]);
    if (std::isnan(values[i])) return NAN;
  }
  return worst;
}

// What a result of size about `scale` may be off in this type.
double tolerance(DType dtype, double scale) {
  if (dtype == DType::f64) return 1e-12 * scale;
  return (dtype == DType::f32 ? 2e-5 : 1.6e-2) * scale;
}

constexpr DType kFloating[] = {DType::f64, DType::f32, DType::bf16};

struct ConvCase {
  int64_t n, h, w, c_in, c_out, kernel_h, kernel_w;
  ConvArgs args;
};

const ConvCase kConvCases[] = {
    {2, 7, 5, 3, 4, 3, 3, {1, 1, 1}},      {1, 9, 9, 3, 16, 7, 7, {2, 3, 1}},
    {3, 6, 8, 16, 32, 1, 1, {1, 0, 1}},    {2, 7, 7, 32, 16, 1, 1, {2, 0, 1}},
    {2, 9, 7, 6, 9, 3, 2, {2, 1, 3}},      {2, 5, 6, 8, 8, 3, 3, {1, 1, 8}},
    {1, 4, 4, 5, 7, 4, 4, {4, 0, 1}},      {2, 13, 11, 32, 48, 3, 3, {1, 1, 1}},
    {6, 14, 14, 48, 48, 3, 3, {1, 1, 1}},  {2, 8, 8, 16, 16, 3, 3, {1, 0, 1}},
    {2, 8, 8, 16, 16, 3, 3, {1, 2, 1}},    {17, 9, 7, 32, 64, 3, 3, {1, 1, 1}},
    {2, 65, 47, 3, 8, 7, 7, {1, 3, 1}},    {20, 9, 9, 4, 6, 3, 3, {2, 1, 1}},
    {32, 1, 3, 512, 512, 3, 3, {2, 1, 1}}, {16, 3, 3, 512, 528, 1, 1, {2, 0, 1}},
    {2, 3, 5, 96, 512, 1, 1, {1, 0, 1}}};

// Calls f(x index, w index, y index) for each product of the convolution.
template <typename F>
void for_each_product(const ConvCase& c, int64_t p_out, int64_t q_out, F&& f) {
  const int64_t in = c.c_in / c.args.groups, out = c.c_out / c.args.groups;
  for (int64_t n = 0; n < c.n; ++n)
    for (int64_t p = 0; p < p_out; ++p)
      for (int64_t q = 0; q < q_out; ++q)
        for (int64_t o = 0; o < c.c_out; ++o)
          for (int64_t i = 0; i < c.kernel_h; ++i)
            for (int64_t j = 0; j < c.kernel_w; ++j) {
              const int64_t h = p * c.args.stride + i - c.args.padding;
              const int64_t w = q * c.args.stride + j - c.args.padding;
              if (h < 0 || h >= c.h || w < 0 || w >= c.w) continue;
              for (int64_t k = 0; k < in; ++k)
                f(((n * c.h + h) * c.w + w) * c.c_in + o / out * in + k,
                  ((o * c.kernel_h + i) * c.kernel_w + j) * in + k,
                  ((n * p_out + p) * q_out + q) * c.c_out + o);
            }
}

TEST(Conv, AgreesWithPlainLoops) {
  for (const DType dtype : kFloating)
    for (const ConvCase& c : kConvCases) {
      if (c.c_in >= 256 && dtype != DType::f32) continue;  // f32's own
      SCOPED_TRACE(fmt::format("{} {}x{}x{}x{} -> {} kernel {}x{} stride {} padding {} groups {}",
                               name(dtype), c.n, c.h, c.w, c.c_in, c.c_out, c.kernel_h, c.kernel_w,
                               c.args.stride, c.args.padding, c.args.groups));
      const Shape w_shape{c.c_out, c.kernel_h, c.kernel_w, c.c_in / c.args.groups};
      const Tensor x = random({c.n, c.h, c.w, c.c_in}, 1).cast(dtype);
      const Tensor w = random(w_shape, 2).cast(dtype);
      const Tensor y = ops::conv2d(x, w, c.args);
      const Tensor dy = random(y.shape(), 3).cast(dtype);
      const Tensor dx = ops::conv2d_backward_input(dy, w, x.shape(), c.args);
      const Tensor dw = ops::conv2d_backward_weight(x, dy, w_shape, c.args);
      EXPECT_EQ(dw.dtype(), acc_dtype(dtype));

      const auto xs = x.to_vector<double>(), ws = w.to_vector<double>(),
                 dys = dy.to_vector<double>();
      std::vector<double> want_y(dys.size()), want_dx(xs.size()), want_dw(ws.size());
      for_each_product(c, y.dim(1), y.dim(2), [&](int64_t xi, int64_t wi, int64_t yi) {
        want_y[yi] += xs[xi] * ws[wi];
        want_dx[xi] += dys[yi] * ws[wi];
        want_dw[wi] += dys[yi] * xs[xi];
      });
      const auto scale = [](const std::vector<double>& v) {
        return std::fabs(*std::ranges::max_element(v, {}, [](double a) { return std::fabs(a); }));
      };
      EXPECT_LE(worst_difference(y, want_y), tolerance(dtype, scale(want_y)));
      EXPECT_LE(worst_difference(dx, want_dx), tolerance(dtype, scale(want_dx)));
      EXPECT_LE(worst_difference(dw, want_dw), tolerance(dtype, scale(want_dw)));
    }
}

TEST(Conv, MakesOnePrimitiveAShape) {
  const Tensor x = random({2, 6, 6, 16}, 1).cast(DType::f32);
  const Tensor w = random({16, 5, 5, 16}, 2).cast(DType::f32);
  const size_t before = cpu::conv_primitive_count();
  const auto first = ops::conv2d(x, w, {1, 2, 1}).to_vector<float>();
  EXPECT_EQ(ops::conv2d(x, w, {1, 2, 1}).to_vector<float>(), first);
  EXPECT_EQ(cpu::conv_primitive_count(), before + 1);
  ops::conv2d(x, w, {1, 1, 1});
  EXPECT_EQ(cpu::conv_primitive_count(), before + 2);
}

TEST(Matmul, AgreesWithPlainLoops) {
  for (const DType dtype : kFloating)
    for (const int64_t batch : {1, 3})
      for (int flags = 0; flags < 8; ++flags) {
        const bool trans_a = flags & 1, trans_b = flags & 2, with_bias = flags & 4;
        const int64_t m = 33, n = 17, k = 31;
        const auto shape = [&](int64_t r, int64_t c) {
          return batch == 1 ? Shape{r, c} : Shape{batch, r, c};
        };
        const Tensor a = random(trans_a ? shape(k, m) : shape(m, k), 1).cast(dtype);
        const Tensor b = random(trans_b ? shape(n, k) : shape(k, n), 2).cast(dtype);
        const Tensor bias = with_bias ? random({n}, 3).cast(dtype) : Tensor();
        Tensor out = random(shape(m, n), 4).cast(dtype);
        const double alpha = flags == 3 ? 0.5 : 1.0, beta = flags % 3 == 1 ? 0.25 : 0.0;
        const auto as = a.to_vector<double>(), bs = b.to_vector<double>();
        const auto biases = with_bias ? bias.to_vector<double>() : std::vector<double>(n);
        auto want = out.to_vector<double>();
        for (int64_t s = 0; s < batch; ++s)
          for (int64_t i = 0; i < m; ++i)
            for (int64_t j = 0; j < n; ++j) {
              double sum = 0.0;
              for (int64_t p = 0; p < k; ++p)
                sum += as[s * m * k + (trans_a ? p * m + i : i * k + p)] *
                       bs[s * n * k + (trans_b ? j * k + p : p * n + j)];
              double& to = want[(s * m + i) * n + j];
              to = alpha * sum + beta * to + biases[j];
            }
        if (beta == 0.0) out.fill_(NAN);  // must not be read
        out.backend().matmul(a, b, bias, {trans_a, trans_b, alpha, beta}, out);
        SCOPED_TRACE(fmt::format("{} batch {} flags {}", name(dtype), batch, flags));
        EXPECT_LE(worst_difference(out, want), tolerance(dtype, 10.0));
      }
}

// What a primitive keeps is used by all who run it: nothing of it may be written.
TEST(Kernels, SeveralThreadsAtOnceComputeWhatOneDoes) {
  const int threads = num_threads();
  set_num_threads(1);
  const auto results = [](int stream) {
    std::vector<std::vector<float>> all;
    for (const int64_t m : {7, 33, 128})
      for (const int64_t k : {16, 63, 200}) {
        const Tensor a = random({m, k}, stream).cast(DType::f32);
        const Tensor w = random({m, 3, 3, k}, stream + 1).cast(DType::f32);
        const Tensor x = random({2, 8, 8, k}, stream + 2).cast(DType::f32);
        all.push_back(ops::matmul(a, x.reshape({128, k}), false, true).to_vector<float>());
        all.push_back(ops::matmul(a, a, true).to_vector<float>());
        all.push_back(ops::conv2d(x, w, {1, 1, 1}).to_vector<float>());
      }
    return all;
  };
  const auto first = results(10), second = results(20);
  for (int round = 0; round < 10; ++round) {
    auto other = std::async(std::launch::async, results, 20);
    EXPECT_TRUE(results(10) == first) << round;
    EXPECT_TRUE(other.get() == second) << round;
  }
  set_num_threads(threads);
}

TEST(MaxPool, AgreesWithPlainLoopsAndKeepsTheFirstOfEquals) {
  for (const DType dtype : kFloating)
    for (const PoolArgs args :
         {PoolArgs{3, 2, 1}, PoolArgs{2, 2, 0}, PoolArgs{3, 1, 1}, PoolArgs{2, 3, 0}})
      for (const int64_t channels : {5, 64, 70}) {
        // Few distinct values, so that equals are common.
        Tensor x = random({2, 7, 9, channels}, 1, 0.0, 4.0);
        for (int64_t i = 0; i < x.numel(); ++i)
          x.data<double>()[i] = std::floor(x.data<double>()[i]);
        x = x.cast(dtype);
        const auto [y, where] = ops::max_pool2d(x, args);
        const Tensor dy = random(y.shape(), 2).cast(dtype);
        const Tensor dx = ops::max_pool2d_backward(dy, where, x.shape(), args);
        const auto xs = x.to_vector<double>(), dys = dy.to_vector<double>();
        std::vector<double> want_y(dys.size()), want_dx(xs.size());
        for (int64_t at = 0; at < y.numel(); ++at) {
          const int64_t c = at % channels, q = at / channels % y.dim(2);
          const int64_t p = at / channels / y.dim(2) % y.dim(1);
          const int64_t image = at / (y.numel() / 2);
          int64_t best = -1;
          for (int i = 0; i < args.kernel; ++i)
            for (int j = 0; j < args.kernel; ++j) {
              const int64_t h = p * args.stride + i - args.padding;
              const int64_t w = q * args.stride + j - args.padding;
              if (h < 0 || h >= 7 || w < 0 || w >= 9) continue;
              const int64_t candidate = ((image * 7 + h) * 9 + w) * channels + c;
              if (best < 0 || xs[candidate] > xs[best]) best = candidate;
            }
          want_y[at] = xs[best];
          want_dx[best] += dys[at];
        }
        SCOPED_TRACE(fmt::format("{} kernel {} stride {} channels {}", name(dtype), args.kernel,
                                 args.stride, channels));
        EXPECT_EQ(worst_difference(y, want_y), 0.0);
        EXPECT_LE(worst_difference(dx, want_dx), tolerance(dtype, 2.0));
      }
}

// Everything that batch normalisation gives, by plain loops.
struct NormReference {
  std::vector<double> y, mean, rstd, running_mean, running_var, dx, dresidual, dgamma, dbeta;
};

NormReference reference(const Tensor& x, const Tensor& residual, const Tensor& gamma,
                        const Tensor& beta, const Tensor& dy, const BatchNormArgs& args) {
  const int64_t rows = x.rows(), cols = x.cols();
  const auto xs = x.to_vector<double>(), g = gamma.to_vector<double>(),
             b = beta.to_vector<double>();
  const auto res =
      residual.defined() ? residual.to_vector<double>() : std::vector<double>(xs.size());
  auto grad = dy.to_vector<double>();
  NormReference r{std::vector<double>(xs.size()), {}, {}, {}, {},
                  std::vector<double>(xs.size()), {}, {}, {}};
  const auto n = static_cast<double>(rows);
  for (int64_t c = 0; c < cols; ++c) {
    double mean = 0.0, var = 0.0, sum = 0.0, product = 0.0;
    for (int64_t i = 0; i < rows; ++i) mean += xs[i * cols + c] / n;
    for (int64_t i = 0; i < rows; ++i) var += std::pow(xs[i * cols + c] - mean, 2) / n;
    const double rstd = 1.0 / std::sqrt(var + args.eps);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t at = i * cols + c;
      const double xhat = (xs[at] - mean) * rstd;
      r.y[at] = g[c] * xhat + b[c] + res[at];
      if (args.relu && !(r.y[at] > 0.0)) r.y[at] = grad[at] = 0.0;
      sum += grad[at];
      product += grad[at] * xhat;
    }
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t at = i * cols + c;
      r.dx[at] = g[c] * rstd * (grad[at] - sum / n - (xs[at] - mean) * rstd * product / n);
    }
    r.mean.push_back(mean);
    r.rstd.push_back(rstd);
    r.running_mean.push_back(args.momentum * mean);
    r.running_var.push_back(1.0 - args.momentum + args.momentum * var * n / (n - 1.0));
    r.dgamma.push_back(product);
    r.dbeta.push_back(sum);
  }
  r.dresidual = grad;
  return r;
}

TEST(BatchNorm, AgreesWithPlainLoops) {
  for (const DType dtype : kFloating)
    for (const Shape shape : {Shape{7, 5}, Shape{2, 33, 1, 33}, Shape{1025, 16}, Shape{3, 7, 7, 64},
                              Shape{4, 40, 41, 48}})
      for (const bool relu : {false, true})
        for (const bool with_residual : {false, true}) {
          SCOPED_TRACE(
              fmt::format("{} {} relu {} residual {}", name(dtype), shape, relu, with_residual));
          const DType acc = acc_dtype(dtype);
          const int64_t cols = shape.cols();
          // Far from zero, so that a difference of squares would lose the variance.
          const Tensor x = random(shape, 1, 9.0, 10.0).cast(dtype);
          const Tensor residual = with_residual ? random(shape, 2).cast(dtype) : Tensor();
          const Tensor dy = random(shape, 3).cast(dtype);
          const Tensor gamma = random({cols}, 4, 0.5, 1.5).cast(acc);
          const Tensor beta = random({cols}, 5).cast(acc);
          Tensor running_mean = Tensor::zeros({cols}, acc);
          Tensor running_var = Tensor::full({cols}, 1.0, acc);
          BatchNormArgs args;
          args.relu = relu;
          const NormReference want = reference(x, residual, gamma, beta, dy, args);
          const auto got =
              ops::batch_norm_train(x, residual, gamma, beta, running_mean, running_var, args);
          // bf16: only y, dx and dresidual are rounded to it.
          const double loose = dtype == DType::f64 ? 1e-11 : dtype == DType::f32 ? 1e-4 : 4e-2;
          const double tight = dtype == DType::f64 ? 1e-11 : 1e-4;
          EXPECT_LE(worst_difference(got.y, want.y), loose);
          EXPECT_LE(worst_difference(got.mean, want.mean), tight);
          EXPECT_LE(worst_difference(got.rstd, want.rstd), tight);
          EXPECT_LE(worst_difference(running_mean, want.running_mean), tight);
          EXPECT_LE(worst_difference(running_var, want.running_var), tight);
          const auto back = ops::batch_norm_backward(x, dy, gamma, got.mean, got.rstd, got.mask,
                                                     with_residual, args);
          const double sums = tight * std::sqrt(static_cast<double>(x.rows()));
          EXPECT_LE(worst_difference(back.dx, want.dx), 4 * loose);
          EXPECT_LE(worst_difference(back.dgamma, want.dgamma), 10 * sums);
          EXPECT_LE(worst_difference(back.dbeta, want.dbeta), sums);
          if (with_residual) {
            EXPECT_EQ(worst_difference(back.dresidual, want.dresidual), 0.0);
          }
          const auto eval =
              ops::batch_norm_eval(x, residual, gamma, beta, running_mean, running_var, args);
          EXPECT_EQ(eval.y.shape(), x.shape());
        }
}

TEST(BatchNorm, IsTheSameWithAnyNumberOfThreads) {
  const Tensor x = random({8, 28, 28, 64}, 1).cast(DType::f32);
  const Tensor gamma = Tensor::full({64}, 1.0), beta = Tensor::zeros({64});
  const int threads = num_threads();
  std::vector<std::vector<float>> results;
  for (const int n : {1, 2, 3}) {
    set_num_threads(n);
    Tensor mean = Tensor::zeros({64}), var = Tensor::full({64}, 1.0);
    BatchNormArgs args;
    args.relu = true;
    const auto forward = ops::batch_norm_train(x, Tensor(), gamma, beta, mean, var, args);
    const auto back = ops::batch_norm_backward(x, x, gamma, forward.mean, forward.rstd,
                                               forward.mask, false, args);
    results.push_back(var.to_vector<float>());
    for (const Tensor& t : {forward.y, back.dx, back.dgamma})
      for (float value : t.to_vector<float>()) results.back().push_back(value);
  }
  set_num_threads(threads);
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

// Large outputs are written past the caches, by other instructions: the numbers stay the same.
TEST(BatchNorm, StreamsLargeTensorsUnchanged) {
  const int64_t rows = 52000, cols = 128;  // 26.6 MB in f32
  const Tensor x = random({rows, cols}, 1).cast(DType::f32);
  const Tensor residual = random({rows, cols}, 2).cast(DType::f32);
  const Tensor gamma = random({cols}, 3, 0.5, 1.5).cast(DType::f32);
  const Tensor beta = random({cols}, 4).cast(DType::f32);
  const Tensor mean = random({cols}, 5).cast(DType::f32);
  const Tensor var = random({cols}, 6, 0.5, 1.5).cast(DType::f32);
  BatchNormArgs args;
  args.relu = true;
  args.batch_statistics = false;  // every row for itself
  const auto run = [&](int64_t start, int64_t length) {
    const Tensor part = x.narrow(start, length), added = residual.narrow(start, length);
    const auto forward = ops::batch_norm_eval(part, added, gamma, beta, mean, var, args);
    const auto back = ops::batch_norm_backward(part, added, gamma, forward.mean, forward.rstd,
                                               forward.mask, true, args);
    return std::array<Tensor, 3>{forward.y, back.dx, back.dresidual};
  };
  const auto whole = run(0, rows);
  for (const int64_t start : {int64_t{0}, rows / 2}) {
    const auto half = run(start, rows / 2);
    for (size_t i = 0; i < whole.size(); ++i)
      EXPECT_EQ(std::memcmp(whole[i].narrow(start, rows / 2).raw(), half[i].raw(), half[i].bytes()),
                0)
          << "tensor " << i << " from row " << start;
  }
}

TEST(Allocator, ReusesBlocksAndCountsThem) {
  cpu_allocator_trim();
  const AllocatorStats before = cpu_allocator_stats();
  void* block = cpu_allocate(3 << 20);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % 64, 0u);
  const AllocatorStats during = cpu_allocator_stats();
  EXPECT_GE(during.in_use - before.in_use, size_t{3} << 20);
  EXPECT_LE(during.in_use - before.in_use, (size_t{3} << 20) * 9 / 8 + 64);
  EXPECT_GE(during.peak, during.in_use);
  cpu_release(block, 3 << 20);
  EXPECT_EQ(cpu_allocator_stats().in_use, before.in_use);
  EXPECT_EQ(cpu_allocator_stats().reserved, during.reserved);
  EXPECT_EQ(cpu_allocate((3 << 20) - 100), block);  // the same size class
  cpu_release(block, (3 << 20) - 100);
  cpu_allocator_trim();
  EXPECT_EQ(cpu_allocator_stats().reserved, before.reserved);
}

}  // namespace
}  // namespace facet
