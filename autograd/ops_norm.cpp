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
  // Kept for backward: x, the statistics and one bit an element of the ReLU; not y.
  return Variable::result(
      "batch_norm", r.y, {x, gamma, beta, residual},
      [x = x.value(), gamma = gamma.value(), mean = r.mean, rstd = r.rstd, mask = r.mask, call,
       want_residual = residual.needs_grad()](const Tensor& dy) -> TensorList {
        // Without a ReLU the residual's gradient is dy itself.
        ops::BatchNormGrads g = ops::batch_norm_backward(x, dy, gamma, mean, rstd, mask,
                                                         want_residual && call.relu, call);
        return {g.dx, g.dgamma, g.dbeta, call.relu ? g.dresidual : dy};
      });
}

Variable batch_norm_over_ranks(const Variable& x, const Variable& gamma, const Variable& beta,
                               Tensor& running_mean, Tensor& running_var, const BatchNormArgs& args,
                               const Variable& residual, Comm& comm) {
  FACET_CHECK(args.splits == 1, "batch_norm", "splits do not go with statistics of all ranks");
  const int64_t channels = gamma.dim(0);
  BatchNormArgs plain;
  plain.eps = args.eps;
  plain.update_running = plain.batch_statistics = false;
  // Each rank's mean and variance, and from them those of all (Chan et al. 1979).
  const ops::BatchNorm own = ops::batch_norm_train(x.value(), {}, gamma.value(), beta.value(),
                                                   running_mean, running_var, plain);
  const Tensor own_var = ops::affine(1.0, ops::reciprocal(ops::square(own.rstd)), -args.eps);
  const Tensor all =
      comm.all_gather(ops::concat(TensorList{own.mean, own_var}).reshape({1, 2, channels}));
  const auto part = [&](int i) {
    return ops::narrow(all, i, 1, 1).reshape({comm.size(), channels});
  };
  const auto over_ranks = [](const Tensor& t) { return ops::reduce(ReduceOp::mean, t, 0); };
  Tensor mean = over_ranks(part(0));
  Tensor var = over_ranks(ops::add(part(1), ops::square(ops::sub(part(0), mean))));
  const auto n = static_cast<double>(x.value().rows() * comm.size());
  if (args.update_running && !recomputing())
    for (auto [running, value, factor] :
         {std::tuple(&running_mean, &mean, 1.0), std::tuple(&running_var, &var, n / (n - 1.0))}) {
      ops::scale_(*running, 1.0 - args.momentum);
      ops::add_(*running, *value, args.momentum * factor);
    }
  BatchNormArgs call = plain;
  call.relu = args.relu;
  const Tensor shortcut = residual.defined() ? residual.value() : Tensor();
  const ops::BatchNorm r =
      ops::batch_norm_eval(x.value(), shortcut, gamma.value(), beta.value(), mean, var, call);
  return Variable::result(
      "batch_norm", r.y, {x, gamma, beta, residual},
      [x = x.value(), gamma = gamma.value(), r, var, call, plain, n, &comm,
       want_residual = residual.needs_grad()](const Tensor& dy) -> TensorList {
        const ops::BatchNormGrads g = ops::batch_norm_backward(x, dy, gamma, r.mean, r.rstd, r.mask,
                                                               want_residual && call.relu, call);
        // What the statistics pass on is another normalisation of x: with the gradients of gamma
        // and beta over all ranks, dx = g.dx - gamma rstd ((x - mean) rstd dgamma + dbeta) / n.
        const int64_t c = gamma.dim(0);
        Tensor sums = ops::concat(TensorList{g.dgamma, g.dbeta});
        comm.all_reduce(sums);
        const Tensor scale = ops::affine(-1.0 / n, ops::mul(gamma, r.rstd), 0.0);
        const Tensor dx =
            ops::batch_norm_eval(x, g.dx, ops::mul(scale, sums.narrow(0, c)),
                                 ops::mul(scale, sums.narrow(c, c)), r.mean, var, plain)
                .y;
        return {dx, g.dgamma, g.dbeta, call.relu ? g.dresidual : dy};
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
