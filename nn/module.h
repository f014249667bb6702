// Module: something with parameters. Its single visit() names parameters, buffers and children;
// saving, loading, counting, freezing, moving and pairing for EMA are all visitors.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "autograd/ops.h"

namespace facet {

class Module;

class ModuleVisitor {
 public:
  virtual ~ModuleVisitor() = default;
  // `name` is the full dotted name, as in torchvision ("layer1.0.conv1.weight").
  virtual void parameter(const std::string& name, Variable& value) = 0;
  virtual void buffer(const std::string& name, Tensor& value) = 0;
  virtual void enter(Module& module) { (void)module; }  // before a module's own visit()

  // Called by Module::visit implementations with local names.
  void operator()(const std::string& name, Variable& value) {
    if (value.defined()) parameter(prefix_ + name, value);
  }
  void operator()(const std::string& name, Tensor& value) {
    if (value.defined()) buffer(prefix_ + name, value);
  }
  void operator()(const std::string& name, Module& child);

 private:
  std::string prefix_;
};

class Module {
 public:
  virtual ~Module() = default;
  virtual void visit(ModuleVisitor& visitor) = 0;

  // Draws parameters that do not follow the rules of nn/init.h, and their buffers.
  virtual void initialize(uint64_t seed) { (void)seed; }

  // Training mode: batch statistics in batch norm, drop path on. Modules read it when they run.
  bool training() const { return training_; }
  void train(bool on = true);  // this module and its children
  void eval() { train(false); }

 protected:
  bool training_ = true;
};

// The module itself and every one inside it.
void for_each_module(Module& module, const std::function<void(Module&)>& f);
std::vector<NamedParameter> parameters(Module& module);
std::vector<NamedTensor> buffers(Module& module);
// Parameters and buffers together in visiting order (a "state dict"); handles share memory.
std::vector<NamedTensor> state(Module& module);
int64_t parameter_count(Module& module);
void set_requires_grad(Module& module, bool on);
void clear_grads(Module& module);
// Integer buffers count on the host and stay there.
void to_device(Module& module, Device device);
void to_dtype(Module& module, DType dtype);  // floating parameters and buffers (f64 for checks)
void copy_state(Module& from, Module& to);   // same structure; copies values
// average <- momentum average + (1 - momentum) of's value, for every parameter; buffers are left.
void average_parameters(Module& average, Module& of, double momentum);
// Loads values by name, all or nothing. Throws a FileError that lists mismatched shapes and, when
// strict, missing and unexpected names.
struct LoadReport {
  std::vector<std::string> missing, unexpected, mismatched;
};
LoadReport load_state(Module& module, const std::vector<NamedTensor>& values, bool strict = true);

}  // namespace facet
