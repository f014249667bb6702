// SupCon (Khosla et al. 2020, "Supervised contrastive learning"), the contrastive stage: a linear
// classifier is trained on the frozen encoder afterwards.
#pragma once

#include <memory>

#include "nn/heads.h"
#include "ssl/contrastive.h"
#include "ssl/objective.h"

namespace facet {

class Supcon final : public Objective {
 public:
  Supcon(std::unique_ptr<Encoder> encoder, const SupconOptions& options,
         int64_t projection_dim = 128);

  const char* name() const override { return "supcon"; }
  Encoder& encoder() override { return *encoder_; }
  // Both views in one forward.
  Variable loss(const Batch& batch, int64_t step) override;
  std::optional<double> replay_key(int64_t) const override { return 0; }
  // All embeddings equal: T / T_0 ln(2N - 1).
  double collapse_loss(int64_t batch_size) const override;
  void visit(ModuleVisitor& v) override;

 private:
  SupconOptions options_;
  std::unique_ptr<Encoder> encoder_;
  ProjectionHead head_;
};

}  // namespace facet
