// Tensors, the operations above the backends, and the profiler.
#include "tensor/tensor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tensor/ops.h"
#include "tensor/parallel.h"
#include "tensor/profile.h"
#include "tests/folder.h"

namespace facet {
namespace {

using test::error_of;
using Values = std::vector<double>;

Tensor iota(const Shape& shape, DType dtype = DType::f64) {
  Values values(static_cast<size_t>(shape.numel()));
  std::iota(values.begin(), values.end(), 0.0);
  return Tensor::from(values, shape).cast(dtype);
}

// ---- handles, views, copies

TEST(Tensor, CopiesShareAndClonesDoNot) {
  Tensor t = Tensor::full({2, 3}, 1.5);
  Tensor shared = t, clone = t.clone();
  EXPECT_FALSE(t.is_sole_owner());
  shared.fill_(2);
  EXPECT_EQ(t.to_vector<double>(), Values(6, 2.0));
  EXPECT_EQ(clone.to_vector<double>(), Values(6, 1.5));
  EXPECT_TRUE(clone.is_sole_owner());
  EXPECT_EQ(t.str(), "f32 (2, 3) on cpu");
  EXPECT_FALSE(Tensor().defined());
}

TEST(Tensor, Views) {
  const Tensor t = iota({4, 3});
  const Tensor middle = t.narrow(1, 2);
  EXPECT_TRUE(middle.shares_storage_with(t));
  EXPECT_EQ(middle.to_vector<double>(), (Values{3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(middle.reshape({3, 2}).narrow(2, 1).to_vector<double>(), (Values{7, 8}));
  EXPECT_THROW(t.narrow(3, 2), Error);
  EXPECT_THROW(t.reshape({5}), Error);
  EXPECT_THROW(t.data<float>(), Error);
  EXPECT_THROW(t.item(), Error);
}

TEST(Tensor, Casts) {
  const Tensor t = Tensor::from({1.0, -2.75, 255.0, 1.00390625});
  EXPECT_EQ(t.cast(DType::i32).to_vector<int32_t>(), (std::vector<int32_t>{1, -2, 255, 1}));
  // 1 + 1/256 lies between two bf16 numbers and goes to the even one.
  EXPECT_EQ(t.cast(DType::bf16).to_vector<double>(), (Values{1.0, -2.75, 255.0, 1.0}));
  EXPECT_EQ(bf16(1.01171875f), 1.015625f);
  EXPECT_TRUE(std::isnan(static_cast<float>(bf16(std::numeric_limits<float>::quiet_NaN()))));
  EXPECT_EQ(static_cast<float>(bf16(3.4e38f)), std::numeric_limits<float>::infinity());
}

// ---- broadcasting, against an index loop

double at(const Values& values, const Shape& shape, const std::vector<int64_t>& index) {
  int64_t offset = 0;
  const int skip = static_cast<int>(index.size()) - shape.rank();
  for (int d = 0; d < shape.rank(); ++d)
    offset = offset * shape[d] + (shape[d] == 1 ? 0 : index[static_cast<size_t>(d + skip)]);
  return values[static_cast<size_t>(offset)];
}

TEST(Broadcast, AllPatternsOfFiveAxes) {
  // Every axis of a and b is whole or repeated: 4^5 pairs.
  const int64_t full[5] = {2, 3, 2, 2, 3};
  for (int pattern = 0; pattern < 1024; ++pattern) {
    Shape a, b, out;
    for (int d = 0; d < 5; ++d) {
      a.push_back(pattern >> d & 1 ? full[d] : 1);
      b.push_back(pattern >> (d + 5) & 1 ? full[d] : 1);
      out.push_back(std::max(a[d], b[d]));
    }
    const Tensor x = iota(a), y = ops::affine(100, iota(b), 0.5);
    const Values vx = x.to_vector<double>(), vy = y.to_vector<double>();
    const Tensor z = ops::sub(x, y);
    ASSERT_EQ(z.shape(), out);
    const Values vz = z.to_vector<double>();
    const auto [dx, dy] =
        ops::binary_backward(BinaryOp::sub, x, y, Tensor::full(out, 1, DType::f64), true, true);
    ASSERT_EQ(dx.shape(), a);
    ASSERT_EQ(dx.to_vector<double>(),
              Values(vx.size(), static_cast<double>(out.numel() / a.numel())));
    ASSERT_EQ(dy.to_vector<double>(),
              Values(vy.size(), -static_cast<double>(out.numel() / b.numel())));
    for (int64_t i = 0; i < out.numel(); ++i) {
      std::vector<int64_t> index(5);
      for (int64_t d = 4, rest = i; d >= 0; rest /= out[static_cast<int>(d)], --d)
        index[static_cast<size_t>(d)] = rest % out[static_cast<int>(d)];
      ASSERT_EQ(vz[static_cast<size_t>(i)], at(vx, a, index) - at(vy, b, index))
          << a.str() << b.str();
    }
  }
}

TEST(Broadcast, LargeRowsAndColumns) {
  const int64_t rows = 301, cols = 67;
  const Tensor x = iota({rows, cols}), row = iota({cols}), column = iota({rows, 1});
  const Values by_row = ops::mul(x, row).to_vector<double>();
  const Values by_column = ops::mul(column, x).to_vector<double>();
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) {
      const auto k = static_cast<size_t>(i * cols + j);
      ASSERT_EQ(by_row[k], static_cast<double>(k) * static_cast<double>(j));
      ASSERT_EQ(by_column[k], static_cast<double>(k) * static_cast<double>(i));
    }
  EXPECT_EQ(ops::broadcast_to(Tensor::full({}, 3.0), {2, 2}).to_vector<double>(), Values(4, 3.0));
}

// ---- permutations, against an index loop

TEST(Permute, AllOrdersOfFourAxes) {
  const Tensor x = iota({3, 37, 5, 41}, DType::f32);
  int order[4] = {0, 1, 2, 3};
  do {
    const Tensor y = ops::permute(x, {order[0], order[1], order[2], order[3]});
    const float* values = y.data<float>();
    int64_t stride[4], index[4];
    for (int d = 3, step = 1; d >= 0; step *= static_cast<int>(x.dim(d)), --d) stride[d] = step;
    for (int64_t i = 0; i < y.numel(); ++i) {
      int64_t source = 0, rest = i;
      for (int d = 3; d >= 0; --d) {
        index[d] = rest % y.dim(d);
        rest /= y.dim(d);
        source += index[d] * stride[order[d]];
      }
      ASSERT_EQ(values[i], static_cast<float>(source));
    }
  } while (std::next_permutation(order, order + 4));
  for (const DType dtype : {DType::u8, DType::bf16, DType::i64})
    EXPECT_EQ(ops::transpose(iota({2, 3}, dtype)).to_vector<double>(), (Values{0, 3, 1, 4, 2, 5}));
}

// ---- sums

TEST(Reduce, AccurateForLongSums) {
  // Plain f32 addition of 3e6 times 0.1 is off by 1e-2.
  const int64_t n = 3'000'001;
  const double one = static_cast<double>(0.1f);
  const Tensor x = Tensor::full({n}, 0.1);
  EXPECT_NEAR(ops::reduce(ReduceOp::sum, x).item() / (one * static_cast<double>(n)), 1.0, 1e-6);
  EXPECT_NEAR(ops::reduce(ReduceOp::mean, x).item() / one, 1.0, 1e-6);
  const Values columns =
      ops::reduce(ReduceOp::sum, Tensor::full({200000, 7}, 0.1), 0).to_vector<double>();
  for (const double sum : columns) EXPECT_NEAR(sum / (one * 200000), 1.0, 2e-6);
}

TEST(Reduce, SameForAnyNumberOfThreads) {
  const Tensor x = ops::random_normal({40, 1111, 9}, {1, 1});
  const Tensor long_row = ops::random_normal({300000}, {1, 2});
  const int threads = num_threads();
  const auto run = [&] {
    Values values;
    for (const Tensor& y :
         {ops::reduce(ReduceOp::sum, x, 1), ops::reduce(ReduceOp::sum_squares, x, 0),
          ops::reduce(ReduceOp::mean, x, 2), ops::reduce(ReduceOp::sum, long_row),
          ops::reduce(ReduceOp::max, x, 0, 1), ops::softmax(long_row), ops::gelu(long_row),
          ops::exp(x), ops::l2_normalize(x).y}) {
      const Values more = y.to_vector<double>();
      values.insert(values.end(), more.begin(), more.end());
    }
    return values;
  };
  set_num_threads(1);
  const Values expected = run();
  for (const int n : {2, 3, 5}) {
    set_num_threads(n);
    EXPECT_EQ(run(), expected);
  }
  set_num_threads(threads);
}

TEST(Reduce, NaNAndEmpty) {
  Tensor x = iota({3, 40});
  x.data<double>()[57] = std::numeric_limits<double>::quiet_NaN();
  for (const ReduceOp op : {ReduceOp::max, ReduceOp::min})
    for (const int axis : {0, 1}) {
      const Values y = ops::reduce(op, x, axis).to_vector<double>();
      for (size_t i = 0; i < y.size(); ++i)
        EXPECT_EQ(std::isnan(y[i]), i == (axis == 0 ? 17u : 1u));
    }
  EXPECT_EQ(ops::reduce(ReduceOp::sum, Tensor::zeros({0, 3}), 0).to_vector<double>(), Values(3, 0));
  EXPECT_THROW(ops::reduce(ReduceOp::max, Tensor::zeros({0, 3}), 0), Error);
}

TEST(TopK, TiesByIndex) {
  const Tensor x = Tensor::from(Values{1, 3, 3, 2, 3, 1, /**/ 0, 0, 0, 0, 0, 0}, {2, 6});
  const ops::TopK top = ops::topk(x, 4);
  EXPECT_EQ(top.values.to_vector<double>(), (Values{3, 3, 3, 2, 0, 0, 0, 0}));
  EXPECT_EQ(top.indices.to_vector<double>(), (Values{1, 2, 4, 3, 0, 1, 2, 3}));
  EXPECT_EQ(ops::argmax(x).to_vector<double>(), (Values{1, 0}));
}

TEST(FindNonfinite, NamesTheFirst) {
  std::vector<Tensor> tensors = {Tensor::zeros({5000}), Tensor::zeros({100000}),
                                 Tensor::zeros({3}, DType::bf16), Tensor::zeros({7}, DType::f64)};
  EXPECT_EQ(ops::find_nonfinite(tensors), -1);
  EXPECT_EQ(ops::find_nonfinite({}), -1);
  tensors[3].data<double>()[6] = -std::numeric_limits<double>::infinity();
  EXPECT_EQ(ops::find_nonfinite(tensors), 3);
  tensors[2].data<bf16>()[0] = bf16(std::numeric_limits<float>::quiet_NaN());
  EXPECT_EQ(ops::find_nonfinite(tensors), 2);
  tensors[1].data<float>()[99999] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(ops::find_nonfinite(tensors), 1);
}

// ---- losses far from zero

TEST(CrossEntropy, LargeLogitsAndMasks) {
  // Shifting all logits changes nothing, not even at 1e4 in f32.
  const Tensor x = ops::affine(1, iota({4, 5}, DType::f32), 10000);
  const Tensor labels = Tensor::from<int64_t>({0, -1, 4, 2});
  const double log_sum = std::log(1 + std::exp(-1) + std::exp(-2) + std::exp(-3) + std::exp(-4));
  const Values loss = ops::cross_entropy(x, labels).loss.to_vector<double>();
  EXPECT_NEAR(loss[0], log_sum + 4, 1e-6);
  EXPECT_EQ(loss[1], 0.0);
  EXPECT_NEAR(loss[2], log_sum, 1e-6);
  const Values smooth = ops::cross_entropy(x, labels, 0.1).loss.to_vector<double>();
  EXPECT_NEAR(smooth[2], log_sum + 0.1 * 2, 1e-6);
  EXPECT_NEAR(ops::soft_cross_entropy(x, Tensor::full({4, 5}, 0.2)).loss.to_vector<double>()[3],
              log_sum + 2, 1e-6);
}

// ---- rows in and out

TEST(ScatterAdd, SumsInAscendingOrder) {
  const Tensor index = Tensor::from<int64_t>({2, 0, 2, 2});
  const Tensor out = ops::scatter_add_rows(iota({4, 1500}), index, {4, 1500});
  const Values values = out.to_vector<double>();
  for (size_t j = 0; j < 1500; ++j) {
    const double v = static_cast<double>(j);
    EXPECT_EQ(values[j], 1500 + v);
    EXPECT_EQ(values[1500 + j], 0.0);
    EXPECT_EQ(values[3000 + j], 0 + 3000 + 4500 + 3 * v);
    EXPECT_EQ(values[4500 + j], 0.0);
  }
  EXPECT_EQ(ops::gather_rows(out.narrow(0, 3), index).to_vector<double>().size(), 6000u);
}

// ---- what callers get wrong

TEST(Errors, NameTheOperationAndTheShapes) {
  const Tensor x = Tensor::zeros({8, 32, 32, 3}), w = Tensor::zeros({64, 3, 3, 64});
  const std::string conv = error_of<Error>([&] { ops::conv2d(x, w, {}); });
  test::expect_parts(conv, {"[conv2d]", "C=64", "(8, 32, 32, 3)"});

  const std::string mixed =
      error_of<Error>([&] { ops::add(Tensor::zeros({2}), Tensor::zeros({2}, DType::bf16)); });
  test::expect_parts(mixed, {"[add]", "cast"});

  const std::string label = error_of<Error>([&] {
    ops::cross_entropy(Tensor::zeros({3, 10}), Tensor::from<int64_t>({0, -1, 10}));
  });
  EXPECT_NE(label.find("10 at row 2"), std::string::npos) << label;

  const Tensor a = Tensor::zeros({2, 3}), b = Tensor::zeros({4, 5});
  Tensor out = Tensor::zeros({2, 4});
  EXPECT_NE(error_of<Error>([&] { ops::matmul(a, b); }).find("(4, 5)"), std::string::npos);
  EXPECT_NE(error_of<Error>([&] {
              ops::matmul_into(a, Tensor::zeros({3, 5}), {}, out);
            }).find("(2, 5)"),
            std::string::npos);
  EXPECT_NE(error_of<Error>([&] { ops::mul(a, b); }).find("[mul]"), std::string::npos);
  EXPECT_NE(error_of<Error>([&] { ops::exp(Tensor()); }).find("[exp]"), std::string::npos);
  EXPECT_NE(error_of<Error>([&] {
              ops::gather_rows(a, Tensor::from<int64_t>({0, 2}));
            }).find("[gather_rows]"),
            std::string::npos);
}

// ---- the profiler

TEST(Profile, CountsByMethodAndShape) {
  const Tensor x = iota({3, 4});
  Values before, during;
  before = ops::exp(x).to_vector<double>();
  {
    Profile profile(DeviceType::cpu, true);
    during = ops::exp(x).to_vector<double>();
    ops::exp(x);
    ops::add(x, x);
    int64_t unary = 0, binary = 0;
    for (const auto& row : profile.rows()) {
      EXPECT_GE(row.seconds, 0.0);
      if (row.name == "unary (3, 4) (3, 4)") unary += row.calls;
      if (row.name == "binary (3, 4) (3, 4) (3, 4)") binary += row.calls;
    }
    EXPECT_EQ(unary, 2);
    EXPECT_EQ(binary, 1);
    const std::vector<std::string> unreached = profile.unreached();
    const auto missing = [&](const char* name) {
      return std::find(unreached.begin(), unreached.end(), name) != unreached.end();
    };
    EXPECT_FALSE(missing("unary"));
    EXPECT_TRUE(missing("conv2d"));
    profile.reset();
    EXPECT_TRUE(profile.rows().empty());
    EXPECT_EQ(profile.unreached(), ProfilingBackend::methods());
  }
  EXPECT_EQ(before, during);
  EXPECT_EQ(dynamic_cast<ProfilingBackend*>(&backend_for({})), nullptr);
}

}  // namespace
}  // namespace facet
