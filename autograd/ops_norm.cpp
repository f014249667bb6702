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

}  // namespace facet
