#include <cmath>

#include "autograd/ops.h"

namespace facet {

Variable batch_norm(const Variable& x, const Variable& gamma, const Variable& beta,
                    Tensor& running_mean, Tensor& running_var, bool training,
                    const BatchNormArgs& args, const Variable& residual) {
  BatchNormArgs call = args;
  call.batch_statistics = training;
  call.update_running = args.update_running && !recomputing();
  const Tensor shortcut = residual.defined() ? residual.value() : Tensor();
  ops::BatchNorm r = training ? ops::batch_norm_train(x.value(), shortcut, gamma.value(),
                                                      beta.value(), running_mean, running_var, call)
                              : ops::batch_norm_eval(x.value(), shortcut, gamma.value(),
                                                     beta.value(), running_mean, running_var, call);
  std::vector<Variable> inputs = {x, gamma, beta};
  if (residual.defined()) inputs.push_back(residual);
  // Kept for backward: x, the statistics and one bit an element of the ReLU; not y.
  return Variable::result("batch_norm", r.y, std::move(inputs),
                          [x = x.value(), gamma = gamma.value(), mean = r.mean, rstd = r.rstd,
                           mask = r.mask, call, has_residual = residual.defined(),
                           want_residual = residual.needs_grad()](const Tensor& dy) -> TensorList {
                            // Without a ReLU the residual's gradient is dy itself.
                            ops::BatchNormGrads g = ops::batch_norm_backward(
                                x, dy, gamma, mean, rstd, mask, want_residual && call.relu, call);
                            TensorList gradients = {g.dx, g.dgamma, g.dbeta};
                            if (has_residual) gradients.push_back(call.relu ? g.dresidual : dy);
                            return gradients;
                          });
}

Variable l2_normalize(const Variable& x, double eps) {
  auto [y, norm] = ops::l2_normalize(x.value(), eps);
  return Variable::result("l2_normalize", y, {x},
                          [y = y, norm = norm, eps](const Tensor& dy) -> TensorList {
                            return {ops::l2_normalize_backward(y, norm, dy, eps)};
                          });
}

namespace {
// The node of a normalisation whose result is known.
Variable layer_norm_node(const Variable& x, const Variable& gamma, const Variable& beta,
                         const ops::LayerNorm& r) {
  return Variable::result("layer_norm", r.y, {x, gamma, beta},
                          [x = x.value(), gamma = gamma.value(), mean = r.mean,
                           rstd = r.rstd](const Tensor& dy) -> TensorList {
                            ops::LayerNormGrads g =
                                ops::layer_norm_backward(x, dy, gamma, mean, rstd);
                            return {g.dx, g.dgamma, g.dbeta};
                          });
}
}  // namespace

Variable layer_norm(const Variable& x, const Variable& gamma, const Variable& beta, double eps) {
  return layer_norm_node(x, gamma, beta,
                         ops::layer_norm(x.value(), Tensor(), gamma.value(), beta.value(), eps));
}

AddedNorm add_layer_norm(const Variable& x, const Variable& residual, const Variable& gamma,
                         const Variable& beta, double eps) {
  const ops::LayerNorm r =
      ops::layer_norm(x.value(), residual.value(), gamma.value(), beta.value(), eps);
  const Variable sum =
      Variable::result("add", r.sum, {x, residual}, [](const Tensor& dy) -> TensorList {
        return {dy, dy};
      });
  return {sum, layer_norm_node(sum, gamma, beta, r)};
}

Variable attention(const Variable& qkv) {
  FACET_CHECK(qkv.value().rank() == 5, "attention", "expected packed (B, T, 3, H, D), got {}",
              qkv.shape());
  const double scale = 1.0 / std::sqrt(static_cast<double>(qkv.dim(4)));
  const ops::Attention r = ops::attention(qkv.value(), scale);
  return Variable::result("attention", r.y, {qkv},
                          [qkv = qkv.value(), r, scale](const Tensor& dy) -> TensorList {
                            return {ops::attention_backward(qkv, r.y, r.lse, dy, scale)};
                          });
}

}  // namespace facet
