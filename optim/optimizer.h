// Optimiser: parameter groups, each with its own learning-rate scale, weight decay and control
// cycle. SGD, AdamW (or Adam) and LARS differ only in the kernel they call and the state they keep.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "autograd/variable.h"

namespace facet {

// What a group does on the steps that its control cycle leaves out. Controlled Label Injection
// withholds the backbone's weights on T-1 of T steps; these are the readings of that.
enum class SkippedStep : uint8_t {
  skip,             // as a gradient of None: no step, no decay, no change of state, no step count
  zero_grad,        // from the first step on as a gradient of 0: momentum coasts, decay applies
  accumulate_mean,  // gradients of the whole cycle are averaged for its one step
  accumulate_sum,   // ... or added up
};

struct ParamGroup {
  std::string name;
  std::vector<NamedParameter> parameters;
  double lr_scale = 1.0;
  std::optional<double> lr = {};  // instead of step()'s, before the scale
  double weight_decay = 0.0;
  // The group steps at t = T, 2T, ... (1-based global step t). 1: always; 0: never (T = infinity).
  int64_t cycle = 1;
  SkippedStep skipped = SkippedStep::skip;
  // LARS only: false for biases and norms, which take the plain learning rate.
  bool adapt = true;
};

enum class Algorithm : uint8_t { sgd, adamw, adam, lars };
const char* name(Algorithm algorithm);

struct OptimizerOptions {
  Algorithm algorithm = Algorithm::sgd;
  double momentum = 0.9;
  bool nesterov = false;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;  // Adam
  LarsForm lars_form = LarsForm::simclr;
  double lars_trust = 1e-3;
};

class Optimizer {
 public:
  Optimizer(OptimizerOptions options, std::vector<ParamGroup> groups);

  // One step with learning rate `lr` (times each group's scale) at 1-based global step t. A
  // parameter without a gradient is left out altogether. clip > 0 limits the common norm of the
  // gradients that step. With `only`, groups that it refuses are left alone, as if the call had
  // not been for them.
  using GroupFilter = std::function<bool(const ParamGroup&)>;
  void step(double lr, int64_t t, double clip = 0.0, const GroupFilter& only = {});
  // Whether a group's weights move at step t, so that the caller can run the rest without
  // gradients.
  bool is_due(size_t group, int64_t t) const;
  void clear_grads();

  // The norm that step() clips is over every gradient there is, not only those that step.
  void clip_all(bool on) { clip_all_ = on; }

  const OptimizerOptions& options() const { return options_; }
  std::vector<ParamGroup>& groups() { return groups_; }

  // State by name ("momentum.layer1.0.conv1.weight", "steps.fc.bias" ...) for checkpoints. load()
  // expects exactly what state() of a like optimiser gave, on whatever device.
  std::vector<NamedTensor> state() const;
  void load(const std::vector<NamedTensor>& values);

 private:
  struct Slot {
    Tensor first, second;  // momentum; or Adam's two moments
    Tensor accumulated;    // gradients of an open cycle
    int64_t steps = 0;
  };
  void accumulate(ParamGroup& group, std::vector<Slot>& slots, int64_t t);
  bool is_adam() const;
  bool has_momentum() const {
    return options_.algorithm != Algorithm::sgd || options_.momentum != 0;
  }

  OptimizerOptions options_;
  bool clip_all_ = false;
  std::vector<ParamGroup> groups_;
  std::vector<std::vector<Slot>> slots_;
};

// Splits a module's parameters: those that decay, and those that never do (one axis, or a name that
// ends in "bias"). Each keeps the prototype's other settings.
std::vector<ParamGroup> decay_groups(const std::vector<NamedParameter>& parameters,
                                     const ParamGroup& prototype);

// Scales the gradients so that their common norm is at most max_norm; returns the norm before.
double clip_grad_norm(std::span<const Variable> parameters, double max_norm);
// Every gradient on its own: g *= min(1, c / (|g| + 1e-6)), as DINO clips.
void clip_grad_norm_each(std::span<const Variable> parameters, double max_norm);
// Name of the first parameter whose gradient holds a NaN or infinity, or empty.
std::string nonfinite_gradient(const std::vector<ParamGroup>& groups);

}  // namespace facet
