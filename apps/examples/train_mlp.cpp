// A two-layer network learns two interleaved spirals: tensors, variables, an optimiser, nothing
// else. Run it without arguments.
#include <cmath>

#include "nn/init.h"
#include "nn/layers.h"
#include "optim/optimizer.h"

using namespace facet;

namespace {

class Mlp final : public Module {
 public:
  Variable operator()(const Variable& x) { return out_(relu(hidden2_(relu(hidden1_(x))))); }
  void visit(ModuleVisitor& v) override {
    v("hidden1", hidden1_);
    v("hidden2", hidden2_);
    v("out", out_);
  }

 private:
  Linear hidden1_{2, 64}, hidden2_{64, 64}, out_{64, 2};
};

// n points (n, 2); the first half lies on one arm, the rest on the other.
Tensor spirals(int64_t n) {
  std::vector<float> points;
  for (int64_t i = 0; i < n; ++i) {
    const double turn =
        3.0 * std::sqrt(static_cast<double>(i % (n / 2)) / static_cast<double>(n / 2));
    const double angle = turn * 3.14159265 + (i < n / 2 ? 0.0 : 3.14159265);
    points.push_back(static_cast<float>(turn * std::cos(angle)));
    points.push_back(static_cast<float>(turn * std::sin(angle)));
  }
  return Tensor::from(points, {n, 2});
}

}  // namespace

int main() {
  constexpr int64_t kPoints = 400;
  const Tensor x = spirals(kPoints);
  std::vector<int64_t> labels(kPoints, 0);
  for (size_t i = kPoints / 2; i < kPoints; ++i) labels[i] = 1;
  const Tensor y = Tensor::from(labels, {kPoints});

  Mlp mlp;
  initialize(mlp, /*seed=*/1);
  ParamGroup all;
  all.parameters = parameters(mlp);
  Optimizer optimizer({.algorithm = Algorithm::adamw}, {all});

  double accuracy = 0;
  for (int64_t step = 1; step <= 600; ++step) {
    optimizer.clear_grads();
    const Variable logits = mlp(Variable(x));
    const Variable loss = cross_entropy(logits, y);
    backward(loss);
    optimizer.step(/*lr=*/5e-3, step);
    if (step % 100 != 0) continue;
    const auto guess = ops::argmax(logits.value()).to_vector<int64_t>();
    int64_t hits = 0;
    for (size_t i = 0; i < labels.size(); ++i) hits += guess[i] == labels[i];
    accuracy = static_cast<double>(hits) / kPoints;
    fmt::print("step {:3}  loss {:.4f}  accuracy {:.1f}%\n", step, loss.item(), 100 * accuracy);
  }
  return accuracy > 0.95 ? 0 : 1;
}
