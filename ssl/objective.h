// Objective: a training method. It owns its networks and heads, turns a batch of views into a
// loss, and does what has to happen after each optimiser step.
#pragma once

#include <string>
#include <vector>

#include "nn/module.h"

namespace facet {

// One batch as the loader delivers it.
struct Batch {
  std::vector<Tensor> views;   // each (B, H, W, 3) f32, normalised; one for supervised
  Tensor labels;               // i64 (B); (B, classes) f32 0/1 for multi-label tasks
  Tensor indices;              // i64 (B), positions in the dataset
};

struct NamedMetric {
  std::string name;
  double value;
};

class Objective : public Module {
 public:
  virtual const char* name() const = 0;
  // The network whose features are evaluated and whose weights are handed on.
  virtual Module& encoder() = 0;
  // The loss of a batch (scalar). step counts from 0.
  virtual Variable loss(const Batch& batch, int64_t step) = 0;
  // After the optimiser's step: momentum networks, queues, centres, prototypes.
  virtual void after_step(int64_t step) { (void)step; }
  // The loss where all embeddings are equal (ssl collapse), for monitors and `doctor`.
  virtual double collapse_loss(int64_t batch_size) const = 0;
  // Values worth logging beside the loss (embedding standard deviation, accuracy ...).
  virtual std::vector<NamedMetric> metrics() const { return {}; }
  // visit() names parameters and buffers of everything the method needs to resume.
};

}  // namespace facet
