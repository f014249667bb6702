// MAE (He et al. 2022, "Masked autoencoders are scalable vision learners").
#pragma once

#include <memory>

#include "nn/mae_decoder.h"
#include "nn/vit.h"
#include "ssl/objective.h"

namespace facet {

// Which patches of a batch are masked: of an image's L the int(L (1 - ratio)) with the smallest
// noise are kept, in the order of their noise.
struct MaeMask {
  KeptPatches kept;
  Tensor visible;     // i64 (N (1 + K)): class token and kept patches among the N (1 + L) tokens
  Tensor masked;      // f32 (N (1 + L), 1): 1 where a token is masked
  Tensor masked_at;   // i64 (N (L - K)): the masked ones among the tokens
  Tensor patches_at;  // ... and among the N L patches

  // noise (N, L)
  static MaeMask from_noise(const Tensor& noise, double ratio);
  static MaeMask random(int64_t images, int64_t patches, double ratio, const RandomKey& key);
  TensorList tensors() const;
  static MaeMask from_tensors(const TensorList& tensors);
};

// Mean squared error of predicted patches (rows, p p C) and those of images (N, H, W, C) at `at`
// among their N L. norm_pix: against each patch's own normalised pixels (t - mean) / sqrt(var +
// 1e-6), with the unbiased variance.
Variable mae_loss(const Variable& predicted, const Tensor& images, int64_t patch, const Tensor& at,
                  bool norm_pix);

struct MaeOptions {
  double mask_ratio = 0.75;
  bool norm_pix = true;
  int64_t decoder_width = 512, decoder_depth = 8, decoder_heads = 16;
};

class Mae final : public Objective {
 public:
  Mae(std::unique_ptr<Vit> encoder, const MaeOptions& options);

  const char* name() const override { return "mae"; }
  Encoder& encoder() override { return *encoder_; }
  void begin(uint64_t seed) override { seed_ = seed; }
  void prepare(Batch& batch, int64_t step) override;  // the mask
  std::optional<double> replay_key(int64_t) const override { return 0; }
  Variable loss(const Batch& batch, int64_t step) override;
  bool divisible() const override { return true; }
  // Predicting 0 everywhere, a mean: what was masked in the last batch, squared. A normalised patch
  // of n values has (n - 1) / n, but one of a single colour 0.
  double collapse_loss(int64_t batch_size) const override;
  std::vector<NamedMetric> metrics() const override;
  std::vector<Tensor*> left() override { return {&last_images_, &last_masked_, &last_tokens_}; }
  void visit(ModuleVisitor& v) override;

 private:
  int64_t patch_values() const;

  MaeOptions options_;
  std::unique_ptr<Vit> encoder_;
  MaeDecoder decoder_;
  uint64_t seed_ = 0;
  Tensor last_images_, last_masked_, last_tokens_;  // of the last batch (part)
};

}  // namespace facet
