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
  // the network could tell a pair by them. The official code has a GPU for each part.
  int splits = 8;
  uint64_t seed = 0;  // of the keys' order
};

// A projection head, its momentum copy and the queue: what MoCo and CE + SelfSupCon share.
class MomentumContrast final : public Module {
 public:
  // `query` trains, `key` is a network of the same shape that follows it.
  MomentumContrast(std::unique_ptr<Encoder> query, std::unique_ptr<Encoder> key,
                   const MocoOptions& options);

  void begin(uint64_t seed);  // key networks as copies, a queue of random unit rows
  void check_batch(int64_t batch_size) const;
  // InfoNCE of the queries' features (N, D) against the keys of the second view's images.
  Variable loss(const Variable& features, const Tensor& key_images, int64_t step, Comm& comm);
  // Keys into the queue, and the key networks towards the query's.
  void after_step(Comm& comm);

  Encoder& query() { return *query_; }
  int64_t queue_size() const { return options_.queue; }
  const Tensor& last_embeddings() const { return last_embeddings_; }
  double collapse_loss() const;  // ln(1 + K): all embeddings equal
  void visit(ModuleVisitor& v) override;

 private:
  Tensor keys_of(const Tensor& images, int64_t step, Comm& comm);

  MocoOptions options_;
  std::unique_ptr<Encoder> query_, key_;
  ProjectionHead query_head_, key_head_;
  Tensor queue_;    // (K, D), unit rows
  Tensor pointer_;  // i64 scalar on the host: the row that the next key goes to
  Tensor keys_, last_embeddings_;
};

class Moco final : public Objective {
 public:
  Moco(std::unique_ptr<Encoder> query, std::unique_ptr<Encoder> key, const MocoOptions& options)
      : contrast_(std::move(query), std::move(key), options) {}

  const char* name() const override { return "moco"; }
  Encoder& encoder() override { return contrast_.query(); }
  // Everything decays, as in the official code.
  std::vector<ParamGroup> groups(double weight_decay) override;
  void begin(uint64_t seed) override { contrast_.begin(seed); }
  void check_batch(int64_t batch_size) const override;
  Variable loss(const Batch& batch, int64_t step) override;
  void after_step(int64_t) override { contrast_.after_step(*comm_); }
  double collapse_loss(int64_t) const override { return contrast_.collapse_loss(); }
  std::vector<NamedMetric> metrics() const override {
    return embedding_spread(contrast_.last_embeddings());
  }
  void visit(ModuleVisitor& v) override { contrast_.visit(v); }

 private:
  MomentumContrast contrast_;
};

// CE + SelfSupCon (Islam et al. 2021, "A broad study on the transferability of visual
// representations with contrastive learning"): cross entropy of the query view, plus `weight` times
// MoCo's loss.
struct HybridOptions {
  MocoOptions moco = {.temperature = 0.07, .queue = 64000};
  double weight = 0.5;
};

class CeSelfSupcon final : public Objective {
 public:
  CeSelfSupcon(std::unique_ptr<Encoder> query, std::unique_ptr<Encoder> key, int64_t num_classes,
               const HybridOptions& options);

  const char* name() const override { return "ce+selfsupcon"; }
  Encoder& encoder() override { return contrast_.query(); }
  Linear& classifier() { return classifier_; }
  std::vector<ParamGroup> groups(double weight_decay) override;
  void begin(uint64_t seed) override { contrast_.begin(seed); }
  void check_batch(int64_t batch_size) const override { contrast_.check_batch(batch_size); }
  Variable loss(const Batch& batch, int64_t step) override;
  void after_step(int64_t) override { contrast_.after_step(*comm_); }
  double collapse_loss(int64_t) const override;
  std::vector<NamedMetric> metrics() const override {
    return embedding_spread(contrast_.last_embeddings());
  }
  void visit(ModuleVisitor& v) override;

 private:
  HybridOptions options_;
  MomentumContrast contrast_;
  Linear classifier_;
};

}  // namespace facet
