#include "nn/layers.h"

namespace facet {
namespace {
Variable parameter_of(Tensor value) {
  return Variable(std::move(value), true);
}
}  // namespace

Variable as_type_of(const Variable& x, const Variable& parameter) {
  const bool same = !parameter.defined() || parameter.dtype() == x.dtype();
  return same ? parameter : cast(parameter, x.dtype());
}

Linear::Linear(int64_t in, int64_t out, bool has_bias)
    : weight(parameter_of(Tensor::zeros({out, in}))) {
  if (has_bias) bias = parameter_of(Tensor::zeros({out}));
}

Variable Linear::operator()(const Variable& x) const {
  return linear(x, as_type_of(x, weight), as_type_of(x, bias));
}

void Linear::visit(ModuleVisitor& v) {
  v("weight", weight);
  v("bias", bias);
}

Conv2d::Conv2d(int64_t in, int64_t out, int kernel, const ConvArgs& args)
    : weight(parameter_of(Tensor::zeros({out, kernel, kernel, in / args.groups}))), args_(args) {}

Variable Conv2d::operator()(const Variable& x) const {
  return conv2d(x, as_type_of(x, weight), args_);
}

void Conv2d::visit(ModuleVisitor& v) {
  v("weight", weight);
}

BatchNorm::BatchNorm(int64_t channels, bool relu, bool offset)
    : weight(parameter_of(Tensor::full({channels}, 1.0))),
      running_mean(Tensor::zeros({channels})),
      running_var(Tensor::full({channels}, 1.0)),
      num_batches_tracked(Tensor::zeros({}, DType::i64)) {
  args_.relu = relu;
  if (offset) bias = parameter_of(Tensor::zeros({channels}));
}

Variable BatchNorm::operator()(const Variable& x, const Variable& residual) {
  if (training() && args_.update_running && !recomputing()) ++*num_batches_tracked.data<int64_t>();
  const Variable shift = bias.defined() ? bias : Variable(Tensor::zeros_like(weight.value()));
  if (training() && comm_ && comm_->size() > 1 && args_.splits == 1)
    return batch_norm_over_ranks(x, weight, shift, running_mean, running_var, args_, residual,
                                 *comm_);
  return batch_norm(x, weight, shift, running_mean, running_var, training(), args_, residual);
}

void BatchNorm::visit(ModuleVisitor& v) {
  v("weight", weight);
  v("bias", bias);
  v("running_mean", running_mean);
  v("running_var", running_var);
  v("num_batches_tracked", num_batches_tracked);
}

Variable conv_norm(const Conv2d& conv, BatchNorm& norm, const Variable& x,
                   const Variable& residual) {
  const bool records =
      grad_enabled() && (x.needs_grad() || conv.weight.needs_grad() || norm.weight.needs_grad());
  if (norm.training() || records) return norm(conv(x), residual);
  const Tensor& w = conv.weight.value();
  const Tensor scale =
      ops::div(norm.weight.value(), ops::sqrt(ops::affine(1, norm.running_var, norm.args().eps)));
  const Tensor folded = ops::mul(w, scale.reshape({w.dim(0), 1, 1, 1}));
  Tensor shift = ops::neg(ops::mul(norm.running_mean, scale));
  if (norm.bias.defined()) shift = ops::add(shift, norm.bias.value());
  const DType type = x.dtype();
  return Variable(ops::conv2d(
      x.value(), folded.cast(type), conv.args(),
      {shift.cast(type), residual.defined() ? residual.value() : Tensor(), norm.args().relu}));
}

namespace {
void for_each_norm(Module& module, const std::function<void(BatchNorm&)>& f) {
  for_each_module(module, [&](Module& m) {
    if (auto* norm = dynamic_cast<BatchNorm*>(&m)) f(*norm);
  });
}
}  // namespace

void set_update_running(Module& module, bool on) {
  for_each_norm(module, [on](BatchNorm& norm) { norm.set_update_running(on); });
}

void set_norm_splits(Module& module, int splits) {
  for_each_norm(module, [splits](BatchNorm& norm) { norm.set_splits(splits); });
}

void set_norm_comm(Module& module, Comm& comm) {
  for_each_norm(module, [&comm](BatchNorm& norm) { norm.set_comm(comm); });
}

}  // namespace facet
