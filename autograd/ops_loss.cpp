#include "autograd/ops.h"

namespace facet {
namespace {

Variable softmax_impl(const char* name, const Variable& x, bool log) {
  Tensor y = log ? ops::log_softmax(x.value()) : ops::softmax(x.value());
  return Variable::result(name, y, {x}, [y, log](const Tensor& dy) -> TensorList {
    return {ops::softmax_backward(y, dy, log)};
  });
}

// The mean over `count` rows (a scalar on the loss's device, so that nobody waits for its value);
// its gradient gives every row dy / count.
Tensor mean_of(const Tensor& loss, const Tensor& count) {
  return ops::div(ops::reduce(ReduceOp::sum, loss), count);
}
Tensor row_gradient(const Tensor& dy, int64_t rows, const Tensor& count) {
  return ops::broadcast_to(ops::div(dy, count), {rows});
}

// How many labels are not negative.
Tensor count_labelled(const Tensor& labels, DType dtype) {
  const auto constant = [&](double v) { return Tensor::full({}, v, dtype, labels.device()); };
  const Tensor above = ops::maximum(ops::affine(1.0, labels.cast(dtype), 1.0), constant(0.0));
  return ops::reduce(ReduceOp::sum, ops::minimum(above, constant(1.0)));
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
  const Tensor count = count_labelled(labels, loss.dtype());
  // On a device the loss is 0 / 0, which the training step reports.
  FACET_CHECK(!labels.device().is_cpu() || count.item() > 0, "cross_entropy",
              "every one of the {} rows is masked", labels.numel());
  return Variable::result(
      "cross_entropy", mean_of(loss, count), {logits},
      [logits = logits.value(), labels, smoothing, lse = lse,
       count](const Tensor& dy) -> TensorList {
        return {ops::cross_entropy_backward(logits, labels, smoothing, lse,
                                            row_gradient(dy, logits.rows(), count))};
      });
}

Variable soft_cross_entropy(const Variable& logits, const Tensor& targets, double scale,
                            const Tensor& target_rows) {
  auto [loss, lse] = ops::soft_cross_entropy(logits.value(), targets, scale, target_rows);
  const Tensor count =
      Tensor::full({}, static_cast<double>(logits.value().rows()), loss.dtype(), loss.device());
  return Variable::result(
      "soft_cross_entropy", mean_of(loss, count), {logits},
      [logits = logits.value(), targets, scale, target_rows, lse = lse,
       count](const Tensor& dy) -> TensorList {
        return {ops::soft_cross_entropy_backward(
            logits, targets, lse, row_gradient(dy, logits.rows(), count), scale, target_rows)};
      });
}

Variable contrastive_loss(const Variable& logits, const Variable& positive,
                          const Tensor& row_labels, const Tensor& column_labels, int64_t self) {
  const Tensor beside = positive.defined() ? positive.value() : Tensor();
  auto [loss, lse] = ops::contrastive_loss(logits.value(), beside, row_labels, column_labels, self);
  return Variable::result("contrastive_loss", loss, {logits, positive},
                          [logits = logits.value(), beside, row_labels, column_labels, self,
                           lse = lse](const Tensor& dy) -> TensorList {
                            ops::ContrastiveGrads g = ops::contrastive_loss_backward(
                                logits, beside, row_labels, column_labels, self, lse, dy);
                            return {g.dlogits, g.dpositive};
                          });
}

}  // namespace facet
