// The decoder of a masked autoencoder (He et al. 2022, "Masked autoencoders are scalable vision
// learners"), with the official names.
#pragma once

#include "nn/transformer.h"

namespace facet {

struct MaeDecoderOptions {
  int64_t in = 768;  // of the encoder's tokens
  int64_t width = 512, depth = 8, heads = 16;
  int64_t grid = 14;           // patches a side
  int64_t patch_values = 768;  // of a patch: p p C
};

class MaeDecoder final : public Module {
 public:
  explicit MaeDecoder(const MaeDecoderOptions& options);

  // encoded: class tokens and visible patches of N images, rows of the encoder's output. visible:
  // i64, the row among the N (1 + L) tokens that each belongs to; masked: f32 (N (1 + L), 1), 1
  // where a token is masked. Returns the predictions (rows, p p C) of the tokens in `wanted` (i64).
  Variable operator()(const Variable& encoded, const Tensor& visible, const Tensor& masked,
                      const Tensor& wanted) const;
  void initialize(uint64_t seed) override;
  void visit(ModuleVisitor& v) override;

 private:
  void reset_position();

  MaeDecoderOptions options_;
  Variable mask_token_, position_;  // (1, 1, D), (1, 1 + L, D); the latter is fixed
  Linear embed_;
  TransformerBlocks blocks_;
  LayerNorm norm_;
  Linear pred_;
};

}  // namespace facet
