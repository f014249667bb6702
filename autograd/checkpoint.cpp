#include <utility>

#include "autograd/ops.h"

namespace facet {
namespace {
thread_local bool second_run = false;
}  // namespace

bool recomputing() { return second_run; }

Variable checkpoint(const std::function<Variable(const VariableList&)>& body,
                    const VariableList& inputs) {
  Variable output;
  {
    const NoGrad no_recording;
    output = body(inputs);
  }
  // Parameters used inside `body` are found when it runs again, so the node must exist even when no
  // input needs a gradient: a marker leaf keeps it in the graph.
  VariableList recorded = inputs;
  recorded.emplace_back(Tensor::zeros({1}, output.dtype(), output.device()), true);
  return Variable::result(
      "checkpoint", output.value(), std::move(recorded),
      [body, inputs](const Tensor& dy) -> TensorList {
        VariableList leaves;
        for (const Variable& input : inputs)
          leaves.emplace_back(input.value(), input.needs_grad());
        const bool outer = std::exchange(second_run, true);
        const EnableGrad recording;
        const Variable again = body(leaves);
        second_run = outer;
        if (again.needs_grad()) backward(again, dy);
        TensorList gradients;
        for (const Variable& leaf : leaves) gradients.push_back(leaf.grad());
        gradients.emplace_back();
        return gradients;
      });
}

}  // namespace facet
