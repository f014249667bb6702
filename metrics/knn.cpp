#include "metrics/knn.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tensor/ops.h"

namespace facet {

KnnResult knn_classify(const Tensor& train, const Tensor& labels, int64_t classes,
                       const Tensor& queries, const KnnOptions& options) {
  FACET_CHECK(train.rank() == 2 && queries.rank() == 2 && train.dim(1) == queries.dim(1), "knn",
              "expected train (N, d) and queries (M, d), got {} and {}", train.shape(),
              queries.shape());
  const int64_t n = train.dim(0), m = queries.dim(0), k = options.k;
  FACET_CHECK(labels.numel() == n, "knn", "{} labels for {} training rows", labels.numel(), n);
  FACET_CHECK(k >= 1 && k <= n, "knn", "k = {} with {} training rows: expected 1 to {}", k, n, n);
  FACET_CHECK(m >= 1, "knn", "no queries");
  FACET_CHECK(options.temperature > 0.0, "knn", "temperature {} is not positive",
              options.temperature);
  const std::vector<int64_t> label = labels.to_vector<int64_t>();
  for (const int64_t l : label)
    FACET_CHECK(l >= 0 && l < classes, "knn", "label {} among {} classes", l, classes);

  // bf16 cosines would tie by the dozen.
  const DType dtype = acc_dtype(train.dtype());
  const Tensor keys = ops::l2_normalize(train.cast(dtype)).y;
  const auto row_bytes = n * static_cast<int64_t>(size_of(dtype));
  const int64_t block = std::clamp<int64_t>(options.scratch_bytes / row_bytes, 1, m);
  TensorList similarities, neighbours;
  for (int64_t start = 0; start < m; start += block) {
    const Tensor rows = queries.narrow(start, std::min(block, m - start)).cast(dtype);
    const Tensor cosines = ops::matmul(ops::l2_normalize(rows).y, keys, false, true);
    ops::TopK nearest = ops::topk(cosines, k);
    similarities.push_back(std::move(nearest.values));
    neighbours.push_back(std::move(nearest.indices));
  }

  KnnResult result{{}, ops::concat(neighbours), ops::concat(similarities)};
  const std::vector<int64_t> index = result.neighbours.to_vector<int64_t>();
  const std::vector<double> similarity = result.similarities.to_vector<double>();
  std::vector<double> votes(static_cast<size_t>(m * classes), 0.0);
  for (int64_t i = 0; i < m * k; ++i) {
    const auto at = static_cast<size_t>(i);
    votes[static_cast<size_t>(i / k * classes + label[static_cast<size_t>(index[at])])] +=
        std::exp(similarity[at] / options.temperature);
  }
  result.scores = Tensor::from(votes, {m, classes});
  return result;
}

}  // namespace facet
