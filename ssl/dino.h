// DINO (Caron et al. 2021, "Emerging properties in self-supervised vision transformers").
#pragma once

#include <memory>

#include "nn/heads.h"
#include "ssl/multicrop.h"
#include "ssl/objective.h"

namespace facet {

// The loss of algorithm 1 and equation 3 from logits of V student crops (V B, K) and the teacher's
// of the two global ones (2 B, K), crop-major, and the centre (K) or (1, K).
Variable dino_loss(const Variable& student, const Tensor& teacher, const Tensor& center,
                   double student_temperature, double teacher_temperature);

struct DinoOptions {
  int64_t out = 65536;
  int64_t hidden = 2048, bottleneck = 256;  // of the head
  bool head_norms = false, norm_last_layer = true;
  double student_temperature = 0.1;
  // Per epoch from the first to the second over so many epochs.
  double warmup_teacher_temperature = 0.04, teacher_temperature = 0.04;
  int64_t temperature_epochs = 0;
  double center_momentum = 0.9;
  double momentum = 0.996;    // of the teacher; rises to 1 along a cosine
  int64_t freeze_epochs = 1;  // of the last layer
  int64_t steps_per_epoch = 1, total_steps = 1;
};

class Dino final : public Objective {
 public:
  // The student trains, the teacher, of the same shape and without drop path, follows it.
  Dino(std::unique_ptr<Encoder> student, std::unique_ptr<Encoder> teacher,
       const DinoOptions& options);

  const char* name() const override { return "dino"; }
  Encoder& encoder() override { return *teacher_; }
  void begin(uint64_t seed) override;
  // views: two global crops, then any number of local ones, those of one size side by side.
  Variable loss(const Batch& batch, int64_t step) override;
  void after_step(int64_t step) override;
  // `clip` limits the norm of each gradient, not their common one, as in the official code.
  void update(Optimizer& optimizer, double lr, int64_t step, double clip) override;
  std::optional<double> replay_key(int64_t step) const override {
    return teacher_temperature(step);
  }
  std::vector<Tensor*> left() override { return {&last_embeddings_, &teacher_mean_}; }
  double teacher_temperature(int64_t step) const;
  double collapse_loss(int64_t) const override;  // ln K: teacher or student uniform
  void visit(ModuleVisitor& v) override;

 private:
  DinoOptions options_;
  std::unique_ptr<Encoder> student_, teacher_;
  DinoHead student_head_, teacher_head_;
  Tensor center_;        // (1, K)
  Tensor teacher_mean_;  // of the last batch's teacher logits, over all ranks
};

}  // namespace facet
