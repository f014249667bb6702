// Variable: a tensor that gradients flow to. Ops (autograd/ops.h) build a graph of Nodes as they
// run; backward() walks it once, newest node first, without recursion, and frees what it has
// passed.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tensor/ops.h"

namespace facet {

class Variable;

// One recorded operation with one output.
struct Node {
  ~Node();

  // From the gradient of the output to the gradients of the inputs, in their order; entry i may be
  // undefined where inputs[i].needs_grad() is false. It captures the tensors it needs.
  using Backward = std::function<TensorList(const Tensor& grad_output)>;

  const char* name = "";
  std::vector<Variable> inputs;
  Backward backward;
  uint64_t sequence = 0;  // later operations have larger numbers
  // Type of the output. A gradient that came in another (f32 sums for a bf16 weight) is converted
  // before backward() sees it, unless `any_dtype`.
  DType dtype = DType::f32;
  bool any_dtype = false;
};

class Variable {
 public:
  Variable() = default;
  explicit Variable(Tensor value, bool requires_grad = false);

  // The result of an operation: recorded when gradients are enabled and some input needs one. An
  // input may be undefined, as a bias that is left out: it needs none.
  static Variable result(const char* name, Tensor value, std::vector<Variable> inputs,
                         Node::Backward backward);

  bool defined() const { return state_ != nullptr; }
  const Tensor& value() const { return state_->value; }
  Tensor& value() { return state_->value; }
  const Tensor& grad() const { return state_->grad; }
  Tensor& grad() { return state_->grad; }
  void clear_grad() { state_->grad = Tensor(); }

  // Leaves only: whether backward() stores a gradient here (a frozen parameter does not).
  bool requires_grad() const { return state_->requires_grad; }
  void set_requires_grad(bool on) { state_->requires_grad = on; }
  // Whether an operation on this variable has to be recorded.
  bool needs_grad() const { return state_ && (state_->node || state_->requires_grad); }
  const std::shared_ptr<Node>& node() const { return state_->node; }

  const Shape& shape() const { return value().shape(); }
  int64_t dim(int axis) const { return value().dim(axis); }
  DType dtype() const { return value().dtype(); }
  Device device() const { return value().device(); }
  double item() const { return value().item(); }
  // The same tensor outside the graph: gradients stop here.
  Variable detach() const { return Variable(value()); }
  bool is_same(const Variable& other) const { return state_ == other.state_; }

 private:
  friend void backward(const Variable& root, const Tensor& seed);
  struct State {
    Tensor value;
    Tensor grad;
    bool requires_grad = false;
    std::shared_ptr<Node> node;
  };
  std::shared_ptr<State> state_;
};

using VariableList = std::vector<Variable>;

struct NamedParameter {
  std::string name;  // full dotted name inside its model
  Variable value;
};

// Adds d root / d leaf to the grad of every leaf that requires one (parameter gradients are kept
// in f32, f64 for f64). `seed` is the gradient of the root, ones for a scalar when undefined.
// The graph is consumed: a second backward() over it throws.
void backward(const Variable& root, const Tensor& seed = {});

bool grad_enabled();  // of this thread

// Sets for the scope whether operations are recorded.
class GradScope {
 public:
  explicit GradScope(bool record);
  ~GradScope();
  GradScope(const GradScope&) = delete;
  GradScope& operator=(const GradScope&) = delete;

 private:
  bool before_;
};
struct NoGrad : GradScope {
  NoGrad() : GradScope(false) {}
};
struct EnableGrad : GradScope {
  EnableGrad() : GradScope(true) {}
};

}  // namespace facet
