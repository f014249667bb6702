// Heads on top of an encoder.
#pragma once

#include <memory>
#include <vector>

#include "nn/layers.h"

namespace facet {

enum class ProjectionForm : uint8_t {
  norms,        // the official SimCLR code: a batch norm after every layer instead of biases, the
                // last one without offset
  hidden_norm,  // SwAV: Linear-BatchNorm-ReLU-Linear with biases
  plain,        // MoCo v2, SupCon, VISSL's SimCLR: Linear-ReLU-Linear with biases
};

struct ProjectionOptions {
  int64_t in = 2048, hidden = 2048, out = 128;
  int num_layers = 2;  // SimCLR v1 has 2, v2 has 3
  ProjectionForm form = ProjectionForm::norms;
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
