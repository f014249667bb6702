#include "ssl/contrastive.h"

namespace facet {
namespace {

// Unit rows in acc precision: similarities are divided by small temperatures.
Variable unit_rows(const Variable& h) {
  return l2_normalize(cast(h, acc_dtype(h.dtype())));
}

// Labels 0 ... n-1 for each of `views` views, from `first` on.
Tensor numbered(int64_t n, int64_t views, int64_t first, Device device) {
  std::vector<int64_t> labels(static_cast<size_t>(n * views));
  for (int64_t i = 0; i < n * views; ++i) labels[static_cast<size_t>(i)] = first + i % n;
  return Tensor::from(labels, {n * views}).to(device);
}

// One loss an anchor: the first `anchors` rows of h against all rows of all ranks. `labels` (rows)
Variable against_all(const Variable& h, const Tensor& labels, int64_t anchors, double temperature,
                     Comm& comm) {
  const Variable z = unit_rows(h);
  const Variable candidates = all_gather(z, comm);
  const Variable scaled = affine(1.0 / temperature, narrow(z, 0, anchors));
  return contrastive_loss(matmul(scaled, candidates, false, true), {}, labels.narrow(0, anchors),
                          comm.all_gather(labels), comm.rank() * h.dim(0));
}

void check_temperature(double temperature, const char* op) {
  FACET_CHECK(temperature > 0, op, "expected a positive temperature, got {}", temperature);
}

}  // namespace

Variable nt_xent(const Variable& h, double temperature, Comm& comm) {
  FACET_CHECK(h.value().rank() == 2 && h.dim(0) >= 4 && h.dim(0) % 2 == 0, "nt_xent",
              "expected (2N, D) with N >= 2, got {}", h.shape());
  check_temperature(temperature, "nt_xent");
  const int64_t n = h.dim(0) / 2;
  return mean(
      against_all(h, numbered(n, 2, comm.rank() * n, h.device()), h.dim(0), temperature, comm));
}

Variable supcon(const Variable& h, const Tensor& labels, const SupconOptions& options, Comm& comm) {
  FACET_CHECK(h.value().rank() == 2 && labels.defined() && labels.rank() == 1 &&
                  labels.numel() > 0 && h.dim(0) % labels.numel() == 0,
              "supcon", "expected (V N, D) and labels (N), got {} and {}", h.shape(), labels.str());
  check_temperature(options.temperature, "supcon");
  check_temperature(options.base_temperature, "supcon");
  const int64_t n = labels.numel(), views = h.dim(0) / n;
  const Tensor all_labels = ops::concat(TensorList(static_cast<size_t>(views), labels));
  const Variable losses =
      against_all(h, all_labels, options.first_view_only ? n : h.dim(0), options.temperature, comm);
  return affine(options.temperature / options.base_temperature, mean(losses));
}

Variable info_nce(const Variable& q, const Tensor& k, const Tensor& queue, double temperature) {
  FACET_CHECK(q.value().rank() == 2 && k.shape() == q.shape() && queue.rank() == 2 &&
                  queue.dim(1) == q.dim(1),
              "info_nce", "expected queries and keys (N, D) and a queue (K, D), got {}, {} and {}",
              q.shape(), k.shape(), queue.shape());
  check_temperature(temperature, "info_nce");
  const Variable scaled = affine(1.0 / temperature, q);
  const Variable positive = sum(scaled * Variable(k), 1);
  // No column of the queue is anybody's positive.
  const auto none = [&](int64_t n, double label) {
    return Tensor::full({n}, label, DType::i64, q.device());
  };
  return mean(contrastive_loss(matmul(scaled, Variable(queue), false, true), positive,
                               none(q.dim(0), -1), none(queue.dim(0), -2)));
}

}  // namespace facet
