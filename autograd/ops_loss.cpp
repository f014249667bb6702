#include <algorithm>

#include "autograd/ops.h"

namespace facet {
namespace {

Variable softmax_impl(const char* name, const Variable& x, bool log) {
  Tensor y = log ? ops::log_softmax(x.value()) : ops::softmax(x.value());
  return Variable::result(name, y, {x}, [y, log](const Tensor& dy) -> TensorList {
    return {ops::softmax_backward(y, dy, log)};
  });
}

// The mean over `count` rows as a scalar; its gradient gives every row dy / count.
Tensor mean_of(const Tensor& loss, double count) {
  return ops::affine(1.0 / count, ops::reduce(ReduceOp::sum, loss), 0.0);
}
Tensor row_gradient(const Tensor& dy, int64_t rows, double count) {
  return Tensor::full({rows}, dy.item() / count, dy.dtype(), dy.device());
}

}  // namespace

Variable softmax(const Variable& x) {
  return softmax_impl("softmax", x, false);
}
Variable log_softmax(const Variable& x) {
  return softmax_impl("log_softmax", x, true);
}

Variable cross_entropy(const Variable& logits, const Tensor& labels, double smoothing) {
  auto [loss, lse] = ops::cross_entropy(logits.value(), labels, smoothing);
  const std::vector<int64_t> host = labels.to_vector<int64_t>();
  const auto counted = std::count_if(host.begin(), host.end(), [](int64_t v) { return v >= 0; });
  FACET_CHECK(counted > 0, "cross_entropy", "every one of the {} rows is masked", host.size());
  const double count = static_cast<double>(counted);
  return Variable::result(
      "cross_entropy", mean_of(loss, count), {logits},
      [logits = logits.value(), labels, smoothing, lse = lse,
       count](const Tensor& dy) -> TensorList {
        return {ops::cross_entropy_backward(logits, labels, smoothing, lse,
                                            row_gradient(dy, logits.rows(), count))};
      });
}

Variable soft_cross_entropy(const Variable& logits, const Tensor& targets) {
  auto [loss, lse] = ops::soft_cross_entropy(logits.value(), targets);
  const double count = static_cast<double>(logits.value().rows());
  return Variable::result(
      "soft_cross_entropy", mean_of(loss, count), {logits},
      [logits = logits.value(), targets, lse = lse, count](const Tensor& dy) -> TensorList {
        return {ops::soft_cross_entropy_backward(logits, targets, lse,
                                                 row_gradient(dy, logits.rows(), count))};
      });
}

}  // namespace facet
