#include "autograd/ops.h"

namespace facet {

Variable reshape(const Variable& x, const Shape& shape) {
  return Variable::result(
      "reshape", x.value().reshape(shape), {x},
      [from = x.shape()](const Tensor& dy) -> TensorList { return {dy.reshape(from)}; });
}

Variable broadcast_to(const Variable& x, const Shape& shape) {
  return Variable::result(
      "broadcast_to", ops::broadcast_to(x.value(), shape), {x},
      [from = x.shape()](const Tensor& dy) -> TensorList { return {ops::sum_to(dy, from)}; });
}

Variable permute(const Variable& x, std::initializer_list<int> axes) {
  Tensor y = ops::permute(x.value(), axes);
  std::vector<int> inverse(axes.size());
  int position = 0;
  for (const int axis : axes) inverse[static_cast<size_t>(axis)] = position++;
  return Variable::result("permute", y, {x}, [inverse](const Tensor& dy) -> TensorList {
    return {ops::permute(dy, inverse)};
  });
}

Variable narrow(const Variable& x, int64_t start, int64_t length, int axis) {
  return Variable::result("narrow", ops::narrow(x.value(), start, length, axis), {x},
                          [shape = x.shape(), start, axis](const Tensor& dy) -> TensorList {
                            Tensor dx = Tensor::zeros(shape, dy.dtype(), dy.device());
                            ops::narrow_copy_(dx, dy, start, axis);
                            return {dx};
                          });
}

Variable concat(std::span<const Variable> parts, int axis) {
  TensorList values;
  for (const Variable& part : parts) values.push_back(part.value());
  Tensor y = ops::concat(values, axis);
  std::vector<int64_t> lengths;
  for (const Variable& part : parts) lengths.push_back(part.dim(axis));
  return Variable::result("concat", y, {parts.begin(), parts.end()},
                          [lengths, axis](const Tensor& dy) -> TensorList {
                            TensorList gradients;
                            int64_t at = 0;
                            for (const int64_t n : lengths) {
                              gradients.push_back(ops::narrow(dy, at, n, axis));
                              at += n;
                            }
                            return gradients;
                          });
}

Variable gather_rows(const Variable& x, const Tensor& index) {
  return Variable::result("gather_rows", ops::gather_rows(x.value(), index), {x},
                          [index, shape = x.shape()](const Tensor& dy) -> TensorList {
                            return {ops::scatter_add_rows(dy, index, shape)};
                          });
}

Variable scatter_add_rows(const Variable& x, const Tensor& index, const Shape& out_shape) {
  return Variable::result(
      "scatter_add_rows", ops::scatter_add_rows(x.value(), index, out_shape), {x},
      [index](const Tensor& dy) -> TensorList { return {ops::gather_rows(dy, index)}; });
}

Variable all_gather(const Variable& x, Comm& comm) {
  if (comm.size() == 1) return x;
  return Variable::result("all_gather", comm.all_gather(x.value()), {x},
                          [&comm, rows = x.dim(0)](const Tensor& dy) -> TensorList {
                            Tensor all = dy.clone();
                            comm.all_reduce(all);
                            return {all.narrow(comm.rank() * rows, rows)};
                          });
}

}  // namespace facet
