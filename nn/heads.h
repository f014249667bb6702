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
  int64_t in = 2048, hidden = 0, out = 128;  // hidden 0: as in
  int num_layers = 2;                        // SimCLR v1 has 2, v2 has 3
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

struct DinoHeadOptions {
  int64_t in = 768, hidden = 2048, bottleneck = 256, out = 65536;
  bool norms = false;           // a batch norm after each of the first two layers
  bool norm_last_layer = true;  // the last layer's row norms stay 1
};

// DINO's (Caron et al. 2021, section 3.2): Linear-GELU-Linear-GELU-Linear, L2 normalisation, and a
// weight-normalised layer without bias, w = g v / |v| a row. The official names.
class DinoHead final : public Module {
 public:
  explicit DinoHead(const DinoHeadOptions& options);
  Variable operator()(const Variable& x);  // rows x in -> rows x out
  void initialize(uint64_t seed) override;
  void visit(ModuleVisitor& v) override;
  // The last layer's parameters, which do not train at first.
  VariableList last_layer() const { return {weight_g_, weight_v_}; }

 private:
  DinoHeadOptions options_;
  std::vector<std::unique_ptr<Linear>> linear_;
  std::vector<std::unique_ptr<BatchNorm>> norm_;
  Variable weight_g_, weight_v_;  // (K, 1), (K, bottleneck)
};

}  // namespace facet
