#include "autograd/ops.h"

namespace facet {
namespace {

Variable unary(UnaryOp op, const char* name, const Variable& x) {
  Tensor y = ops::unary(op, x.value());
  return Variable::result(name, y, {x}, [op, x = x.value(), y](const Tensor& dy) -> TensorList {
    return {ops::unary_backward(op, x, y, dy)};
  });
}

Variable binary(BinaryOp op, const char* name, const Variable& a, const Variable& b) {
  return Variable::result(name, ops::binary(op, a.value(), b.value()), {a, b},
                          [op, a = a.value(), b = b.value(), want_a = a.needs_grad(),
                           want_b = b.needs_grad()](const Tensor& dy) -> TensorList {
                            auto [da, db] = ops::binary_backward(op, a, b, dy, want_a, want_b);
                            return {std::move(da), std::move(db)};
                          });
}

}  // namespace

#define UNARY(name, low, high, reference)  \
  Variable name(const Variable& x) {       \
    return unary(UnaryOp::name, #name, x); \
  }
#include "tensor/unary.def"
#undef UNARY

#define BINARY(name, low, high, reference)              \
  Variable name(const Variable& a, const Variable& b) { \
    return binary(BinaryOp::name, #name, a, b);         \
  }
#include "tensor/binary.def"
#undef BINARY

Variable affine(double alpha, const Variable& x, double beta) {
  return Variable::result(
      "affine", ops::affine(alpha, x.value(), beta), {x},
      [alpha](const Tensor& dy) -> TensorList { return {ops::affine(alpha, dy, 0.0)}; });
}

Variable cast(const Variable& x, DType dtype) {
  FACET_CHECK(is_floating(dtype), "cast", "expected a floating dtype, got {}", name(dtype));
  Variable y = Variable::result(
      "cast", x.value().cast(dtype), {x},
      [from = x.dtype()](const Tensor& dy) -> TensorList { return {dy.cast(from)}; });
  // The f32 gradient of a weight that was cast to bf16 reaches its f32 master unrounded.
  if (y.node()) y.node()->any_dtype = true;
  return y;
}

}  // namespace facet
