#include "metrics/separation.h"

#include <algorithm>
#include <vector>

#include "tensor/ops.h"

namespace facet {
namespace {

// Distances below it are rounding errors of a cosine.
constexpr double kNoDistance = 1e-14;

// Labels as 0, 1, ... over the classes that have samples.
struct Classes {
  std::vector<int64_t> label;  // of each row
  std::vector<double> count;   // of each class

  Classes(const Tensor& labels, int64_t classes) : label(labels.to_vector<int64_t>()) {
    FACET_CHECK(classes >= 2, "separation", "expected at least 2 classes, got {}", classes);
    for (size_t i = 0; i < label.size(); ++i)
      FACET_CHECK(label[i] >= 0 && label[i] < classes, "separation",
                  "label {} of row {} is outside [0, {})", label[i], i, classes);
    std::vector<int64_t> present = label;
    std::sort(present.begin(), present.end());
    present.erase(std::unique(present.begin(), present.end()), present.end());
    FACET_CHECK(present.size() >= 2, "separation", "expected samples of at least 2 classes, got {}",
                present.size());
    count.resize(present.size(), 0.0);
    for (int64_t& l : label) {
      l = std::lower_bound(present.begin(), present.end(), l) - present.begin();
      ++count[static_cast<size_t>(l)];
    }
  }
};

// Calls body(start, unit rows as f64) for each block of rows.
template <typename Body>
void for_each_block(const Tensor& x, int64_t rows_at_once, const Body& body) {
  for (int64_t start = 0; start < x.dim(0); start += rows_at_once) {
    const int64_t rows = std::min(rows_at_once, x.dim(0) - start);
    body(start, ops::l2_normalize(x.narrow(start, rows).cast(DType::f64), 0.0));
  }
}

// Product of each row of a with the row of b, (rows) -> host.
std::vector<double> row_products(const Tensor& a, const Tensor& b) {
  return ops::reduce(ReduceOp::sum, ops::mul(a, b), 1).to_vector<double>();
}

double square_sum(const Tensor& x) {
  return ops::reduce(ReduceOp::sum_squares, x).item();
}

}  // namespace

Separation separation(const Tensor& features, const Tensor& labels, int64_t classes,
                      const SeparationOptions& options) {
  FACET_CHECK(features.defined() && features.rank() == 2 && features.numel() > 0 &&
                  is_floating(features.dtype()),
              "separation", "expected features (N, d), got {}", features.str());
  const int64_t n = features.dim(0), d = features.dim(1);
  FACET_CHECK(labels.defined() && labels.dtype() == DType::i64 && labels.shape() == Shape{n},
              "separation", "expected i64 labels ({}), got {}", n, labels.str());
  if (ops::find_nonfinite(std::span(&features, 1)) >= 0)
    throw NonFiniteError("[separation] NaN or infinity in the features");
  const Classes of(labels, classes);
  const auto k = static_cast<int64_t>(of.count.size());
  const Device device = features.device();
  const Tensor index = Tensor::from(of.label, {n}).to(device);
  const int64_t row_bytes = 8 * (4 * d + k);
  const int64_t rows_at_once = std::max<int64_t>(1, options.scratch_bytes / row_bytes);

  Tensor means = Tensor::zeros({k, d}, DType::f64, device);
  for_each_block(features, rows_at_once, [&](int64_t start, const ops::Normalized& unit) {
    const int64_t rows = unit.y.dim(0);
    if (ops::reduce(ReduceOp::min, unit.norm).item() <= 0.0) {
      const std::vector<double> norms = unit.norm.to_vector<double>();
      const auto zero = std::find(norms.begin(), norms.end(), 0.0) - norms.begin();
      FACET_CHECK(false, "separation", "row {} is zero: it has no direction", start + zero);
    }
    ops::scatter_add_rows_(means, unit.y, index.narrow(start, rows));
  });
  means = ops::div(means, Tensor::from(of.count, {k, 1}).to(device));
  const Tensor centre = ops::reduce(ReduceOp::mean, means, 0).reshape({1, d});

  Separation result;
  result.classes = k;
  const double size = static_cast<double>(k), squares = square_sum(means);
  result.intra = 1.0 - squares / size;
  result.inter = 1.0 - square_sum(centre);
  result.inter_other = (size * result.inter - result.intra) / (size - 1.0);

  // 1 - u.mu = 1 - u.c - c.(mu - c) - (u - c).(mu - c), c the centre: the last term alone is a
  // product of matrices, and where all features point one way it is as small as the distances are.
  const DType dtype = acc_dtype(features.dtype());
  const Tensor offsets = ops::sub(means, centre);
  const Tensor narrow_offsets = offsets.cast(dtype);
  const Tensor bias =
      ops::matmul(offsets, centre, false, true).flatten().cast(dtype);  // c.(mu - c)
  double total = 0.0;
  for_each_block(features, rows_at_once, [&](int64_t start, const ops::Normalized& unit) {
    const int64_t rows = unit.y.dim(0);
    const Tensor own_mean = ops::gather_rows(means, index.narrow(start, rows));
    const std::vector<double> own = row_products(unit.y, own_mean);
    const std::vector<double> along = row_products(unit.y, centre);
    const Tensor near =
        ops::matmul(ops::sub(unit.y, centre).cast(dtype), narrow_offsets, false, true, bias);
    const ops::TopK best = ops::topk(near, 2);  // one of the two is another class
    const std::vector<double> values = best.values.to_vector<double>();
    const std::vector<int64_t> which = best.indices.to_vector<int64_t>();
    for (size_t i = 0; i < own.size(); ++i) {
      const auto label = of.label[static_cast<size_t>(start) + i];
      const double count = of.count[static_cast<size_t>(label)];
      if (count < 2.0) continue;  // scores 0
      const double v = count / (count - 1.0) * (1.0 - own[i]);
      const double s = 1.0 - along[i] - values[2 * i + (which[2 * i] == label)];
      const double larger = std::max(s, v);
      if (larger > kNoDistance) total += (s - v) / larger;
    }
  });
  result.silhouette = total / static_cast<double>(n);
  return result;
}

}  // namespace facet
