// SimCLR (Chen et al. 2020, "A simple framework for contrastive learning of visual
// representations").
#pragma once

#include <memory>

#include "nn/heads.h"
#include "ssl/contrastive.h"
#include "ssl/objective.h"

namespace facet {

struct SimclrOptions {
  double temperature = 0.1;  // 0.5 on CIFAR
  int64_t projection_dim = 128;
};

class Simclr final : public Objective {
 public:
  Simclr(std::unique_ptr<Encoder> encoder, const SimclrOptions& options);

  const char* name() const override { return "simclr"; }
  Encoder& encoder() override { return *encoder_; }
  // Both views in one forward: batch norm sees all 2B images.
  Variable loss(const Batch& batch, int64_t step) override;
  std::optional<double> replay_key(int64_t) const override { return 0; }
  double collapse_loss(int64_t batch_size) const override;  // ln(2N - 1)
  void visit(ModuleVisitor& v) override;

 private:
  SimclrOptions options_;
  std::unique_ptr<Encoder> encoder_;
  ProjectionHead head_;
};

}  // namespace facet
