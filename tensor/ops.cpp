#include "tensor/ops.h"

#include <algorithm>

#include "tensor/ops_check.h"

namespace facet::ops {
namespace {

int normalise_axis(const Tensor& x, int axis, const char* op) {
  const int a = axis < 0 ? axis + x.rank() : axis;
  FACET_CHECK(a >= 0 && a < x.rank(), op, "axis {} of a tensor of {}", axis, x.shape());
  return a;
}

}  // namespace

// ---- elementwise

namespace {
constexpr const char* kUnaryNames[] = {
#define UNARY(name, low, high, reference) #name,
#include "tensor/unary.def"
#undef UNARY
};
constexpr const char* kBinaryNames[] = {
#define BINARY(name, low, high, reference) #name,
#include "tensor/binary.def"
#undef BINARY
};
}  // namespace

Tensor unary(UnaryOp op, const Tensor& x) {
  check_floating(x, kUnaryNames[static_cast<size_t>(op)]);
  Tensor y = Tensor::empty_like(x);
  if (x.numel() > 0) x.backend().unary(op, x, y);
  return y;
}

Tensor unary_backward(UnaryOp op, const Tensor& x, const Tensor& y, const Tensor& dy) {
  check_like(x, dy, x.shape(), "dy", __func__);
  Tensor dx = Tensor::empty_like(x);
  if (x.numel() > 0) x.backend().unary_backward(op, x, y, dy, dx);
  return dx;
}

#define UNARY(name, low, high, reference) \
  Tensor name(const Tensor& x) {          \
    return unary(UnaryOp::name, x);       \
  }
#include "tensor/unary.def"
#undef UNARY

Shape broadcast_shape(const Shape& a, const Shape& b, const char* op) {
  const int rank = std::max(a.rank(), b.rank());
  Shape out;
  for (int i = 0; i < rank; ++i) {
    const int ia = i - (rank - a.rank()), ib = i - (rank - b.rank());
    const int64_t da = ia < 0 ? 1 : a[ia], db = ib < 0 ? 1 : b[ib];
    FACET_CHECK(da == db || da == 1 || db == 1, op, "cannot broadcast {} with {}", a, b);
    out.push_back(da == 1 ? db : da);
  }
  return out;
}

Tensor binary(BinaryOp op, const Tensor& a, const Tensor& b) {
  const char* op_name = kBinaryNames[static_cast<size_t>(op)];
  check_same_kind(a, b, op_name);
  Tensor out = Tensor::empty(broadcast_shape(a.shape(), b.shape(), op_name), a.dtype(), a.device());
  if (out.numel() > 0) a.backend().binary(op, a, b, out);
  return out;
}

#define BINARY(name, low, high, reference)        \
  Tensor name(const Tensor& a, const Tensor& b) { \
    return binary(BinaryOp::name, a, b);          \
  }
#include "tensor/binary.def"
#undef BINARY

std::pair<Tensor, Tensor> binary_backward(BinaryOp op, const Tensor& a, const Tensor& b,
                                          const Tensor& dy, bool want_a, bool want_b) {
  check_like(a, dy, broadcast_shape(a.shape(), b.shape(), __func__), "dy", __func__);
  // The gradient of a repeated operand is a sum: its terms are not rounded to bf16 on the way.
  const bool is_sum = (want_a && a.shape() != dy.shape()) || (want_b && b.shape() != dy.shape());
  if (is_sum && dy.dtype() == DType::bf16 && op != BinaryOp::add) {
    auto [da, db] = binary_backward(op, a.cast(DType::f32), b.cast(DType::f32), dy.cast(DType::f32),
                                    want_a, want_b);
    return {want_a ? da.cast(DType::bf16) : da, want_b ? db.cast(DType::bf16) : db};
  }
  Tensor da, db;
  if (op == BinaryOp::add) {  // dy itself: no pass over memory
    if (want_a) da = dy;
    if (want_b) db = dy;
  } else {
    if (want_a) da = Tensor::empty_like(dy);
    if (want_b) db = Tensor::empty_like(dy);
    if (dy.numel() > 0 && (want_a || want_b)) a.backend().binary_backward(op, a, b, dy, da, db);
  }
  if (want_a) da = sum_to(da, a.shape());
  if (want_b) db = sum_to(db, b.shape());
  return {da, db};
}

Tensor affine(double alpha, const Tensor& x, double beta) {
  check_floating(x, __func__);
  Tensor y = Tensor::empty_like(x);
  if (x.numel() > 0) x.backend().affine(alpha, x, beta, y);
  return y;
}

void add_(Tensor& y, const Tensor& x, double alpha) {
  check_floating(x, __func__);
  check_floating(y, __func__);
  check_shape(x, y.shape(), "x", __func__);
  if (x.numel() > 0) y.backend().axpby(alpha, x, 1.0, y);
}

void scale_(Tensor& y, double alpha) {
  check_floating(y, __func__);
  if (y.numel() > 0) y.backend().affine(alpha, y, 0.0, y);
}

// ---- reductions

namespace {
Tensor reduce_to(ReduceOp op, const Tensor& x, int first, int last, DType dtype) {
  check_floating(x, "reduce");
  first = normalise_axis(x, first, "reduce");
  last = normalise_axis(x, last, "reduce");
  FACET_CHECK(first <= last, "reduce", "axes {} to {} of {}", first, last, x.shape());
  Shape shape;
  int64_t outer = 1, n = 1, inner = 1;
  for (int i = 0; i < x.rank(); ++i) {
    (i < first ? outer : i <= last ? n : inner) *= x.shape()[i];
    if (i < first || i > last) shape.push_back(x.shape()[i]);
  }
  FACET_CHECK(n > 0 || op == ReduceOp::sum || op == ReduceOp::sum_squares, "reduce",
              "nothing to reduce in {}", x.shape());
  Tensor y = Tensor::empty(shape, dtype, x.device());
  if (n == 0)
    y.zero_();
  else if (y.numel() > 0)
    x.backend().reduce(op, x, outer, n, inner, y);
  return y;
}
}  // namespace

Tensor reduce(ReduceOp op, const Tensor& x, int first, int last) {
  return reduce_to(op, x, first, last, x.dtype());
}
Tensor sum_rows(const Tensor& x) {
  return reduce_to(ReduceOp::sum, x, 0, 0, acc_dtype(x.dtype()));
}

Tensor reduce(ReduceOp op, const Tensor& x, int axis) {
  return reduce(op, x, axis, axis);
}

Tensor reduce(ReduceOp op, const Tensor& x) {
  return reduce(op, x.flatten(), 0);
}

Tensor sum_to(const Tensor& x, const Shape& shape) {
  if (x.shape() == shape) return x;
  check_floating(x, __func__);
  FACET_CHECK(broadcast_shape(x.shape(), shape, __func__) == x.shape(), __func__,
              "{} does not broadcast to {}", shape, x.shape());
  // Runs of adjacent broadcast axes are reduced together, innermost first.
  const int offset = x.rank() - shape.rank();
  const auto broadcast = [&](int axis) {
    return axis < offset || (shape[axis - offset] == 1 && x.shape()[axis] != 1);
  };
  Tensor y = x;
  for (int axis = x.rank() - 1; axis >= 0; --axis) {
    if (!broadcast(axis)) continue;
    int first = axis;
    while (first > 0 && broadcast(first - 1)) --first;
    int next = first - 1;
    while (next >= 0 && !broadcast(next)) --next;
    if (next >= 0 && y.dtype() == DType::bf16) y = y.cast(DType::f32);  // not the last pass
    y = reduce(ReduceOp::sum, y, first, axis);
    axis = first;
  }
  return y.cast(x.dtype()).reshape(shape);
}

Tensor broadcast_to(const Tensor& x, const Shape& shape) {
  check_floating(x, __func__);
  FACET_CHECK(broadcast_shape(x.shape(), shape, __func__) == shape, __func__,
              "cannot broadcast {} to {}", x.shape(), shape);
  if (x.shape() == shape) return x;
  Tensor y = Tensor::empty(shape, x.dtype(), x.device());
  const Tensor one = Tensor::full({}, 1.0, x.dtype(), x.device());
  if (y.numel() > 0) x.backend().binary(BinaryOp::mul, x, one, y);
  return y;
}

Tensor argmax(const Tensor& x) {
  check_floating(x, __func__);
  FACET_CHECK(x.rank() >= 1 && x.cols() > 0, __func__, "expected rows, got {}", x.shape());
  Tensor y = Tensor::empty({x.rows()}, DType::i64, x.device());
  if (y.numel() > 0) x.backend().argmax(x, y);
  return y;
}

TopK topk(const Tensor& x, int64_t k) {
  check_floating(x, __func__);
  FACET_CHECK(k >= 1 && k <= x.cols(), __func__, "k={} of rows of {}", k, x.cols());
  TopK result{Tensor::empty({x.rows(), k}, x.dtype(), x.device()),
              Tensor::empty({x.rows(), k}, DType::i64, x.device())};
  if (x.numel() > 0) x.backend().topk(x, k, result.values, result.indices);
  return result;
}

int64_t find_nonfinite(std::span<const Tensor> tensors) {
  int64_t index = -1;
  if (!tensors.empty()) tensors[0].backend().find_nonfinite(tensors, index);
  return index;
}

// ---- linear algebra

namespace {
// The shape of op(a) op(b).
Shape product_shape(const Tensor& a, const Tensor& b, bool trans_a, bool trans_b) {
  check_same_kind(a, b, "matmul");
  FACET_CHECK(a.rank() == b.rank() && (a.rank() == 2 || a.rank() == 3), "matmul",
              "expected two matrices or two batches of matrices, got {} and {}", a.shape(),
              b.shape());
  const int64_t m = a.dim(trans_a ? -1 : -2), ka = a.dim(trans_a ? -2 : -1);
  const int64_t kb = b.dim(trans_b ? -1 : -2), n = b.dim(trans_b ? -2 : -1);
  FACET_CHECK(ka == kb && (a.rank() == 2 || a.dim(0) == b.dim(0)), "matmul",
              "cannot multiply {}{} by {}{}", a.shape(), trans_a ? " transposed" : "", b.shape(),
              trans_b ? " transposed" : "");
  return a.rank() == 3 ? Shape{a.dim(0), m, n} : Shape{m, n};
}
}  // namespace

void matmul_into(const Tensor& a, const Tensor& b, const MatmulArgs& args, Tensor& out) {
  check_shape(out, product_shape(a, b, args.trans_a, args.trans_b), "out", "matmul");
  FACET_CHECK(out.dtype() == a.dtype() || out.dtype() == acc_dtype(a.dtype()), "matmul",
              "expected out of {} or {}, got {}", name(a.dtype()), name(acc_dtype(a.dtype())),
              name(out.dtype()));
  if (out.numel() > 0) a.backend().matmul(a, b, Tensor(), args, out);
}

Tensor matmul(const Tensor& a, const Tensor& b, bool trans_a, bool trans_b, const Tensor& bias) {
  const Shape shape = product_shape(a, b, trans_a, trans_b);
  if (bias.defined()) check_like(a, bias, {shape.cols()}, "bias", __func__);
  Tensor out = Tensor::empty(shape, a.dtype(), a.device());
  if (out.numel() == 0) return out;
  a.backend().matmul(a, b, bias, {.trans_a = trans_a, .trans_b = trans_b}, out);
  return out;
}

namespace {
void check_square(const Tensor& matrix, const char* op) {
  FACET_CHECK(matrix.rank() == 2 && matrix.dim(0) == matrix.dim(1) && matrix.dim(0) > 0 &&
                  (matrix.dtype() == DType::f32 || matrix.dtype() == DType::f64),
              op, "expected a square f32 or f64 matrix, got {}", matrix.str());
}
}  // namespace

Tensor eigvalsh(const Tensor& matrix) {
  check_square(matrix, __func__);
  Tensor values = Tensor::empty({matrix.dim(0)}, matrix.dtype(), matrix.device());
  matrix.backend().eigvalsh(matrix, values);
  return values;
}

TensorList average_linkage(TensorList similarities) {
  TensorList merges;
  for (const Tensor& matrix : similarities) {
    check_square(matrix, __func__);
    check_same_kind(similarities[0], matrix, __func__);
    merges.push_back(Tensor::empty({matrix.dim(0) - 1}, matrix.dtype(), matrix.device()));
  }
  if (!merges.empty()) merges[0].backend().average_linkage(similarities, merges);
  return merges;
}

Tensor average_linkage(Tensor similarity) {
  return average_linkage(TensorList{std::move(similarity)})[0];
}

// ---- convolution and pooling

namespace {
int64_t out_extent(int64_t in, int kernel, int stride, int padding) {
  return (in + 2 * padding - kernel) / stride + 1;
}

Shape conv_shape(const Shape& x, const Shape& w, const ConvArgs& args, const char* op) {
  FACET_CHECK(x.rank() == 4 && w.rank() == 4, op,
              "expected x (N, H, W, C) and w (Cout, kh, kw, Cin), got {} and {}", x, w);
  FACET_CHECK(args.stride >= 1 && args.padding >= 0 && args.groups >= 1, op,
              "stride {}, padding {}, groups {}", args.stride, args.padding, args.groups);
  FACET_CHECK(x[3] == w[3] * args.groups && w[0] % args.groups == 0, op,
              "expected C={} (w {}, groups {}), got x of {}", w[3] * args.groups, w, args.groups,
              x);
  FACET_CHECK(x[1] + 2 * args.padding >= w[1] && x[2] + 2 * args.padding >= w[2], op,
              "a {}x{} kernel does not fit x of {} with padding {}", w[1], w[2], x, args.padding);
  return {x[0], out_extent(x[1], static_cast<int>(w[1]), args.stride, args.padding),
          out_extent(x[2], static_cast<int>(w[2]), args.stride, args.padding), w[0]};
}

Shape pool_shape(const Shape& x, const PoolArgs& args, const char* op) {
  FACET_CHECK(x.rank() == 4, op, "expected x (N, H, W, C), got {}", x);
  FACET_CHECK(args.kernel >= 1 && args.kernel <= 15 && args.stride >= 1 && args.padding >= 0 &&
                  2 * args.padding <= args.kernel,
              op, "kernel {}, stride {}, padding {}", args.kernel, args.stride, args.padding);
  FACET_CHECK(x[1] + 2 * args.padding >= args.kernel && x[2] + 2 * args.padding >= args.kernel, op,
              "a {} window does not fit x of {}", args.kernel, x);
  return {x[0], out_extent(x[1], args.kernel, args.stride, args.padding),
          out_extent(x[2], args.kernel, args.stride, args.padding), x[3]};
}
}  // namespace

Tensor conv2d(const Tensor& x, const Tensor& w, const ConvArgs& args,
              const ConvEpilogue& epilogue) {
  check_same_kind(x, w, __func__);
  Tensor y = Tensor::empty(conv_shape(x.shape(), w.shape(), args, __func__), x.dtype(), x.device());
  if (epilogue.bias.defined()) check_like(x, epilogue.bias, {w.dim(0)}, "bias", __func__);
  if (epilogue.residual.defined())
    check_like(x, epilogue.residual, y.shape(), "residual", __func__);
  if (y.numel() > 0) x.backend().conv2d(x, w, epilogue, args, y);
  return y;
}

Tensor conv2d_backward_input(const Tensor& dy, const Tensor& w, const Shape& x_shape,
                             const ConvArgs& args) {
  check_same_kind(dy, w, __func__);
  check_shape(dy, conv_shape(x_shape, w.shape(), args, __func__), "dy", __func__);
  Tensor dx = Tensor::empty(x_shape, dy.dtype(), dy.device());
  if (dx.numel() > 0) dy.backend().conv2d_backward_input(dy, w, args, dx);
  return dx;
}

Tensor conv2d_backward_weight(const Tensor& x, const Tensor& dy, const Shape& w_shape,
                              const ConvArgs& args) {
  check_same_kind(x, dy, __func__);
  check_shape(dy, conv_shape(x.shape(), w_shape, args, __func__), "dy", __func__);
  Tensor dw = Tensor::empty(w_shape, acc_dtype(x.dtype()), x.device());
  if (x.numel() == 0)
    dw.zero_();
  else
    x.backend().conv2d_backward_weight(x, dy, args, dw);
  return dw;
}

MaxPool max_pool2d(const Tensor& x, const PoolArgs& args) {
  check_floating(x, __func__);
  const Shape shape = pool_shape(x.shape(), args, __func__);
  MaxPool result{Tensor::empty(shape, x.dtype(), x.device()),
                 Tensor::empty(shape, DType::u8, x.device())};
  if (x.numel() > 0) x.backend().max_pool2d(x, args, result.y, result.where);
  return result;
}

Tensor max_pool2d_backward(const Tensor& dy, const Tensor& where, const Shape& x_shape,
                           const PoolArgs& args) {
  check_floating(dy, __func__);
  check_shape(dy, pool_shape(x_shape, args, __func__), "dy", __func__);
  check_shape(where, dy.shape(), "where", __func__);
  Tensor dx = Tensor::empty(x_shape, dy.dtype(), dy.device());
  if (dx.numel() > 0) dy.backend().max_pool2d_backward(dy, where, args, dx);
  return dx;
}

// ---- moving elements

Tensor gather_rows(const Tensor& x, const Tensor& index) {
  FACET_CHECK(x.defined() && x.rank() >= 1, __func__, "expected rows, got {}", x.str());
  check_index(index, __func__);
  check_bounds(index, 0, x.dim(0), "index", __func__);
  Shape shape = x.shape();
  shape.set(0, index.numel());
  Tensor y = Tensor::empty(shape, x.dtype(), x.device());
  if (y.numel() > 0) x.backend().gather_rows(x, index, y);
  return y;
}

Tensor scatter_add_rows(const Tensor& x, const Tensor& index, const Shape& out_shape) {
  check_floating(x, __func__);
  if (x.dtype() == DType::bf16)  // sums are kept in f32
    return scatter_add_rows(x.cast(DType::f32), index, out_shape).cast(DType::bf16);
  Tensor out = Tensor::zeros(out_shape, x.dtype(), x.device());
  scatter_add_rows_(out, x, index);
  return out;
}

void scatter_add_rows_(Tensor& out, const Tensor& x, const Tensor& index) {
  check_same_kind(out, x, "scatter_add_rows");
  check_index(index, "scatter_add_rows");
  Shape expected = out.shape();
  FACET_CHECK(out.rank() >= 1, "scatter_add_rows", "expected rows to add to, got a scalar");
  expected.set(0, index.numel());
  check_shape(x, expected, "x", "scatter_add_rows");
  check_bounds(index, 0, out.dim(0), "index", "scatter_add_rows");
  if (x.numel() > 0) x.backend().scatter_add_rows(x, index, out);
}

Tensor permute(const Tensor& x, std::span<const int> axes) {
  FACET_CHECK(static_cast<int>(axes.size()) == x.rank(), __func__,
              "expected {} axes for {}, got {}", x.rank(), x.shape(), axes.size());
  unsigned seen = 0;
  Shape shape;
  for (const int axis : axes) {
    FACET_CHECK(axis >= 0 && axis < x.rank() && !(seen >> axis & 1u), __func__,
                "axis {} is repeated or outside {}", axis, x.shape());
    seen |= 1u << axis;
    shape.push_back(x.shape()[axis]);
  }
  Tensor y = Tensor::empty(shape, x.dtype(), x.device());
  if (y.numel() > 0) x.backend().permute(x, axes, y);
  return y;
}

Tensor transpose(const Tensor& x) {
  FACET_CHECK(x.rank() == 2 || x.rank() == 3, __func__, "expected 2 or 3 axes, got {}", x.shape());
  return x.rank() == 2 ? permute(x, {1, 0}) : permute(x, {0, 2, 1});
}

namespace {
// Elements of one entry of `axis` and all axes after it.
int64_t entries_after(const Shape& shape, int axis) {
  int64_t n = 1;
  for (int d = axis + 1; d < shape.rank(); ++d) n *= shape[d];
  return n;
}

void check_narrow(const Tensor& x, int64_t start, int64_t length, int axis) {
  FACET_CHECK(
      axis >= 0 && axis < x.rank() && start >= 0 && length >= 0 && start + length <= x.dim(axis),
      "narrow", "entries {} to {} of axis {} of {}", start, start + length, axis, x.shape());
}
}  // namespace

Tensor concat(std::span<const Tensor> parts, int axis) {
  FACET_CHECK(!parts.empty() && axis >= 0 && axis < parts[0].rank(), __func__,
              "expected tensors with an axis {}", axis);
  int64_t length = 0;
  for (const Tensor& part : parts) {
    Shape same = part.shape();
    FACET_CHECK(part.rank() == parts[0].rank() && part.dtype() == parts[0].dtype(), __func__,
                "expected {} parts like {}, got {}", name(parts[0].dtype()), parts[0].shape(),
                part.str());
    same.set(axis, parts[0].dim(axis));
    check_shape(parts[0], same, "parts", __func__);
    length += part.dim(axis);
  }
  Shape shape = parts[0].shape();
  shape.set(axis, length);
  Tensor out = Tensor::empty(shape, parts[0].dtype(), parts[0].device());
  int64_t at = 0;
  for (const Tensor& part : parts) {
    narrow_copy_(out, part, at, axis);
    at += part.dim(axis);
  }
  return out;
}

void narrow_copy_(Tensor& out, const Tensor& part, int64_t start, int axis) {
  check_narrow(out, start, part.dim(axis), axis);
  if (part.numel() == 0) return;
  if (axis == 0) {
    Tensor slot = out.narrow(start, part.dim(0));
    slot.copy_(part);
    return;
  }
  const int64_t inner = entries_after(out.shape(), axis), width = part.dim(axis) * inner;
  out.backend().copy_block(part,
                           {.rows = part.numel() / width,
                            .width = width,
                            .from_pitch = width,
                            .to_first = start * inner,
                            .to_pitch = out.dim(axis) * inner},
                           out);
}

Tensor narrow(const Tensor& x, int64_t start, int64_t length, int axis) {
  check_narrow(x, start, length, axis);
  if (axis == 0) return x.narrow(start, length);
  Shape shape = x.shape();
  shape.set(axis, length);
  Tensor y = Tensor::empty(shape, x.dtype(), x.device());
  const int64_t inner = entries_after(shape, axis), width = length * inner;
  if (y.numel() > 0)
    x.backend().copy_block(x,
                           {.rows = y.numel() / width,
                            .width = width,
                            .from_first = start * inner,
                            .from_pitch = x.dim(axis) * inner,
                            .to_pitch = width},
                           y);
  return y;
}

// ---- random

Tensor random_uniform(const Shape& shape, const RandomKey& key, double low, double high,
                      DType dtype, Device device) {
  FACET_CHECK(is_floating(dtype), __func__, "expected a floating dtype, got {}", name(dtype));
  Tensor y = Tensor::empty(shape, dtype, device);
  if (y.numel() > 0) y.backend().random_uniform(key, low, high, y);
  return y;
}

Tensor random_normal(const Shape& shape, const RandomKey& key, double mean, double stddev,
                     DType dtype, Device device) {
  FACET_CHECK(is_floating(dtype), __func__, "expected a floating dtype, got {}", name(dtype));
  Tensor y = Tensor::empty(shape, dtype, device);
  if (y.numel() > 0) y.backend().random_normal(key, mean, stddev, y);
  return y;
}

// ---- images

namespace {
bool holds(int64_t height, int64_t width, const Rectangle& w) {
  return w.top >= 0 && w.left >= 0 && w.height >= 0 && w.width >= 0 &&
         int64_t{w.top} + w.height <= height && int64_t{w.left} + w.width <= width;
}
void check_images(const Tensor& x, const char* op) {
  check_floating(x, op);
  FACET_CHECK(x.rank() == 4, op, "expected images (N, H, W, C), got {}", x.str());
}
void check_plan(const ViewPlan& p, int64_t bytes) {
  FACET_CHECK(p.height > 0 && p.width > 0 && p.offset >= 0 &&
                  p.offset + int64_t{p.height} * p.width * 3 <= bytes,
              "augment", "expected a {}x{} picture at byte {} within {} bytes", p.height, p.width,
              p.offset, bytes);
  FACET_CHECK(holds(p.height, p.width, p.window) && p.window.height > 0 && p.window.width > 0,
              "augment", "the {}x{} window at ({}, {}) leaves the {}x{} picture", p.window.height,
              p.window.width, p.window.top, p.window.left, p.height, p.width);
  FACET_CHECK(holds(p.resized_height, p.resized_width, p.view), "augment",
              "the {}x{} view at ({}, {}) leaves the picture resized to {}x{}", p.view.height,
              p.view.width, p.view.top, p.view.left, p.resized_height, p.resized_width);
  FACET_CHECK(p.count >= 0 && p.count <= ViewPlan::kMaxOps, "augment",
              "expected at most {} operations, got {}", ViewPlan::kMaxOps, p.count);
  for (const ImageOp& op : std::span(p.ops, static_cast<size_t>(p.count))) {
    const auto [top, left, height, width] = op.box;
    FACET_CHECK(holds(p.view.height, p.view.width, {top, left, height, width}), "augment",
                "the {}x{} box at ({}, {}) leaves the {}x{} view", height, width, top, left,
                p.view.height, p.view.width);
  }
}
}  // namespace

Tensor augment(const Tensor& pixels, std::span<const ViewPlan> plans, const ChannelScale& scale,
               DType dtype) {
  FACET_CHECK(pixels.defined() && pixels.dtype() == DType::u8 && pixels.rank() == 1, __func__,
              "expected a u8 vector of pixels, got {}", pixels.str());
  FACET_CHECK(is_floating(dtype) || dtype == DType::u8, __func__,
              "expected views of a floating type or u8, got {}", name(dtype));
  FACET_CHECK(!plans.empty(), __func__, "expected at least one plan");
  const Rectangle& first = plans[0].view;
  for (const ViewPlan& plan : plans) {
    check_plan(plan, pixels.numel());
    FACET_CHECK(plan.view.height == first.height && plan.view.width == first.width &&
                    first.height > 0 && first.width > 0,
                __func__, "expected views of one size, got {}x{} and {}x{}", first.height,
                first.width, plan.view.height, plan.view.width);
  }
  Tensor out = Tensor::empty({static_cast<int64_t>(plans.size()), first.height, first.width, 3},
                             dtype, pixels.device());
  out.backend().augment(pixels, plans, scale, out);
  return out;
}

Tensor mix_reversed(const Tensor& x, double weight, const Rectangle& box) {
  check_images(x, __func__);
  FACET_CHECK(weight >= 0 && weight <= 1, __func__, "expected a weight in [0, 1], got {}", weight);
  FACET_CHECK(holds(x.dim(1), x.dim(2), box), __func__,
              "the {}x{} box at ({}, {}) leaves the images of {}", box.height, box.width, box.top,
              box.left, x.shape());
  Tensor y = Tensor::empty_like(x);
  if (x.numel() > 0) x.backend().mix_reversed(x, weight, box, y);
  return y;
}

void erase_(Tensor& x, std::span<const EraseBox> boxes, EraseFill fill, const RandomKey& key) {
  check_images(x, __func__);
  for (const EraseBox& e : boxes)
    FACET_CHECK(e.image >= 0 && e.image < x.dim(0) && holds(x.dim(1), x.dim(2), e.box), __func__,
                "the {}x{} box at ({}, {}) of image {} leaves the images of {}", e.box.height,
                e.box.width, e.box.top, e.box.left, e.image, x.shape());
  if (!boxes.empty() && x.numel() > 0) x.backend().erase(boxes, fill, key, x);
}

}  // namespace facet::ops
