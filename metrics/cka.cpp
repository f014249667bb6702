#include "metrics/cka.h"

#include <cmath>
#include <vector>

#include "tensor/ops.h"

namespace facet {
namespace {

// The columns of x (n, ...) without their mean, (n, d), and that mean (1, d).
struct Centred {
  Tensor x, mean;
};
Centred centred(const Tensor& x, int64_t least) {
  FACET_CHECK(x.defined() && x.rank() >= 2 && x.numel() > 0 && is_floating(x.dtype()), "cka",
              "expected representations (n, ...), got {}", x.str());
  const int64_t n = x.dim(0), d = x.numel() / n;
  FACET_CHECK(n >= least, "cka", "expected at least {} samples, got {}", least, x.shape());
  const Tensor rows = x.cast(acc_dtype(x.dtype())).reshape({n, d});
  const Tensor mean = ops::reduce(ReduceOp::mean, rows, 0).reshape({1, d});
  return {ops::sub(rows, mean), mean};
}

// Whether squares of centred values are more than the rounding error of their mean.
void check_varies(double squares, double mean_squares, DType dtype, size_t layer) {
  const double noise = dtype == DType::f64 ? 1e-28 : 1e-12;
  FACET_CHECK(squares > noise * mean_squares && std::isfinite(squares), "cka",
              "representation {} is the same for all samples, or not finite", layer + 1);
}

// Sum of all entries: rows in their own type, their sums in f64.
double total(const Tensor& x) {
  return ops::reduce(ReduceOp::sum, ops::reduce(ReduceOp::sum, x, 1).cast(DType::f64)).item();
}
double squares(const Tensor& x) {
  return ops::reduce(ReduceOp::sum, ops::reduce(ReduceOp::sum_squares, x, -1).cast(DType::f64))
      .item();
}

// U of Gram matrices k (layers, n, n).
Tensor u_centred(const Tensor& k, const Tensor& off_diagonal) {
  const int64_t layers = k.dim(0), n = k.dim(1);
  const auto size = static_cast<double>(n);
  const Tensor hollow = ops::mul(k, off_diagonal);
  const Tensor rows = ops::reduce(ReduceOp::sum, hollow, 2);  // (layers, n)
  const Tensor sums = ops::reduce(ReduceOp::sum, rows, 1).reshape({layers, 1});
  // Half of s goes to each index.
  const Tensor share = ops::sub(ops::affine(1.0 / (size - 2.0), rows, 0.0),
                                ops::affine(0.5 / ((size - 1.0) * (size - 2.0)), sums, 0.0));
  const Tensor u =
      ops::sub(ops::sub(hollow, share.reshape({layers, n, 1})), share.reshape({layers, 1, n}));
  return ops::mul(u, off_diagonal);
}

Tensor identity(int64_t n, DType dtype, Device device) {
  std::vector<double> values(static_cast<size_t>(n * n), 0.0);
  for (int64_t i = 0; i < n; ++i) values[static_cast<size_t>(i * (n + 1))] = 1.0;
  return Tensor::from(values, {n, n}).cast(dtype).to(device);
}

}  // namespace

double linear_cka(const Tensor& x, const Tensor& y) {
  const Centred c[] = {centred(x, 2), centred(y, 2)};
  for (size_t i = 0; i < 2; ++i)
    check_varies(squares(c[i].x), static_cast<double>(x.dim(0)) * squares(c[i].mean),
                 c[i].x.dtype(), i);
  FACET_CHECK(x.dim(0) == y.dim(0), "cka", "expected the same samples, got {} and {}", x.shape(),
              y.shape());
  const Tensor &a = c[0].x, &b = c[1].x;
  const int64_t n = x.dim(0), p = a.dim(1), q = b.dim(1);
  double xy = 0.0, xx = 0.0, yy = 0.0;
  if (n * (p + q) < p * q + p * p + q * q) {  // <X X^T, Y Y^T> is the same and costs less
    const Tensor k = ops::matmul(a, a, false, true), l = ops::matmul(b, b, false, true);
    xy = total(ops::mul(k, l));
    xx = squares(k);
    yy = squares(l);
  } else {
    xy = squares(ops::matmul(a, b, true, false));
    xx = squares(ops::matmul(a, a, true, false));
    yy = squares(ops::matmul(b, b, true, false));
  }
  return xy / (std::sqrt(xx) * std::sqrt(yy));
}

void CkaAccumulator::add(std::span<const Tensor> first, std::span<const Tensor> second) {
  const auto count = static_cast<int64_t>(first.size() + second.size());
  FACET_CHECK(!first.empty(), "cka", "no layers");
  FACET_CHECK(!hsic_.defined() || (first_ == static_cast<int64_t>(first.size()) &&
                                   second_ == static_cast<int64_t>(second.size())),
              "cka", "expected {} and {} layers as in the batch before, got {} and {}", first_,
              second_, first.size(), second.size());
  const Tensor& some = first[0];
  FACET_CHECK(some.defined() && some.rank() >= 2, "cka",
              "expected representations (n, ...), got {}", some.str());
  const int64_t n = some.dim(0);
  const DType dtype = acc_dtype(some.dtype());
  Tensor grams = Tensor::empty({count, n, n}, dtype, some.device());
  TensorList means;
  for (int64_t i = 0; i < count; ++i) {
    const auto at = static_cast<size_t>(i);
    const Centred layer = centred(at < first.size() ? first[at] : second[at - first.size()], 4);
    FACET_CHECK(
        layer.x.dim(0) == n && layer.x.dtype() == dtype && layer.x.device() == some.device(), "cka",
        "expected {} samples of {} on {} in every layer, got {} in layer {}", n, name(dtype),
        some.device().str(), layer.x.str(), i);
    Tensor gram = grams.narrow(i, 1).reshape({n, n});
    ops::matmul_into(layer.x, layer.x, {.trans_b = true}, gram);
    means.push_back(ops::reduce(ReduceOp::sum_squares, layer.mean, 1));
  }
  const Tensor eye = identity(n, dtype, some.device());
  // The diagonals hold the squares of the centred values.
  const std::vector<double> diagonals =
      ops::reduce(ReduceOp::sum, ops::mul(grams, eye), 1, 2).to_vector<double>();
  const std::vector<double> mean_squares = ops::concat(means).to_vector<double>();
  for (size_t i = 0; i < diagonals.size(); ++i)
    check_varies(diagonals[i], static_cast<double>(n) * mean_squares[i], dtype, i);

  // <U(K), U(L)> by rows of both: short sums in the type of the features, the rest in f64.
  const Tensor rows = ops::permute(u_centred(grams, ops::affine(-1.0, eye, 1.0)), {1, 0, 2});
  const Tensor products =
      ops::reduce(ReduceOp::sum, ops::matmul(rows, rows, false, true).cast(DType::f64), 0);
  if (!hsic_.defined()) {
    first_ = static_cast<int64_t>(first.size());
    second_ = static_cast<int64_t>(second.size());
    hsic_ = Tensor::zeros({count, count}, DType::f64, some.device());
  }
  ops::add_(hsic_, products, 1.0 / static_cast<double>(n * (n - 3)));
}

Tensor CkaAccumulator::result() const {
  FACET_CHECK(hsic_.defined(), "cka", "no batches");
  const std::vector<double> hsic = hsic_.to_vector<double>();
  const int64_t count = first_ + second_, offset = second_ > 0 ? first_ : 0;
  const auto at = [&](int64_t i, int64_t j) { return hsic[static_cast<size_t>(i * count + j)]; };
  std::vector<double> cka;
  for (int64_t i = 0; i < first_; ++i)
    for (int64_t j = offset; j < count; ++j)
      cka.push_back(at(i, j) / (std::sqrt(at(i, i)) * std::sqrt(at(j, j))));
  return Tensor::from(cka, {first_, count - offset});
}

double cka_score(const Tensor& matrix) {
  FACET_CHECK(matrix.rank() == 2 && matrix.dim(0) == matrix.dim(1) && matrix.dim(0) >= 2, "cka",
              "expected the matrix of at least 2 layers, got {}", matrix.shape());
  const int64_t layers = matrix.dim(0);
  const std::vector<double> values = matrix.to_vector<double>();
  double sum = 0.0;
  for (int64_t i = 0; i < layers * layers; ++i)
    if (i / layers != i % layers) sum += values[static_cast<size_t>(i)];
  return 100.0 * sum / static_cast<double>(layers * (layers - 1));
}

}  // namespace facet
