// Differentiable operations. Each is written beside its gradient in ops_*.cpp.
#pragma once

#include <initializer_list>
#include <span>

#include "autograd/variable.h"
#include "tensor/comm.h"

namespace facet {

// ---- elementwise
#define UNARY(name, low, high, reference) Variable name(const Variable& x);
#include "tensor/unary.def"
#undef UNARY
#define BINARY(name, low, high, reference) Variable name(const Variable& a, const Variable& b);
#include "tensor/binary.def"
#undef BINARY
Variable affine(double alpha, const Variable& x, double beta = 0.0);  // alpha * x + beta
Variable cast(const Variable& x, DType dtype);
inline Variable operator+(const Variable& a, const Variable& b) {
  return add(a, b);
}
inline Variable operator-(const Variable& a, const Variable& b) {
  return sub(a, b);
}
inline Variable operator*(const Variable& a, const Variable& b) {
  return mul(a, b);
}
inline Variable operator*(double s, const Variable& a) {
  return affine(s, a);
}

// ---- reductions
Variable sum(const Variable& x);            // scalar
Variable mean(const Variable& x);           // scalar
Variable sum(const Variable& x, int axis);  // drops the axis
Variable mean(const Variable& x, int axis);

// ---- shape
Variable reshape(const Variable& x, const Shape& shape);
Variable broadcast_to(const Variable& x, const Shape& shape);
Variable permute(const Variable& x, std::initializer_list<int> axes);
Variable narrow(const Variable& x, int64_t start, int64_t length, int axis = 0);
Variable concat(std::span<const Variable> parts, int axis = 0);
Variable gather_rows(const Variable& x, const Tensor& index);
Variable scatter_add_rows(const Variable& x, const Tensor& index, const Shape& out_shape);
// The rows of all ranks; every rank's use of them reaches their owner's gradient.
Variable all_gather(const Variable& x, Comm& comm);

// ---- linear
Variable matmul(const Variable& a, const Variable& b, bool trans_a = false, bool trans_b = false);
// x (rows, in) w (out, in) bias (out), which may be undefined: x w^T + bias
Variable linear(const Variable& x, const Variable& w, const Variable& bias);
Variable conv2d(const Variable& x, const Variable& w, const ConvArgs& args);

// ---- pooling, NHWC
Variable max_pool2d(const Variable& x, const PoolArgs& args);
Variable global_avg_pool(const Variable& x);  // (N, H, W, C) -> (N, C)

// ---- normalisation
// relu?(batch_norm(x) + residual?), see backend.def. `training`: batch statistics, and the
// running ones are updated in place when args.update_running; else the running ones are used.
Variable batch_norm(const Variable& x, const Variable& gamma, const Variable& beta,
                    Tensor& running_mean, Tensor& running_var, bool training,
                    const BatchNormArgs& args = {}, const Variable& residual = {});
// The same in training with the statistics of all ranks' batches, which are of equal size: what one
// rank gives that has all of them. args.splits is 1.
Variable batch_norm_over_ranks(const Variable& x, const Variable& gamma, const Variable& beta,
                               Tensor& running_mean, Tensor& running_var, const BatchNormArgs& args,
                               const Variable& residual, Comm& comm);
Variable l2_normalize(const Variable& x, double eps = 1e-12);  // rows
// Over the last axis; gamma and beta (C).
Variable layer_norm(const Variable& x, const Variable& gamma, const Variable& beta,
                    double eps = 1e-6);
// x + residual, and its normalisation, in one pass.
struct AddedNorm {
  Variable sum, y;
};
AddedNorm add_layer_norm(const Variable& x, const Variable& residual, const Variable& gamma,
                         const Variable& beta, double eps = 1e-6);

// ---- attention
// qkv (B, T, 3, H, D) -> (B, T, H, D) = softmax(q k^T / sqrt(D)) v, image by image and head by head
Variable attention(const Variable& qkv);

// ---- probabilities and losses
Variable softmax(const Variable& x);
Variable log_softmax(const Variable& x);
// Mean over the rows whose label is not negative. Labels i64 (rows).
Variable cross_entropy(const Variable& logits, const Tensor& labels, double smoothing = 0.0);
// Mean over rows of -sum_k target_k log softmax(scale logits)_k, row i with the target
// target_rows[i], or i.
Variable soft_cross_entropy(const Variable& logits, const Tensor& targets, double scale = 1.0,
                            const Tensor& target_rows = {});
// Contrastive losses: logits (anchors, candidates), labels i64 that say which columns are positives
// of which rows, the rest as in backend.def. Returns one loss a row.
Variable contrastive_loss(const Variable& logits, const Variable& positive,
                          const Tensor& row_labels, const Tensor& column_labels, int64_t self = -1);

// ---- memory for time (Chen et al. 2016)
// Runs `body` without recording and runs it again during backward(), so that only its inputs are
// kept. `body` must give the same result both times (batch norm: the second run does not update
// running statistics). Parameters used inside get their gradients as usual.
Variable checkpoint(const std::function<Variable(const VariableList&)>& body,
                    const VariableList& inputs);
// True while a checkpointed body runs for the second time.
bool recomputing();

}  // namespace facet
