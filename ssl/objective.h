// Objective: a training method. It owns its networks and heads, turns a batch of views into a
// loss, and does what has to happen around each optimiser step.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/batch.h"
#include "nn/encoder.h"
#include "optim/optimizer.h"
#include "tensor/comm.h"

namespace facet {

struct NamedMetric {
  std::string name;
  double value;
};

// Spread of embeddings, rows x D: the mean over dimensions of the standard deviation of the
// normalised rows (about 1/sqrt(D) when healthy, 0 when collapsed), and the effective rank
// exp(entropy of the normalised eigenvalues of the covariance) (Roy & Vetterli 2007), 0 where the
// rows are equal up to rounding. None of both where embeddings is undefined.
std::vector<NamedMetric> embedding_spread(const Tensor& embeddings);

class Objective : public Module {
 public:
  virtual const char* name() const = 0;
  // The network whose features are evaluated and whose weights are handed on.
  virtual Encoder& encoder() = 0;
  // The parameters that the optimiser trains, grouped.
  virtual std::vector<ParamGroup> groups(double weight_decay);
  // Called before loss() or train_step(): adds to the batch, which is still on the host, what is
  // drawn there for it.
  virtual void prepare(Batch& batch, int64_t step) { (void)batch, (void)step; }
  // What is done to a batch on its device before loss() and gradients() see it; train_step() does.
  virtual Batch mixed(const Batch& batch, int64_t step) { return (void)step, batch; }
  // The loss of a batch (scalar). step counts from 0.
  virtual Variable loss(const Batch& batch, int64_t step) = 0;
  // For batches that are worked on in parts, one after the other in memory, whose gradients add up:
  // how many. Where loss() looks at every picture alone a part is as good as a smaller batch, but
  // that batch norm sees parts; elsewhere (divisible() is false) there is one part.
  void set_parts(int64_t parts) { parts_ = parts; }
  virtual bool divisible() const { return false; }
  // backward() of the loss of each part; the loss of the whole.
  Tensor gradients(const Batch& batch, int64_t step);
  // Steps of the same key, their batches of the same shapes, ask the same of a device in loss() and
  // its backward, wait for nothing and find all that changes in the batch or in the tensors of
  // state(): one of them can be recorded and replayed for the others. Nothing: this step cannot.
  virtual std::optional<double> replay_key(int64_t step) const { return (void)step, std::nullopt; }
  // What loss() leaves for after_step() and metrics(), which a replayed step leaves, too.
  virtual std::vector<Tensor*> left() { return {&last_embeddings_}; }
  // With the gradients that there are: the optimiser's step, then after_step().
  virtual void update(Optimizer& optimizer, double lr, int64_t step, double clip);
  // After the optimiser's step: momentum networks, queues, centres, prototypes.
  virtual void after_step(int64_t step) { (void)step; }
  // The ranks that work on one batch together; alone unless said.
  void set_comm(Comm& comm) { comm_ = &comm; }
  Comm& comm() const { return *comm_; }
  // Throws a UsageError where batches of this size cannot be trained on.
  virtual void check_batch(int64_t batch_size) const { (void)batch_size; }
  // After initialize(): momentum networks become copies, queues and centres start.
  virtual void begin(uint64_t seed) { (void)seed; }
  // The loss when all embeddings are equal, which a healthy run leaves behind.
  virtual double collapse_loss(int64_t batch_size) const = 0;
  // Values worth logging beside the loss, of the last batch.
  virtual std::vector<NamedMetric> metrics() const { return embedding_spread(last_embeddings_); }

  // One whole training step; returns the loss, the ranks' mean. Throws NonFiniteError before any
  // weight is touched when the loss or a gradient is not finite. clip > 0: global norm over the
  // groups that step.
  virtual double train_step(const Batch& batch, Optimizer& optimizer, double lr, int64_t step,
                            double clip = 0.0);
  // The loss's value. Throws NonFiniteError where it or a gradient is not finite; t is the
  // number of the step, from 1. After backward(), so that a device is waited for once.
  static double check_finite(const Tensor& loss, Optimizer& optimizer, int64_t t);

 protected:
  virtual bool sums_pictures() const { return false; }  // loss() is their sum, not their mean
  Tensor backward_parts(const std::function<Variable(int64_t part)>& loss);
  // The same from cleared gradients, means over the ranks of them and the loss, check_finite().
  double guarded_backward(const std::function<Variable(int64_t part)>& loss, Optimizer& optimizer,
                          int64_t t);

  Comm* comm_ = &single_rank();
  int64_t parts_ = 1;
  Tensor last_embeddings_;  // what loss() leaves for metrics(), rows x D
};

}  // namespace facet
