// The parts of a vision transformer (Dosovitskiy et al. 2021), with timm's names. Tokens are rows:
// (N T, D), image by image.
#pragma once

#include <memory>
#include <vector>

#include "nn/layers.h"

namespace facet {

class LayerNorm final : public Module {
 public:
  explicit LayerNorm(int64_t channels, double eps = 1e-6);
  Variable operator()(const Variable& x) const;
  // x + residual, and its norm, in one pass.
  AddedNorm operator()(const Variable& x, const Variable& residual) const;
  void visit(ModuleVisitor& v) override;

  Variable weight, bias;

 private:
  double eps_;
};

// The sum of a residual stream so far and the branch that is yet to be added to it, so that each
// addition joins the norm that follows.
struct ResidualStream {
  Variable sum, branch;
  AddedNorm norm(const LayerNorm& norm) const;
};

// Multi-head self-attention and an MLP with GELU, each behind a norm and beside a shortcut.
class TransformerBlock final : public Module {
 public:
  TransformerBlock(int64_t dim, int64_t heads, int64_t hidden);
  // x: tokens of `images` images. drop1, drop2: scales of the two branches' rows (drop path), or
  // undefined. first_only: all tokens are attended to, but only each image's first goes on, (N, D),
  // where nothing else is asked of the last block: its MLP is two thirds of the work.
  ResidualStream operator()(const ResidualStream& x, int64_t images, const Tensor& drop1 = {},
                            const Tensor& drop2 = {}, bool first_only = false) const;
  void visit(ModuleVisitor& v) override;

 private:
  int64_t heads_;
  LayerNorm norm1_;
  Linear qkv_, proj_;
  LayerNorm norm2_;
  Linear fc1_, fc2_;
};

using TransformerBlocks = std::vector<std::unique_ptr<TransformerBlock>>;
TransformerBlocks make_blocks(int64_t depth, int64_t dim, int64_t heads, double mlp_ratio = 4.0);

// Images (N, H, W, C) cut into patches (N L, p p C), rows of patches from the top, pixels of a
// patch row by row, channels together.
Tensor patchify(const Tensor& images, int64_t patch);

// The fixed sine and cosine embedding of MAE (He et al. 2022, appendix A.1) for a grid x grid
// patches and a class token before them, (1 + grid^2, dim) f64: the first half of a row encodes
// the patch's column, the second its row; the class token's is 0.
Tensor sincos_position_embedding(int64_t grid, int64_t dim);

// (rows, cols) f64: values at `rows` places from `cols` samples by cubic convolution (a = -.75),
// as torch.nn.functional.interpolate(mode="bicubic", align_corners=False) with this scale, samples
// a place.
Tensor bicubic_matrix(int64_t rows, int64_t cols, double scale);

}  // namespace facet
