// Heads on top of an encoder.
#pragma once

#include <memory>
#include <vector>

#include "nn/layers.h"

namespace facet {

struct ProjectionOptions {
  int64_t in = 2048, hidden = 2048, out = 128;
  int num_layers = 2;  // SimCLR v1 has 2, v2 has 3
  // The official SimCLR code puts a batch norm after every layer, drops the layers' biases, and
  // gives the last norm no offset. Without it: plain Linear-ReLU-Linear with biases (VISSL).
  bool batch_norm = true;
};

// rows x in -> rows x out (Chen et al. 2020, section 2.1), not normalised.
class ProjectionHead final : public Module {
 public:
  explicit ProjectionHead(const ProjectionOptions& options);
  Variable operator()(const Variable& x);
  void visit(ModuleVisitor& v) override;

 private:
  std::vector<std::unique_ptr<Linear>> linear_;
  std::vector<std::unique_ptr<BatchNorm>> norm_;
};

}  // namespace facet
