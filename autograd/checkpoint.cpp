#include <utility>

#include "autograd/ops.h"

namespace facet {
namespace {

thread_local bool second_run = false;

class SecondRun {
 public:
  SecondRun() : before_(std::exchange(second_run, true)) {}
  ~SecondRun() { second_run = before_; }
  SecondRun(const SecondRun&) = delete;
  SecondRun& operator=(const SecondRun&) = delete;

 private:
  bool before_;
};

}  // namespace

bool recomputing() {
  return second_run;
}

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
  // The node keeps tensors, not variables: those would chain the closures of a deep graph.
  std::vector<std::pair<Tensor, bool>> kept;
  for (const Variable& input : inputs) kept.emplace_back(input.value(), input.needs_grad());
  return Variable::result("checkpoint", output.value(), std::move(recorded),
                          [body, kept](const Tensor& dy) -> TensorList {
                            VariableList leaves;
                            for (const auto& [value, wanted] : kept)
                              leaves.emplace_back(value, wanted);
                            Variable again;
                            {
                              const SecondRun second;
                              const EnableGrad recording;
                              again = body(leaves);
                            }
                            if (again.needs_grad()) backward(again, dy);
                            TensorList gradients;
                            for (const Variable& leaf : leaves) {
                              const Tensor& g = leaf.grad();  // f32 for a bf16 input
                              gradients.push_back(g.defined() ? g.cast(leaf.dtype()) : g);
                            }
                            gradients.emplace_back();
                            return gradients;
                          });
}

}  // namespace facet
