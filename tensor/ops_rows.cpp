// Ops over rows x C: normalisation, attention, probabilities and losses.

#include "tensor/ops.h"
#include "tensor/ops_check.h"

namespace facet::ops {

// ---- batch normalisation

namespace {
void check_batch_norm(const Tensor& x, const Tensor& residual, const Tensor& gamma,
                      const Tensor& beta, const Tensor& mean, const Tensor& var, const char* op) {
  check_floating(x, op);
  FACET_CHECK(x.rank() >= 2, op, "expected (..., C), got {}", x.shape());
  const DType acc = acc_dtype(x.dtype());
  check_vector(gamma, x.cols(), acc, "gamma", op);
  check_vector(beta, x.cols(), acc, "beta", op);
  check_vector(mean, x.cols(), acc, "running mean", op);
  check_vector(var, x.cols(), acc, "running variance", op);
  if (residual.defined()) check_like(x, residual, x.shape(), "residual", op);
}

// Room for a bit an element, in whole bytes for each split.
Tensor relu_mask(const Tensor& x, const BatchNormArgs& args, int64_t splits = 1) {
  const int64_t bytes = (x.numel() / splits + 7) / 8;
  return args.relu ? Tensor::empty({splits * bytes}, DType::u8, x.device()) : Tensor();
}

// What of a tensor, which may be undefined, belongs to one split of the batch.
Tensor part_of(const Tensor& t, int64_t split, int64_t splits) {
  return t.defined() ? t.narrow(split * (t.dim(0) / splits), t.dim(0) / splits) : t;
}
}  // namespace

BatchNorm batch_norm_train(const Tensor& x, const Tensor& residual, const Tensor& gamma,
                           const Tensor& beta, Tensor& running_mean, Tensor& running_var,
                           const BatchNormArgs& args) {
  check_batch_norm(x, residual, gamma, beta, running_mean, running_var, "batch_norm");
  const int64_t splits = args.splits;
  FACET_CHECK(splits >= 1 && x.dim(0) % splits == 0, "batch_norm",
              "expected a batch that {} splits divide, got {}", splits, x.shape());
  FACET_CHECK(x.rows() > splits, "batch_norm",
              "expected more than one value per channel when training, got {} in {} splits",
              x.shape(), splits);
  const auto statistics = [&] {
    return Tensor::empty({splits * x.cols()}, gamma.dtype(), x.device());
  };
  BatchNorm r{Tensor::empty_like(x), statistics(), statistics(), relu_mask(x, args, splits)};
  if (splits == 1) {
    x.backend().batch_norm_train(x, residual, gamma, beta, args, r.y, r.mean, r.rstd, running_mean,
                                 running_var, r.mask);
    return r;
  }
  const Tensor old_mean = running_mean.clone(), old_var = running_var.clone();
  Tensor mean_sum = Tensor::zeros_like(running_mean), var_sum = Tensor::zeros_like(running_var);
  for (int64_t split = 0; split < splits; ++split) {
    const auto part = [&](const Tensor& t) { return part_of(t, split, splits); };
    Tensor y = part(r.y), mean = part(r.mean), rstd = part(r.rstd), mask = part(r.mask);
    Tensor moved_mean = old_mean.clone(), moved_var = old_var.clone();
    x.backend().batch_norm_train(part(x), part(residual), gamma, beta, args, y, mean, rstd,
                                 moved_mean, moved_var, mask);
    add_(mean_sum, moved_mean, 1.0 / static_cast<double>(splits));
    add_(var_sum, moved_var, 1.0 / static_cast<double>(splits));
  }
  running_mean.copy_(mean_sum);
  running_var.copy_(var_sum);
  return r;
}

BatchNorm batch_norm_eval(const Tensor& x, const Tensor& residual, const Tensor& gamma,
                          const Tensor& beta, const Tensor& running_mean, const Tensor& running_var,
                          const BatchNormArgs& args) {
  check_batch_norm(x, residual, gamma, beta, running_mean, running_var, "batch_norm");
  // mean and rstd for a backward through frozen statistics
  Tensor rstd = reciprocal(sqrt(affine(1.0, running_var, args.eps)));
  BatchNorm r{Tensor::empty_like(x), running_mean.clone(), rstd, relu_mask(x, args)};
  if (x.numel() > 0)
    x.backend().batch_norm_eval(x, residual, gamma, beta, running_mean, running_var, args, r.y,
                                r.mask);
  return r;
}

BatchNormGrads batch_norm_backward(const Tensor& x, const Tensor& dy, const Tensor& gamma,
                                   const Tensor& mean, const Tensor& rstd, const Tensor& mask,
                                   bool want_residual, const BatchNormArgs& args) {
  check_like(x, dy, x.shape(), "dy", __func__);
  BatchNormGrads g{Tensor::empty_like(x), want_residual ? Tensor::empty_like(x) : Tensor(),
                   Tensor::empty_like(gamma), Tensor::empty_like(gamma)};
  const int64_t splits = mean.numel() / x.cols();  // 1 where the running statistics were used
  for (int64_t split = 0; split < splits; ++split) {
    const auto part = [&](const Tensor& t) { return part_of(t, split, splits); };
    Tensor dx = part(g.dx), dresidual = part(g.dresidual);
    Tensor dgamma = split == 0 ? g.dgamma : Tensor::empty_like(gamma);
    Tensor dbeta = split == 0 ? g.dbeta : Tensor::empty_like(gamma);
    x.backend().batch_norm_backward(part(x), part(dy), gamma, part(mean), part(rstd), part(mask),
                                    args, dx, dresidual, dgamma, dbeta);
    if (split == 0) continue;
    add_(g.dgamma, dgamma);
    add_(g.dbeta, dbeta);
  }
  return g;
}

// ---- layer normalisation and attention

LayerNorm layer_norm(const Tensor& x, const Tensor& residual, const Tensor& gamma,
                     const Tensor& beta, double eps) {
  check_floating(x, __func__);
  FACET_CHECK(x.rank() >= 1 && x.cols() > 0, __func__, "expected (..., C), got {}", x.shape());
  const DType acc = acc_dtype(x.dtype());
  check_vector(gamma, x.cols(), acc, "gamma", __func__);
  check_vector(beta, x.cols(), acc, "beta", __func__);
  if (residual.defined()) check_like(x, residual, x.shape(), "residual", __func__);
  const auto statistics = [&] { return Tensor::empty({x.rows()}, acc, x.device()); };
  LayerNorm r{residual.defined() ? Tensor::empty_like(x) : Tensor(), Tensor::empty_like(x),
              statistics(), statistics()};
  if (x.numel() > 0)
    x.backend().layer_norm(x, residual, gamma, beta, eps, r.sum, r.y, r.mean, r.rstd);
  if (!residual.defined()) r.sum = x;
  return r;
}

LayerNormGrads layer_norm_backward(const Tensor& x, const Tensor& dy, const Tensor& gamma,
                                   const Tensor& mean, const Tensor& rstd) {
  check_like(x, dy, x.shape(), "dy", __func__);
  LayerNormGrads g{Tensor::empty_like(x), Tensor::zeros_like(gamma), Tensor::zeros_like(gamma)};
  if (x.numel() > 0)
    x.backend().layer_norm_backward(x, dy, gamma, mean, rstd, g.dx, g.dgamma, g.dbeta);
  return g;
}

Attention attention(const Tensor& qkv, double scale) {
  check_floating(qkv, __func__);
  FACET_CHECK(qkv.rank() == 5 && qkv.dim(2) == 3, __func__,
              "expected packed (B, T, 3, H, D), got {}", qkv.shape());
  Attention r{
      Tensor::empty({qkv.dim(0), qkv.dim(1), qkv.dim(3), qkv.dim(4)}, qkv.dtype(), qkv.device()),
      Tensor::empty({qkv.dim(0), qkv.dim(3), qkv.dim(1)}, acc_dtype(qkv.dtype()), qkv.device())};
  if (qkv.numel() > 0) qkv.backend().attention(qkv, scale, r.y, r.lse);
  return r;
}

Tensor attention_backward(const Tensor& qkv, const Tensor& y, const Tensor& lse, const Tensor& dy,
                          double scale) {
  check_like(qkv, dy, y.shape(), "dy", __func__);
  Tensor dqkv = Tensor::empty_like(qkv);
  if (qkv.numel() > 0) qkv.backend().attention_backward(qkv, y, lse, dy, scale, dqkv);
  return dqkv;
}

// ---- rows

Normalized l2_normalize(const Tensor& x, double eps) {
  check_floating(x, __func__);
  Normalized r{Tensor::empty_like(x), Tensor::empty({x.rows()}, acc_dtype(x.dtype()), x.device())};
  if (x.numel() > 0) x.backend().l2_normalize(x, eps, r.y, r.norm);
  return r;
}

Tensor l2_normalize_backward(const Tensor& y, const Tensor& norm, const Tensor& dy, double eps) {
  check_same_kind(y, dy, __func__);
  Tensor dx = Tensor::empty_like(y);
  if (y.numel() > 0) y.backend().l2_normalize_backward(y, norm, dy, eps, dx);
  return dx;
}

namespace {
Tensor softmax_impl(const Tensor& x, bool log, const char* op) {
  check_floating(x, op);
  FACET_CHECK(x.rank() >= 1, op, "expected rows, got a scalar");
  Tensor y = Tensor::empty_like(x);
  if (x.numel() > 0) x.backend().softmax(x, log, y);
  return y;
}

void check_labels(const Tensor& logits, const Tensor& labels, double smoothing, const char* op) {
  check_floating(logits, op);
  FACET_CHECK(logits.rank() == 2, op, "expected logits (rows, classes), got {}", logits.shape());
  check_index(labels, op);
  check_shape(labels, {logits.rows()}, "labels", op);
  FACET_CHECK(smoothing >= 0.0 && smoothing < 1.0, op, "expected smoothing in [0, 1), got {}",
              smoothing);
  check_bounds(labels, INT64_MIN, logits.cols(), "label", op);
}

CrossEntropy empty_losses(const Tensor& logits) {
  const Tensor loss = Tensor::empty({logits.rows()}, acc_dtype(logits.dtype()), logits.device());
  return {loss, Tensor::empty_like(loss)};
}
}  // namespace

Tensor softmax(const Tensor& x) {
  return softmax_impl(x, false, __func__);
}
Tensor log_softmax(const Tensor& x) {
  return softmax_impl(x, true, __func__);
}

Tensor softmax_backward(const Tensor& y, const Tensor& dy, bool log) {
  check_like(y, dy, y.shape(), "dy", __func__);
  Tensor dx = Tensor::empty_like(y);
  if (y.numel() > 0) y.backend().softmax_backward(y, dy, log, dx);
  return dx;
}

CrossEntropy cross_entropy(const Tensor& logits, const Tensor& labels, double smoothing) {
  check_labels(logits, labels, smoothing, __func__);
  CrossEntropy r = empty_losses(logits);
  if (logits.numel() > 0) logits.backend().cross_entropy(logits, labels, smoothing, r.loss, r.lse);
  return r;
}

Tensor cross_entropy_backward(const Tensor& logits, const Tensor& labels, double smoothing,
                              const Tensor& lse, const Tensor& dloss) {
  check_labels(logits, labels, smoothing, __func__);
  check_vector(dloss, logits.rows(), acc_dtype(logits.dtype()), "dloss", __func__);
  Tensor dlogits = Tensor::empty_like(logits);
  if (logits.numel() > 0)
    logits.backend().cross_entropy_backward(logits, labels, smoothing, lse, dloss, dlogits);
  return dlogits;
}

namespace {
void check_soft_targets(const Tensor& logits, double scale, const Tensor& targets,
                        const Tensor& target_rows, const char* op) {
  check_same_kind(logits, targets, op);
  FACET_CHECK(logits.rank() == 2 && scale > 0, op,
              "expected logits (rows, classes) and a positive scale, got {} and {}", logits.shape(),
              scale);
  if (!target_rows.defined()) return check_shape(targets, logits.shape(), "targets", op);
  FACET_CHECK(targets.rank() == 2 && targets.dim(1) == logits.dim(1), op,
              "expected targets (rows, {}), got {}", logits.dim(1), targets.shape());
  check_index(target_rows, op);
  check_shape(target_rows, {logits.dim(0)}, "target_rows", op);
  check_bounds(target_rows, 0, targets.dim(0), "target_rows", op);
}
}  // namespace

CrossEntropy soft_cross_entropy(const Tensor& logits, const Tensor& targets, double scale,
                                const Tensor& target_rows) {
  check_soft_targets(logits, scale, targets, target_rows, __func__);
  CrossEntropy r = empty_losses(logits);
  if (logits.numel() > 0)
    logits.backend().soft_cross_entropy(logits, scale, targets, target_rows, r.loss, r.lse);
  return r;
}

Tensor soft_cross_entropy_backward(const Tensor& logits, const Tensor& targets, const Tensor& lse,
                                   const Tensor& dloss, double scale, const Tensor& target_rows) {
  check_soft_targets(logits, scale, targets, target_rows, __func__);
  check_vector(dloss, logits.rows(), acc_dtype(logits.dtype()), "dloss", __func__);
  Tensor dlogits = Tensor::empty_like(logits);
  if (logits.numel() > 0)
    logits.backend().soft_cross_entropy_backward(logits, scale, targets, target_rows, lse, dloss,
                                                 dlogits);
  return dlogits;
}

namespace {
void check_contrast(const Tensor& logits, const Tensor& positive, const Tensor& row_labels,
                    const Tensor& column_labels, int64_t self, const char* op) {
  check_floating(logits, op);
  FACET_CHECK(logits.rank() == 2 && logits.numel() > 0, op,
              "expected logits (anchors, candidates), got {}", logits.shape());
  if (positive.defined()) check_like(logits, positive, {logits.rows()}, "positive", op);
  check_vector(row_labels, logits.rows(), DType::i64, "the anchors' labels", op);
  check_vector(column_labels, logits.cols(), DType::i64, "the candidates' labels", op);
  FACET_CHECK(self >= -1 && self + logits.rows() <= logits.cols() + (self < 0 ? logits.rows() : 0),
              op, "expected anchors from column {} on, got {} of {} columns", self, logits.rows(),
              logits.cols());
}
}  // namespace

CrossEntropy contrastive_loss(const Tensor& logits, const Tensor& positive,
                              const Tensor& row_labels, const Tensor& column_labels, int64_t self) {
  check_contrast(logits, positive, row_labels, column_labels, self, __func__);
  CrossEntropy r = empty_losses(logits);
  logits.backend().contrastive_loss(logits, positive, row_labels, column_labels, self, r.loss,
                                    r.lse);
  return r;
}

ContrastiveGrads contrastive_loss_backward(const Tensor& logits, const Tensor& positive,
                                           const Tensor& row_labels, const Tensor& column_labels,
                                           int64_t self, const Tensor& lse, const Tensor& dloss) {
  constexpr const char* kOp = __func__;
  check_contrast(logits, positive, row_labels, column_labels, self, kOp);
  check_vector(dloss, logits.rows(), acc_dtype(logits.dtype()), "dloss", kOp);
  ContrastiveGrads g{Tensor::empty_like(logits),
                     positive.defined() ? Tensor::empty_like(positive) : Tensor()};
  logits.backend().contrastive_loss_backward(logits, positive, row_labels, column_labels, self, lse,
                                             dloss, g.dlogits, g.dpositive);
  return g;
}

}  // namespace facet::ops
