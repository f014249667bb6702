// SwAV (Caron et al. 2020, "Unsupervised learning of visual features by contrasting cluster
// assignments").
#pragma once

#include <array>
#include <memory>

#include "nn/heads.h"
#include "ssl/multicrop.h"
#include "ssl/objective.h"

namespace facet {

// Assignments of samples to prototypes, (B, K) f32 or f64, every row's sum 1, by `iterations` of
// Sinkhorn and Knopp on exp(scores / epsilon) over the samples of all ranks (appendix A.1; the
// official code ends with the samples, so prototypes get B / K only nearly). The largest score of
// all is subtracted first, which changes nothing but overflow.
Tensor sinkhorn(const Tensor& scores, double epsilon, int iterations, Comm& comm = single_rank());

struct SwavOptions {
  double temperature = 0.1;
  double epsilon = 0.05;  // 0.03 where training stays at ln K
  int iterations = 3;
  int64_t prototypes = 3000;
  int64_t projection_dim = 128;
  int64_t freeze_steps = 313;  // the prototypes do not train before; 5005 with batches of 256
  // Embeddings of earlier batches that assignments of small batches are made with (0: none), from
  // step `queue_from` on.
  int64_t queue = 0, queue_from = 0;
};

class Swav final : public Objective {
 public:
  Swav(std::unique_ptr<Encoder> encoder, const SwavOptions& options);

  const char* name() const override { return "swav"; }
  Encoder& encoder() override { return *encoder_; }
  void begin(uint64_t seed) override;
  void check_batch(int64_t batch_size) const override;
  // views: two or more crops, those of one size one after the other; the first two are assigned.
  Variable loss(const Batch& batch, int64_t step) override;
  void update(Optimizer& optimizer, double lr, int64_t step, double clip) override;
  void after_step(int64_t step) override;
  std::optional<double> replay_key(int64_t step) const override { return uses_queue(step); }
  std::vector<Tensor*> left() override { return {&last_embeddings_, &newest_[0], &newest_[1]}; }
  double collapse_loss(int64_t) const override;  // ln K: all scores equal
  void visit(ModuleVisitor& v) override;

 private:
  static constexpr int64_t kAssigned = 2;  // crops that are assigned
  bool uses_queue(int64_t step) const;

  SwavOptions options_;
  std::unique_ptr<Encoder> encoder_;
  ProjectionHead head_;
  Variable prototypes_;                   // (K, D), unit rows
  Tensor queue_, queue_rows_;             // (2, queue, D), newest first; i64: rows that are filled
  std::array<Tensor, kAssigned> newest_;  // embeddings of the assigned crops of the last batch
};

}  // namespace facet
