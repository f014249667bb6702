#include "nn/module.h"

#include <map>

#include "tensor/text.h"

namespace facet {

void ModuleVisitor::operator()(const std::string& name, Module& child) {
  const size_t length = prefix_.size();
  if (!name.empty()) prefix_ += name + ".";
  enter(child);
  child.visit(*this);
  prefix_.resize(length);
}

namespace {

// A visitor from up to three lambdas.
class Visit final : public ModuleVisitor {
 public:
  using OnParameter = std::function<void(const std::string&, Variable&)>;
  using OnBuffer = std::function<void(const std::string&, Tensor&)>;
  using OnModule = std::function<void(Module&)>;
  explicit Visit(OnParameter on_parameter, OnBuffer on_buffer = {}, OnModule on_module = {})
      : on_parameter_(std::move(on_parameter)),
        on_buffer_(std::move(on_buffer)),
        on_module_(std::move(on_module)) {}

  void parameter(const std::string& name, Variable& value) override {
    if (on_parameter_) on_parameter_(name, value);
  }
  void buffer(const std::string& name, Tensor& value) override {
    if (on_buffer_) on_buffer_(name, value);
  }
  void enter(Module& module) override {
    if (on_module_) on_module_(module);
  }

 private:
  OnParameter on_parameter_;
  OnBuffer on_buffer_;
  OnModule on_module_;
};

}  // namespace

void Module::train(bool on) {
  for_each_module(*this, [on](Module& module) { module.training_ = on; });
}

void for_each_module(Module& module, const std::function<void(Module&)>& f) {
  Visit visitor({}, {}, f);
  visitor("", module);
}

std::vector<NamedParameter> parameters(Module& module) {
  std::vector<NamedParameter> list;
  Visit visitor([&](const std::string& name, Variable& value) { list.push_back({name, value}); });
  visitor("", module);
  return list;
}

std::vector<NamedTensor> buffers(Module& module) {
  std::vector<NamedTensor> list;
  Visit visitor({}, [&](const std::string& name, Tensor& value) { list.push_back({name, value}); });
  visitor("", module);
  return list;
}

std::vector<NamedTensor> state(Module& module) {
  std::vector<NamedTensor> list;
  Visit visitor(
      [&](const std::string& name, Variable& value) {
        list.push_back({name, value.value()});
      },
      [&](const std::string& name, Tensor& value) {
        list.push_back({name, value});
      });
  visitor("", module);
  return list;
}

int64_t parameter_count(Module& module) {
  int64_t count = 0;
  for (const NamedParameter& p : parameters(module)) count += p.value.value().numel();
  return count;
}

void set_requires_grad(Module& module, bool on) {
  for (NamedParameter& p : parameters(module)) p.value.set_requires_grad(on);
}

void clear_grads(Module& module) {
  for (NamedParameter& p : parameters(module)) p.value.clear_grad();
}

namespace {
// Replaces every tensor of the module but counts by change(tensor); gradients are dropped.
void replace_tensors(Module& module, const std::function<Tensor(const Tensor&)>& change) {
  Visit visitor(
      [&](const std::string&, Variable& value) {
        value.value() = change(value.value());
        value.clear_grad();
      },
      [&](const std::string&, Tensor& value) {
        if (is_floating(value.dtype())) value = change(value);
      });
  visitor("", module);
}
}  // namespace

void to_device(Module& module, Device device) {
  replace_tensors(module, [device](const Tensor& t) { return t.to(device); });
}

void to_dtype(Module& module, DType dtype) {
  replace_tensors(module, [dtype](const Tensor& t) { return t.cast(dtype); });
}

void copy_state(Module& from, Module& to) {
  const std::vector<NamedTensor> source = state(from);
  std::vector<NamedTensor> target = state(to);
  FACET_CHECK(source.size() == target.size(), "copy_state", "expected {} tensors, got {}",
              target.size(), source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    FACET_CHECK(source[i].name == target[i].name, "copy_state", "expected {}, got {}",
                target[i].name, source[i].name);
    target[i].value.copy_(source[i].value);
  }
}

void average_parameters(Module& average, Module& of, double momentum) {
  TensorList averages, values;
  for (const NamedParameter& p : parameters(average)) averages.push_back(p.value.value());
  for (const NamedParameter& p : parameters(of)) values.push_back(p.value.value());
  FACET_CHECK(averages.size() == values.size(), "average_parameters", "expected {} tensors, got {}",
              averages.size(), values.size());
  if (!averages.empty()) averages[0].backend().ema_step(averages, values, momentum);
}

LoadReport load_state(Module& module, const std::vector<NamedTensor>& values, bool strict) {
  std::map<std::string, const Tensor*> by_name;
  for (const NamedTensor& v : values) by_name[v.name] = &v.value;
  LoadReport report;
  std::vector<NamedTensor> target = state(module);
  std::vector<std::pair<Tensor, const Tensor*>> copies;
  for (NamedTensor& t : target) {
    const auto found = by_name.find(t.name);
    if (found == by_name.end()) {
      report.missing.push_back(t.name);
      continue;
    }
    if (found->second->shape() != t.value.shape())
      report.mismatched.push_back(
          fmt::format("{} (expected {}, got {})", t.name, t.value.shape(), found->second->shape()));
    else
      copies.emplace_back(t.value, found->second);
    by_name.erase(found);
  }
  for (const auto& [name, value] : by_name) report.unexpected.push_back(name);
  // Nothing is changed unless everything fits.
  std::string problem;
  const auto complain = [&](const char* kind, const std::vector<std::string>& names) {
    if (!names.empty())
      problem += fmt::format("{}{} {}: {}", problem.empty() ? "" : "; ", names.size(), kind,
                             some_of(names, 5));
  };
  complain("mismatched", report.mismatched);
  if (strict) {
    complain("missing", report.missing);
    complain("unexpected", report.unexpected);
  }
  if (!problem.empty()) throw FileError("weights do not fit the model: " + problem);
  for (auto& [to, from] : copies) to.copy_(*from);
  return report;
}

}  // namespace facet
