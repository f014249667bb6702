#include "ssl/objective.h"

#include <cmath>

namespace facet {

std::vector<ParamGroup> Objective::groups(double weight_decay) {
  ParamGroup prototype;
  prototype.name = name();
  prototype.weight_decay = weight_decay;
  std::vector<NamedParameter> trained;
  for (NamedParameter& p : parameters(*this))
    if (p.value.requires_grad()) trained.push_back(p);
  return decay_groups(trained, prototype);
}

Tensor Objective::backward_parts(const std::function<Variable(int64_t part)>& loss) {
  Tensor sum;
  for (int64_t i = 0; i < parts_; ++i) {
    Variable value = loss(i);
    if (parts_ > 1 && !sums_pictures()) value = affine(1.0 / static_cast<double>(parts_), value, 0);
    backward(value);
    if (i == 0)
      sum = parts_ > 1 ? value.value().clone() : value.value();
    else
      ops::add_(sum, value.value());
  }
  return sum;
}

Tensor Objective::gradients(const Batch& batch, int64_t step) {
  return backward_parts([&](int64_t i) { return loss(batch.part(i, parts_), step); });
}

double Objective::guarded_backward(const std::function<Variable(int64_t part)>& loss,
                                   Optimizer& optimizer, int64_t t) {
  optimizer.clear_grads();
  const Tensor total = backward_parts(loss);
  if (comm_->size() == 1) return check_finite(total, optimizer, t);
  TensorList reduced = {total.clone()};
  for (ParamGroup& group : optimizer.groups())
    for (auto& [name, parameter] : group.parameters)
      if (parameter.grad().defined()) reduced.push_back(parameter.grad());
  comm_->all_reduce(std::span(reduced));
  for (Tensor& tensor : reduced) ops::scale_(tensor, 1.0 / comm_->size());
  reduced[0].item();  // what a collective that failed leaves is not the gradients' fault
  comm_->check();
  return check_finite(reduced[0], optimizer, t);
}

double Objective::check_finite(const Tensor& loss, Optimizer& optimizer, int64_t t) {
  const double value = loss.item();
  if (!std::isfinite(value))
    throw NonFiniteError(
        "loss is {} at step {}: the weights were left as they were; try a smaller learning rate, "
        "a longer warm-up or gradient clipping",
        value, t);
  const std::string bad = nonfinite_gradient(optimizer.groups());
  if (!bad.empty())
    throw NonFiniteError(
        "gradient of {} is not finite at step {}: the weights were left as they were; try a "
        "smaller learning rate or gradient clipping",
        bad, t);
  return value;
}

double Objective::train_step(const Batch& batch, Optimizer& optimizer, double lr, int64_t step,
                             double clip) {
  const Batch whole = mixed(batch, step);
  const double value = guarded_backward(
      [&](int64_t i) { return loss(whole.part(i, parts_), step); }, optimizer, step + 1);
  update(optimizer, lr, step, clip);
  return value;
}

void Objective::update(Optimizer& optimizer, double lr, int64_t step, double clip) {
  optimizer.step(lr, step + 1, clip);
  after_step(step);
}

std::vector<NamedMetric> embedding_spread(const Tensor& embeddings) {
  if (!embeddings.defined()) return {};
  const Tensor z = ops::l2_normalize(embeddings.cast(DType::f32)).y;
  const Tensor mean = ops::reduce(ReduceOp::mean, z, 0);
  const Tensor centred = ops::sub(z, mean);
  const Tensor variance = ops::reduce(ReduceOp::mean, ops::square(centred), 0);
  const double deviation = ops::reduce(ReduceOp::mean, ops::sqrt(variance)).item();
  // The smaller of the two Gram matrices has the same non-zero eigenvalues.
  const bool wide = z.dim(1) > z.dim(0);
  const std::vector<double> eigenvalues =
      ops::eigvalsh(wide ? ops::matmul(centred, centred, false, true)
                         : ops::matmul(centred, centred, true, false))
          .to_vector<double>();
  double total = 0, entropy = 0;
  for (const double v : eigenvalues) total += std::max(v, 0.0);
  // Equal unit rows differ by rounding, about 1e-14 of squared distance each, in all directions.
  const bool spread = total > 1e-10 * static_cast<double>(z.dim(0));
  for (const double v : eigenvalues)
    if (spread && v > 0) entropy -= v / total * std::log(v / total);
  return {{"embedding_std", deviation}, {"effective_rank", spread ? std::exp(entropy) : 0.0}};
}

}  // namespace facet
