// Vision transformer (Dosovitskiy et al. 2021) with timm's names.
#pragma once

#include <string>

#include "nn/encoder.h"
#include "nn/transformer.h"

namespace facet {

struct VitOptions {
  std::string arch = "vit_base";  // vit_tiny, vit_small or vit_base
  int64_t patch = 16;
  int64_t image_size = 224;  // what the position embedding is for
  int64_t channels = 3;
  int64_t width = 0, depth = 0, heads = 0;  // 0: the architecture's
  int64_t num_classes = 0;                  // 0: no head
  enum class Pool : uint8_t {
    token,  // the class token behind the last norm
    mean,   // the mean of the patches, and a norm of its own, fc_norm (MAE's fine-tuning)
  };
  Pool pool = Pool::token;
  enum class Position : uint8_t {
    learned,
    sincos,  // fixed (MAE)
  };
  Position position = Position::learned;
  // How the position embedding is resized for images of another size.
  enum class Resize : uint8_t {
    dino,  // the official DINO code's scale factor, (grid + .1) / trained grid
    timm,  // to the grid itself
  };
  Resize resize = Resize::dino;
  enum class Init : uint8_t {
    normal,  // timm and DINO: N(0, .02)
    xavier,  // MAE
  };
  Init init = Init::normal;
  double drop_path = 0.0;  // of the last block; rises linearly from 0 (Huang et al. 2016)
};

// Which patches are encoded, K of L an image, image by image: i64 (N K). Undefined: all.
struct KeptPatches {
  Tensor rows;    // among the N L patches of the batch
  Tensor places;  // among the L of their image
};

// With the architecture's own numbers where 0 stands; a UsageError where they do not fit.
VitOptions resolved(VitOptions options);

class Vit final : public Encoder {
 public:
  explicit Vit(const VitOptions& options);

  Variable features(const Variable& x) override;
  Variable logits(const Variable& x);               // needs num_classes > 0
  VariableList stages(const Variable& x) override;  // (N, T, D) after each block
  // All tokens (N T, D) behind the last norm, the class token first; of the patches those kept.
  Variable tokens(const Variable& x, const KeptPatches& kept = {});
  int64_t feature_dim() const override { return width_; }
  int64_t grid() const { return options_.image_size / options_.patch; }
  void set_random_key(const RandomKey& key) override;
  // The resolved options.
  const VitOptions& options() const { return options_; }
  void initialize(uint64_t seed) override;
  void visit(ModuleVisitor& v) override;

 private:
  ResidualStream run(const Variable& x, const KeptPatches& kept, VariableList* stages,
                     bool class_token_only = false);
  Variable embed(const Variable& x, const KeptPatches& kept);
  Variable position_for(int64_t height, int64_t width) const;
  Tensor drawn_scales(uint64_t forward, int64_t images) const;

  VitOptions options_;
  int64_t width_;
  Variable cls_token_, pos_embed_;      // (1, 1, D), (1, 1 + L, D)
  Variable patch_weight_, patch_bias_;  // (D, p, p, C), (D)
  TransformerBlocks blocks_;
  std::unique_ptr<LayerNorm> norm_, fc_norm_;  // one of the two
  std::unique_ptr<Linear> head_;
  RandomKey key_;
  uint64_t forwards_ = 0;  // since the key was set
  TensorList drops_;       // drop path's scales in each of them
};

const std::vector<std::string>& vit_names();

}  // namespace facet
