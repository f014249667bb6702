#include "autograd/variable.h"

#include <algorithm>
#include <atomic>
#include <unordered_map>
#include <utility>

namespace facet {
namespace {

thread_local bool recording = true;

uint64_t next_sequence() {
  static std::atomic<uint64_t> counter{0};
  return ++counter;
}

// Sum of what has arrived at one place so far. A tensor that nobody else holds is added to in
// place; one that an operation handed to two inputs at once is not.
void accumulate(Tensor& slot, Tensor gradient) {
  if (!slot.defined()) {
    slot = std::move(gradient);
    return;
  }
  // Sums of which one part is f32 are f32.
  if (slot.dtype() == DType::bf16) slot = slot.cast(gradient.dtype());
  if (slot.is_sole_owner()) {
    ops::add_(slot, gradient);
  } else {
    slot = ops::add(slot, gradient.cast(slot.dtype()));
  }
}

}  // namespace

bool grad_enabled() {
  return recording;
}

GradScope::GradScope(bool record) : before_(std::exchange(recording, record)) {}
GradScope::~GradScope() {
  recording = before_;
}

// Dropping the last handle to a long chain of nodes must not recurse once a node: the inputs of a
// dying node are moved to a list that the outermost destructor empties.
Node::~Node() {
  thread_local std::vector<Variable>* pending = nullptr;
  if (pending) {
    pending->insert(pending->end(), std::make_move_iterator(inputs.begin()),
                    std::make_move_iterator(inputs.end()));
    return;
  }
  std::vector<Variable> list = std::move(inputs);
  pending = &list;
  while (!list.empty()) {
    Variable last = std::move(list.back());
    list.pop_back();
  }
  pending = nullptr;
}

Variable::Variable(Tensor value, bool requires_grad) : state_(std::make_shared<State>()) {
  FACET_CHECK(value.defined(), "Variable", "got an undefined tensor");
  FACET_CHECK(!requires_grad || is_floating(value.dtype()), "Variable",
              "only floating tensors have gradients, got {}", value.str());
  state_->value = std::move(value);
  state_->requires_grad = requires_grad;
}

Variable Variable::result(const char* name, Tensor value, std::vector<Variable> inputs,
                          Node::Backward backward) {
  Variable output(std::move(value));
  const bool needed =
      std::any_of(inputs.begin(), inputs.end(), [](const Variable& v) { return v.needs_grad(); });
  if (recording && needed) {
    auto node = std::make_shared<Node>();
    node->name = name;
    node->inputs = std::move(inputs);
    node->backward = std::move(backward);
    node->sequence = next_sequence();
    node->dtype = output.dtype();
    output.state_->node = std::move(node);
  }
  return output;
}

void backward(const Variable& root, const Tensor& seed) {
  FACET_CHECK(root.defined() && root.needs_grad(), "backward",
              "the root does not depend on anything that requires a gradient");
  Tensor start = seed;
  if (!start.defined()) {
    FACET_CHECK(root.value().numel() == 1, "backward",
                "a root of {} needs a seed gradient; only a scalar has a natural one",
                root.shape());
    start = Tensor::full(root.shape(), 1.0, root.dtype(), root.device());
  }
  FACET_CHECK(start.shape() == root.shape() && start.dtype() == root.dtype(), "backward",
              "expected a seed like the root ({}), got {}", root.value().str(), start.str());

  const NoGrad no_recording;
  const auto add_to_leaf = [](Variable::State& leaf, Tensor gradient) {
    if (gradient.dtype() == DType::bf16) gradient = gradient.cast(DType::f32);
    // Two leaves must never share one gradient tensor: optimisers write into them.
    if (!leaf.grad.defined() && !gradient.is_sole_owner()) gradient = gradient.clone();
    accumulate(leaf.grad, std::move(gradient));
  };
  if (!root.node()) return add_to_leaf(*root.state_, start.clone());

  // Nodes newest first. Every consumer of a node's output is newer than the node, so its gradient
  // is complete when its turn comes.
  struct Pending {
    std::shared_ptr<Node> node;
    Tensor gradient;
  };
  std::unordered_map<Node*, Pending> pending;
  std::vector<std::pair<uint64_t, Node*>> heap;
  const auto send = [&](const std::shared_ptr<Node>& node, Tensor gradient) {
    auto [place, is_new] = pending.try_emplace(node.get());
    if (is_new) {
      FACET_CHECK(node->backward, "backward",
                  "the graph at '{}' was consumed by an earlier backward()", node->name);
      place->second.node = node;
      heap.emplace_back(node->sequence, node.get());
      std::push_heap(heap.begin(), heap.end());
    }
    accumulate(place->second.gradient, std::move(gradient));
  };
  send(root.node(), std::move(start));
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    Node* key = heap.back().second;
    heap.pop_back();
    const auto found = pending.find(key);
    Pending current = std::move(found->second);
    pending.erase(found);
    Node& node = *current.node;

    TensorList gradients = std::exchange(node.backward, nullptr)(
        node.any_dtype ? current.gradient : current.gradient.cast(node.dtype));
    current.gradient = Tensor();  // what is passed on as it is has one owner
    FACET_INTERNAL_CHECK(gradients.size() == node.inputs.size());
    std::vector<Variable> inputs = std::move(node.inputs);
    node.inputs.clear();
    for (size_t i = 0; i < inputs.size(); ++i) {
      const Variable& input = inputs[i];
      if (!input.needs_grad()) continue;
      Tensor gradient = std::move(gradients[i]);
      if (!gradient.defined()) continue;
      FACET_INTERNAL_CHECK(gradient.shape() == input.shape());
      if (input.node())
        send(input.node(), std::move(gradient));
      else
        add_to_leaf(*input.state_, std::move(gradient));
    }
  }
}

}  // namespace facet
