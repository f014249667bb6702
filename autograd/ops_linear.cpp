#include "autograd/ops.h"

namespace facet {

Variable matmul(const Variable& a, const Variable& b, bool trans_a, bool trans_b) {
  // C = op(A) op(B): dA = dC op(B)^T, dB = op(A)^T dC, each transposed once more when its operand
  // was.
  return Variable::result(
      "matmul", ops::matmul(a.value(), b.value(), trans_a, trans_b), {a, b},
      [a = a.value(), b = b.value(), trans_a, trans_b, want_a = a.needs_grad(),
       want_b = b.needs_grad()](const Tensor& dy) -> TensorList {
        Tensor da, db;
        if (want_a)
          da = trans_a ? ops::matmul(b, dy, trans_b, true) : ops::matmul(dy, b, false, !trans_b);
        if (want_b)
          db = trans_b ? ops::matmul(dy, a, true, trans_a) : ops::matmul(a, dy, !trans_a, false);
        return {da, db};
      });
}

Variable linear(const Variable& x, const Variable& w, const Variable& bias) {
  Tensor y =
      ops::matmul(x.value(), w.value(), false, true, bias.defined() ? bias.value() : Tensor());
  return Variable::result(
      "linear", y, {x, w, bias},
      [x = x.value(), w = w.value(), want_x = x.needs_grad(), want_w = w.needs_grad(),
       want_bias = bias.needs_grad()](const Tensor& dy) -> TensorList {
        TensorList gradients(3);
        if (want_x) gradients[0] = ops::matmul(dy, w);
        // Sums over the batch: f32 also for bf16 parameters.
        const DType acc = acc_dtype(dy.dtype());
        if (want_w) {
          gradients[1] = Tensor::empty(w.shape(), acc, dy.device());
          ops::matmul_into(dy, x, {.trans_a = true}, gradients[1]);
        }
        if (want_bias) gradients[2] = ops::sum_rows(dy);
        return gradients;
      });
}

Variable conv2d(const Variable& x, const Variable& w, const ConvArgs& args) {
  return Variable::result(
      "conv2d", ops::conv2d(x.value(), w.value(), args), {x, w},
      [x = x.value(), w = w.value(), args, want_x = x.needs_grad(),
       want_w = w.needs_grad()](const Tensor& dy) -> TensorList {
        return {want_x ? ops::conv2d_backward_input(dy, w, x.shape(), args) : Tensor(),
                want_w ? ops::conv2d_backward_weight(x, dy, w.shape(), args) : Tensor()};
      });
}

Variable max_pool2d(const Variable& x, const PoolArgs& args) {
  auto [y, where] = ops::max_pool2d(x.value(), args);
  return Variable::result("max_pool2d", y, {x},
                          [where = where, shape = x.shape(), args](const Tensor& dy) -> TensorList {
                            return {ops::max_pool2d_backward(dy, where, shape, args)};
                          });
}

Variable global_avg_pool(const Variable& x) {
  FACET_CHECK(x.value().rank() == 4, "global_avg_pool", "expected (N, H, W, C), got {}", x.shape());
  return mean(reshape(x, {x.dim(0), x.dim(1) * x.dim(2), x.dim(3)}), 1);
}

}  // namespace facet
