// Operations on tensors without gradients: each checks what the caller gave, allocates the
// result and calls the backend of the tensor's device. autograd/ops.h has the differentiable
// versions under the same names, one namespace up.
#pragma once

#include <span>
#include <utility>

#include "tensor/backend.h"

namespace facet::ops {

// ---- elementwise
#define UNARY(name, low, high, reference) Tensor name(const Tensor& x);
#include "tensor/unary.def"
#undef UNARY
Tensor unary(UnaryOp op, const Tensor& x);
Tensor unary_backward(UnaryOp op, const Tensor& x, const Tensor& y, const Tensor& dy);

// Shapes broadcast as in NumPy; both of one type.
#define BINARY(name, low, high, reference) Tensor name(const Tensor& a, const Tensor& b);
#include "tensor/binary.def"
#undef BINARY
Tensor binary(BinaryOp op, const Tensor& a, const Tensor& b);
// Gradients summed back to the shapes of a and b; an unwanted one is returned undefined.
std::pair<Tensor, Tensor> binary_backward(BinaryOp op, const Tensor& a, const Tensor& b,
                                          const Tensor& dy, bool want_a, bool want_b);
Shape broadcast_shape(const Shape& a, const Shape& b, const char* op);

Tensor affine(double alpha, const Tensor& x, double beta);  // alpha * x + beta
void add_(Tensor& y, const Tensor& x, double alpha = 1.0);  // y += alpha * x
void scale_(Tensor& y, double alpha);                       // y *= alpha

// ---- reductions
Tensor reduce(ReduceOp op, const Tensor& x);            // to a scalar (rank 0)
Tensor reduce(ReduceOp op, const Tensor& x, int axis);  // drops the axis
// Reduces the axes [first, last] (inclusive, adjacent) together.
Tensor reduce(ReduceOp op, const Tensor& x, int first, int last);
Tensor sum_rows(const Tensor& x);                    // over the first axis; f32 also of bf16
Tensor sum_to(const Tensor& x, const Shape& shape);  // undoes broadcasting
Tensor broadcast_to(const Tensor& x, const Shape& shape);
Tensor argmax(const Tensor& x);  // rows x C -> i64 (rows)
struct TopK {
  Tensor values, indices;
};  // (rows, k) each
TopK topk(const Tensor& x, int64_t k);
// Position of the first tensor with a NaN or infinity, or -1.
int64_t find_nonfinite(std::span<const Tensor> tensors);

// ---- linear algebra
// op(a) op(b) (+ bias over columns), 2-D or batched 3-D.
Tensor matmul(const Tensor& a, const Tensor& b, bool trans_a = false, bool trans_b = false,
              const Tensor& bias = {});
// out = alpha op(a) op(b) + beta out; out of a's type, or f32 for bf16
void matmul_into(const Tensor& a, const Tensor& b, const MatmulArgs& args, Tensor& out);
Tensor eigvalsh(const Tensor& matrix);
Tensor average_linkage(Tensor similarity);  // similarity is overwritten
// Of many matrices at once, of one type: a device works on all of them side by side.
TensorList average_linkage(TensorList similarities);

// ---- convolution and pooling, NHWC
Tensor conv2d(const Tensor& x, const Tensor& w, const ConvArgs& args,
              const ConvEpilogue& epilogue = {});
Tensor conv2d_backward_input(const Tensor& dy, const Tensor& w, const Shape& x_shape,
                             const ConvArgs& args);
Tensor conv2d_backward_weight(const Tensor& x, const Tensor& dy, const Shape& w_shape,
                              const ConvArgs& args);
struct MaxPool {
  Tensor y, where;
};
MaxPool max_pool2d(const Tensor& x, const PoolArgs& args);
Tensor max_pool2d_backward(const Tensor& dy, const Tensor& where, const Shape& x_shape,
                           const PoolArgs& args);

// ---- batch normalisation, see backend.def; residual may be undefined
struct BatchNorm {
  Tensor y, mean, rstd, mask;
};
BatchNorm batch_norm_train(const Tensor& x, const Tensor& residual, const Tensor& gamma,
                           const Tensor& beta, Tensor& running_mean, Tensor& running_var,
                           const BatchNormArgs& args);
BatchNorm batch_norm_eval(const Tensor& x, const Tensor& residual, const Tensor& gamma,
                          const Tensor& beta, const Tensor& running_mean, const Tensor& running_var,
                          const BatchNormArgs& args);
struct BatchNormGrads {
  Tensor dx, dresidual, dgamma, dbeta;
};
BatchNormGrads batch_norm_backward(const Tensor& x, const Tensor& dy, const Tensor& gamma,
                                   const Tensor& mean, const Tensor& rstd, const Tensor& mask,
                                   bool want_residual, const BatchNormArgs& args);

// ---- layer normalisation and attention, see backend.def
struct LayerNorm {
  Tensor sum, y, mean, rstd;  // sum: x itself without a residual
};
LayerNorm layer_norm(const Tensor& x, const Tensor& residual, const Tensor& gamma,
                     const Tensor& beta, double eps);
struct LayerNormGrads {
  Tensor dx, dgamma, dbeta;
};
LayerNormGrads layer_norm_backward(const Tensor& x, const Tensor& dy, const Tensor& gamma,
                                   const Tensor& mean, const Tensor& rstd);
struct Attention {
  Tensor y, lse;
};
Attention attention(const Tensor& qkv, double scale);
Tensor attention_backward(const Tensor& qkv, const Tensor& y, const Tensor& lse, const Tensor& dy,
                          double scale);

// ---- rows
struct Normalized {
  Tensor y, norm;
};
Normalized l2_normalize(const Tensor& x, double eps = 1e-12);
Tensor l2_normalize_backward(const Tensor& y, const Tensor& norm, const Tensor& dy,
                             double eps = 1e-12);
Tensor softmax(const Tensor& x);
Tensor log_softmax(const Tensor& x);
Tensor softmax_backward(const Tensor& y, const Tensor& dy, bool log);
struct CrossEntropy {
  Tensor loss, lse;
};  // (rows) each, acc type
CrossEntropy cross_entropy(const Tensor& logits, const Tensor& labels, double smoothing = 0.0);
Tensor cross_entropy_backward(const Tensor& logits, const Tensor& labels, double smoothing,
                              const Tensor& lse, const Tensor& dloss);
CrossEntropy soft_cross_entropy(const Tensor& logits, const Tensor& targets, double scale = 1.0,
                                const Tensor& target_rows = {});
Tensor soft_cross_entropy_backward(const Tensor& logits, const Tensor& targets, const Tensor& lse,
                                   const Tensor& dloss, double scale = 1.0,
                                   const Tensor& target_rows = {});
// Anchors against candidates, see backend.def; positive may be undefined.
CrossEntropy contrastive_loss(const Tensor& logits, const Tensor& positive,
                              const Tensor& row_labels, const Tensor& column_labels, int64_t self);
struct ContrastiveGrads {
  Tensor dlogits, dpositive;
};
ContrastiveGrads contrastive_loss_backward(const Tensor& logits, const Tensor& positive,
                                           const Tensor& row_labels, const Tensor& column_labels,
                                           int64_t self, const Tensor& lse, const Tensor& dloss);

// ---- moving elements
Tensor gather_rows(const Tensor& x, const Tensor& index);  // along axis 0
Tensor scatter_add_rows(const Tensor& x, const Tensor& index, const Shape& out_shape);
void scatter_add_rows_(Tensor& out, const Tensor& x, const Tensor& index);  // out[index[i]] += x[i]
Tensor permute(const Tensor& x, std::span<const int> axes);
inline Tensor permute(const Tensor& x, std::initializer_list<int> axes) {
  return permute(x, std::span(axes.begin(), axes.size()));
}
Tensor transpose(const Tensor& x);  // last two axes, rank 2 or 3
// Parts of equal shape but for the axis, one after the other along it.
Tensor concat(std::span<const Tensor> parts, int axis = 0);
// Entries start ... start + length - 1 along an axis: a view for axis 0, else a copy.
Tensor narrow(const Tensor& x, int64_t start, int64_t length, int axis);
// ... the other way: those of `out`, which is like `part` but for the axis, become the part's.
void narrow_copy_(Tensor& out, const Tensor& part, int64_t start, int axis);

// ---- random
Tensor random_uniform(const Shape& shape, const RandomKey& key, double low = 0.0, double high = 1.0,
                      DType dtype = DType::f32, Device device = {});
Tensor random_normal(const Shape& shape, const RandomKey& key, double mean = 0.0,
                     double stddev = 1.0, DType dtype = DType::f32, Device device = {});

// ---- images, see backend.def
// Views of one size; dtype u8: before normalisation.
Tensor augment(const Tensor& pixels, std::span<const ViewPlan> plans, const ChannelScale& scale,
               DType dtype = DType::f32);
Tensor mix_reversed(const Tensor& x, double weight, const Rectangle& box);
void erase_(Tensor& x, std::span<const EraseBox> boxes, EraseFill fill, const RandomKey& key = {});

}  // namespace facet::ops
