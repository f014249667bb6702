// MoCo v2 (He et al. 2020, "Momentum contrast for unsupervised visual representation learning";
// Chen et al. 2020, "Improved baselines with momentum contrastive learning").
#pragma once

#include <memory>

#include "nn/heads.h"
#include "ssl/contrastive.h"
#include "ssl/objective.h"

namespace facet {

struct MocoOptions {
  double temperature = 0.2;  // v1 and CE + SelfSupCon: 0.07
  int64_t queue = 65536;     // keys that are remembered; a multiple of the batch
  double momentum = 0.999;   // of the key encoder
  int64_t projection_dim = 128;
  // Batch norm over parts of the batch, keys in another order than queries: with common statistics
  // the network could tell a pair by them. The official code has a GPU for each part, its
  // one-GPU demo every S-th sample, a view in NCHW but a copy here; batches are in random order.
  int splits = 8;
  uint64_t seed = 0;  // of the keys' order
};

// A projection head, its momentum copy and the queue: what MoCo and CE + SelfSupCon share.
class MomentumContrast : public Objective {
 public:
  // `query` trains, `key` is a network of the same shape that follows it.
  MomentumContrast(std::unique_ptr<Encoder> query, std::unique_ptr<Encoder> key,
                   const MocoOptions& options);

  Encoder& encoder() override { return *query_; }
  // Everything that trains decays, norms and biases too, as in MoCo's official code.
  std::vector<ParamGroup> groups(double weight_decay) override;
  void begin(uint64_t seed) override;  // key networks as copies, a queue of random unit rows
  void check_batch(int64_t batch_size) const override;
  void prepare(Batch& batch, int64_t step) override;  // the keys' order
  // Keys into the queue, and the key networks towards the query's.
  void after_step(int64_t step) override;
  std::optional<double> replay_key(int64_t) const override { return 0; }
  std::vector<Tensor*> left() override { return {&last_embeddings_, &keys_}; }
  double collapse_loss(int64_t) const override;  // ln(1 + K): all embeddings equal
  void visit(ModuleVisitor& v) override;

 protected:
  // Of the first of two views.
  Variable query_features(const Batch& batch);
  // InfoNCE of these features (N, D) against the keys of the second view's images.
  Variable contrast(const Variable& features, const Batch& batch, int64_t step);

  MocoOptions options_;

 private:
  TensorList shuffles(int64_t local, int64_t step) const;
  Tensor keys_of(const Tensor& images, const TensorList& shuffles);

  std::unique_ptr<Encoder> query_, key_;
  ProjectionHead query_head_, key_head_;
  Tensor queue_;    // (K, D), unit rows
  Tensor pointer_;  // i64 scalar on the host: the row that the next key goes to
  Tensor keys_;
};

class Moco final : public MomentumContrast {
 public:
  using MomentumContrast::MomentumContrast;

  const char* name() const override { return "moco"; }
  void check_batch(int64_t batch_size) const override;
  Variable loss(const Batch& batch, int64_t step) override {
    return contrast(query_features(batch), batch, step);
  }
};

// CE + SelfSupCon (Islam et al. 2021, "A broad study on the transferability of visual
// representations with contrastive learning"): cross entropy of the query view, plus `weight` times
// MoCo's loss.
struct HybridOptions {
  MocoOptions moco = {.temperature = 0.07, .queue = 64000};
  double weight = 0.5;
};

class CeSelfSupcon final : public MomentumContrast {
 public:
  CeSelfSupcon(std::unique_ptr<Encoder> query, std::unique_ptr<Encoder> key, int64_t num_classes,
               const HybridOptions& options);

  const char* name() const override { return "ce+selfsupcon"; }
  Linear& classifier() { return classifier_; }
  Variable loss(const Batch& batch, int64_t step) override;
  double collapse_loss(int64_t batch_size) const override;
  void visit(ModuleVisitor& v) override;

 private:
  double weight_;
  Linear classifier_;
};

}  // namespace facet
