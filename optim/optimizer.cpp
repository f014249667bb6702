#include "optim/optimizer.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

namespace facet {

const char* name(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::sgd: return "sgd";
    case Algorithm::adamw: return "adamw";
    case Algorithm::adam: return "adam";
    case Algorithm::lars: return "lars";
  }
  return "?";
}

Optimizer::Optimizer(OptimizerOptions options, std::vector<ParamGroup> groups)
    : options_(options), groups_(std::move(groups)) {
  for (const ParamGroup& group : groups_) {
    FACET_CHECK(group.cycle >= 0, "Optimizer", "group '{}': cycle {} is negative", group.name,
                group.cycle);
    slots_.emplace_back(group.parameters.size());
  }
}

bool Optimizer::is_due(size_t group, int64_t t) const {
  const int64_t cycle = groups_[group].cycle;
  return cycle != 0 && t % cycle == 0;
}

bool Optimizer::is_adam() const {
  return options_.algorithm == Algorithm::adamw || options_.algorithm == Algorithm::adam;
}

namespace {

std::vector<double> squares_of(std::span<const Tensor> grads) {
  std::vector<double> squares(grads.size());
  if (!grads.empty()) grads[0].backend().sum_squares(grads, squares);
  return squares;
}

// Scales `grads` by what brings the norm of `of` down to the limit.
double limit_norm(std::span<Tensor> grads, double max_norm, std::span<const Tensor> of) {
  std::vector<double> squares = squares_of(of);
  // Ascending, so that the sum does not depend on how parameters are cut into groups.
  std::sort(squares.begin(), squares.end());
  const double norm = std::sqrt(std::accumulate(squares.begin(), squares.end(), 0.0));
  if (norm > max_norm) {
    const std::vector<double> factors(grads.size(), max_norm / (norm + 1e-6));
    grads[0].backend().scale(grads, factors);
  }
  return norm;
}

}  // namespace

// Adds up the gradients of a cycle; its due step gets their sum or mean.
void Optimizer::accumulate(ParamGroup& group, std::vector<Slot>& slots, int64_t t) {
  const bool opens = t % group.cycle == 1, due = t % group.cycle == 0;
  // Where counting starts with a due step 0, that one is a cycle of its own.
  const double length = t == 0 ? 1.0 : static_cast<double>(group.cycle);
  for (size_t i = 0; i < slots.size(); ++i) {
    Variable& p = group.parameters[i].value;
    Tensor& sum = slots[i].accumulated;
    if (opens) sum = Tensor();  // what an epoch left of an unfinished cycle when t starts anew
    if (p.grad().defined()) {
      if (sum.defined())
        ops::add_(sum, p.grad());
      else
        sum = p.grad().clone();
    }
    if (!due || !sum.defined()) continue;
    if (group.skipped == SkippedStep::accumulate_mean) ops::scale_(sum, 1.0 / length);
    p.grad() = std::exchange(sum, Tensor());
  }
}

void Optimizer::step(double lr, int64_t t, double clip, const GroupFilter& only) {
  TensorList params, grads, first, second;
  std::vector<SgdArgs> sgd;
  std::vector<AdamArgs> adam;
  std::vector<LarsArgs> lars;
  for (size_t g = 0; g < groups_.size(); ++g) {
    ParamGroup& group = groups_[g];
    const bool due = is_due(g, t);
    const bool never = group.cycle == 0;
    const bool accumulates = group.skipped == SkippedStep::accumulate_mean ||
                             group.skipped == SkippedStep::accumulate_sum;
    if (never || (only && !only(group))) continue;
    if (accumulates && group.cycle > 1) accumulate(group, slots_[g], t);
    if (!due && group.skipped != SkippedStep::zero_grad) continue;
    for (size_t i = 0; i < group.parameters.size(); ++i) {
      Variable& p = group.parameters[i].value;
      Slot& slot = slots_[g][i];
      Tensor grad = p.grad();
      // PyTorch before 2.0 zeroes gradients in place: until the first one exists there is none.
      if (!due) grad = slot.steps > 0 ? Tensor::zeros_like(p.value()) : Tensor();
      if (!grad.defined()) continue;
      if (has_momentum() && !slot.first.defined()) {
        slot.first = Tensor::zeros_like(p.value());
        if (is_adam()) slot.second = Tensor::zeros_like(p.value());
      }
      ++slot.steps;
      params.push_back(p.value());
      grads.push_back(grad);
      first.push_back(slot.first);
      second.push_back(slot.second);
      const double rate = group.lr.value_or(lr) * group.lr_scale;
      const bool is_first = slot.steps == 1;
      if (is_adam())
        adam.push_back({rate, options_.beta1, options_.beta2, options_.eps, group.weight_decay,
                        options_.algorithm == Algorithm::adamw, slot.steps});
      else if (options_.algorithm == Algorithm::lars)
        lars.push_back({rate, options_.momentum, group.weight_decay, options_.lars_trust,
                        options_.eps, options_.lars_form, group.adapt, is_first});
      else
        sgd.push_back({rate, options_.momentum, group.weight_decay, options_.nesterov, is_first});
    }
  }
  if (params.empty()) return;
  if (clip > 0) {
    TensorList all;
    for (const ParamGroup& group : groups_)
      for (const auto& [name, parameter] : group.parameters)
        if (clip_all_ && parameter.grad().defined()) all.push_back(parameter.grad());
    limit_norm(grads, clip, clip_all_ ? all : grads);
  }
  Backend& backend = params[0].backend();
  if (!adam.empty())
    backend.adamw_step(params, grads, first, second, adam);
  else if (!lars.empty())
    backend.lars_step(params, grads, first, lars);
  else
    backend.sgd_step(params, grads, first, sgd);
}

