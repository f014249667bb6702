#include "autograd/ops.h"

namespace facet {
namespace {

// d/dx of a sum over one axis (or all): dy repeated along it, times a factor.
Variable reduce_linear(const char* name, ReduceOp op, const Variable& x, int axis) {
  const int a = axis < 0 ? axis + x.value().rank() : axis;
  Tensor y = ops::reduce(op, x.value(), a);
  Shape kept = x.shape();
  kept.set(a, 1);
  const double factor = op == ReduceOp::mean ? 1.0 / static_cast<double>(x.dim(a)) : 1.0;
  return Variable::result(name, y, {x},
                          [shape = x.shape(), kept, factor](const Tensor& dy) -> TensorList {
                            const Tensor scaled = factor == 1.0 ? dy : ops::affine(factor, dy, 0);
                            return {ops::broadcast_to(scaled.reshape(kept), shape)};
                          });
}

}  // namespace

Variable sum(const Variable& x) {
  return sum(reshape(x, {x.value().numel()}), 0);
}
Variable mean(const Variable& x) {
  return mean(reshape(x, {x.value().numel()}), 0);
}
Variable sum(const Variable& x, int axis) {
  return reduce_linear("sum", ReduceOp::sum, x, axis);
}
Variable mean(const Variable& x, int axis) {
  return reduce_linear("mean", ReduceOp::mean, x, axis);
}

}  // namespace facet