void Optimizer::clear_grads() {
  for (ParamGroup& group : groups_)
    for (auto& [name, parameter] : group.parameters) parameter.clear_grad();
}

std::vector<NamedTensor> Optimizer::state() const {
  std::vector<NamedTensor> values;
  for (size_t g = 0; g < groups_.size(); ++g)
    for (size_t i = 0; i < slots_[g].size(); ++i) {
      const Slot& slot = slots_[g][i];
      const std::string& of = groups_[g].parameters[i].name;
      if (slot.first.defined()) values.push_back({"momentum." + of, slot.first});
      if (slot.second.defined()) values.push_back({"second." + of, slot.second});
      if (slot.accumulated.defined()) values.push_back({"accumulated." + of, slot.accumulated});
      if (slot.steps > 0) values.push_back({"steps." + of, Tensor::from<int64_t>({slot.steps})});
    }
  return values;
}

void Optimizer::load(const std::vector<NamedTensor>& values) {
  std::map<std::string, Tensor> by_name;
  for (const NamedTensor& v : values) by_name[v.name] = v.value;
  const auto take = [&](const std::string& key) {
    const auto found = by_name.find(key);
    if (found == by_name.end()) return Tensor();
    Tensor value = found->second;
    by_name.erase(found);
    return value;
  };
  for (size_t g = 0; g < groups_.size(); ++g)
    for (size_t i = 0; i < slots_[g].size(); ++i) {
      const std::string& of = groups_[g].parameters[i].name;
      const Variable& parameter = groups_[g].parameters[i].value;
      Slot slot;
      const auto take_like = [&](const char* kind) {
        const Tensor value = take(kind + of);
        if (!value.defined()) return value;
        FACET_CHECK(value.shape() == parameter.shape(), "Optimizer",
                    "state of {}: expected {}, got {}", of, parameter.shape(), value.shape());
        Tensor copy = Tensor::empty(value.shape(), value.dtype(), parameter.device());
        copy.copy_(value);
        return copy;
      };
      slot.first = take_like("momentum.");
      slot.second = take_like("second.");
      slot.accumulated = take_like("accumulated.");
      const Tensor steps = take("steps." + of);
      if (steps.defined()) slot.steps = steps.to_vector<int64_t>()[0];
      FACET_CHECK(
          slot.steps == 0 ||
              (slot.first.defined() == has_momentum() && slot.second.defined() == is_adam()),
          "Optimizer", "state of {} is not that of {}", of, facet::name(options_.algorithm));
      slots_[g][i] = slot;
    }
  FACET_CHECK(by_name.empty(), "Optimizer", "state of an unknown parameter: {}",
              by_name.begin()->first);
}

std::vector<ParamGroup> decay_groups(const std::vector<NamedParameter>& parameters,
                                     const ParamGroup& prototype) {
  ParamGroup decayed = prototype, plain = prototype;
  decayed.parameters.clear();
  plain.parameters.clear();
  plain.name += ".no_decay";
  plain.weight_decay = 0.0;
  plain.adapt = false;
  for (const NamedParameter& p : parameters)
    (p.value.value().rank() <= 1 || p.name.ends_with("bias") ? plain : decayed)
        .parameters.push_back(p);
  std::vector<ParamGroup> groups;
  if (!decayed.parameters.empty()) groups.push_back(std::move(decayed));
  if (!plain.parameters.empty()) groups.push_back(std::move(plain));
  return groups;
}

namespace {
TensorList gradients_of(std::span<const Variable> parameters) {
  TensorList grads;
  for (const Variable& p : parameters)
    if (p.grad().defined()) grads.push_back(p.grad());
  return grads;
}

}  // namespace

double clip_grad_norm(std::span<const Variable> parameters, double max_norm) {
  TensorList grads = gradients_of(parameters);
  return limit_norm(grads, max_norm, grads);
}

void clip_grad_norm_each(std::span<const Variable> parameters, double max_norm) {
  TensorList grads = gradients_of(parameters);
  if (grads.empty()) return;
  std::vector<double> factors = squares_of(grads);
  for (double& v : factors) v = std::min(1.0, max_norm / (std::sqrt(v) + 1e-6));
  grads[0].backend().scale(grads, factors);
}

std::string nonfinite_gradient(const std::vector<ParamGroup>& groups) {
  TensorList grads;
  std::vector<const std::string*> names;
  for (const ParamGroup& group : groups)
    for (const auto& [name, parameter] : group.parameters)
      if (parameter.grad().defined()) {
        grads.push_back(parameter.grad());
        names.push_back(&name);
      }
  const int64_t bad = ops::find_nonfinite(grads);
  return bad < 0 ? std::string() : *names[static_cast<size_t>(bad)];
}

}  // namespace facet
