#include "nn/transformer.h"

#include <algorithm>
#include <cmath>

namespace facet {

LayerNorm::LayerNorm(int64_t channels, double eps)
    : weight(Tensor::full({channels}, 1.0), true),
      bias(Tensor::zeros({channels}), true),
      eps_(eps) {}

Variable LayerNorm::operator()(const Variable& x) const {
  return layer_norm(x, weight, bias, eps_);
}

AddedNorm LayerNorm::operator()(const Variable& x, const Variable& residual) const {
  return add_layer_norm(x, residual, weight, bias, eps_);
}

void LayerNorm::visit(ModuleVisitor& v) {
  v("weight", weight);
  v("bias", bias);
}

AddedNorm ResidualStream::norm(const LayerNorm& norm) const {
  return branch.defined() ? norm(sum, branch) : AddedNorm{sum, norm(sum)};
}

TransformerBlock::TransformerBlock(int64_t dim, int64_t heads, int64_t hidden)
    : heads_(heads),
      norm1_(dim),
      qkv_(dim, 3 * dim),
      proj_(dim, dim),
      norm2_(dim),
      fc1_(dim, hidden),
      fc2_(hidden, dim) {
  FACET_CHECK(heads > 0 && dim % heads == 0, "TransformerBlock",
              "expected a width that {} heads divide, got {}", heads, dim);
}

ResidualStream TransformerBlock::operator()(const ResidualStream& x, int64_t images,
                                            const Tensor& drop1, const Tensor& drop2,
                                            bool first_only) const {
  const auto dropped = [](const Variable& branch, const Tensor& scale) {
    return scale.defined() ? branch * Variable(scale.cast(branch.dtype())) : branch;
  };
  const AddedNorm first = x.norm(norm1_);
  const int64_t rows = first.y.dim(0), dim = first.y.dim(1);
  const Variable packed = reshape(qkv_(first.y), {images, rows / images, 3, heads_, dim / heads_});
  const auto going_on = [&](const Variable& tokens) {
    if (!first_only) return reshape(tokens, {rows, dim});
    return reshape(narrow(reshape(tokens, {images, rows / images, dim}), 0, 1, 1), {images, dim});
  };
  const Variable attended = proj_(going_on(attention(packed)));
  const AddedNorm second = norm2_(going_on(first.sum), dropped(attended, drop1));
  return {second.sum, dropped(fc2_(gelu(fc1_(second.y))), drop2)};
}

void TransformerBlock::visit(ModuleVisitor& v) {
  v("norm1", norm1_);
  v("attn.qkv", qkv_);
  v("attn.proj", proj_);
  v("norm2", norm2_);
  v("mlp.fc1", fc1_);
  v("mlp.fc2", fc2_);
}

TransformerBlocks make_blocks(int64_t depth, int64_t dim, int64_t heads, double mlp_ratio) {
  TransformerBlocks blocks;
  const auto hidden = static_cast<int64_t>(static_cast<double>(dim) * mlp_ratio);
  for (int64_t i = 0; i < depth; ++i)
    blocks.push_back(std::make_unique<TransformerBlock>(dim, heads, hidden));
  return blocks;
}

Tensor patchify(const Tensor& images, int64_t patch) {
  FACET_CHECK(
      images.rank() == 4 && patch > 0 && images.dim(1) % patch == 0 && images.dim(2) % patch == 0,
      "patchify", "expected images (N, H, W, C) of whole patches of {} pixels, got {}", patch,
      images.shape());
  const int64_t n = images.dim(0), h = images.dim(1) / patch, w = images.dim(2) / patch;
  const int64_t row = patch * images.dim(3);
  return ops::permute(images.reshape({n, h, patch, w, row}), {0, 1, 3, 2, 4})
      .reshape({n * h * w, patch * row});
}

Tensor sincos_position_embedding(int64_t grid, int64_t dim) {
  FACET_CHECK(dim % 4 == 0, "sincos_position_embedding", "expected a multiple of 4, got {}", dim);
  Tensor table = Tensor::zeros({1 + grid * grid, dim}, DType::f64);
  const int64_t quarter = dim / 4;
  for (int64_t y = 0; y < grid; ++y)
    for (int64_t x = 0; x < grid; ++x) {
      double* const row = table.data<double>() + (1 + y * grid + x) * dim;
      for (int64_t j = 0; j < quarter; ++j) {
        const double omega =
            std::pow(10000.0, -static_cast<double>(j) / static_cast<double>(quarter));
        for (const int64_t half : {0, 1}) {
          const double angle = static_cast<double>(half == 0 ? x : y) * omega;
          row[2 * half * quarter + j] = std::sin(angle);
          row[(2 * half + 1) * quarter + j] = std::cos(angle);
        }
      }
    }
  return table;
}

Tensor bicubic_matrix(int64_t rows, int64_t cols, double scale) {
  constexpr double a = -0.75;
  const auto weight = [](double d) {
    d = std::fabs(d);
    if (d <= 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
    return d < 2 ? ((a * d - 5 * a) * d + 8 * a) * d - 4 * a : 0.0;
  };
  Tensor matrix = Tensor::zeros({rows, cols}, DType::f64);
  for (int64_t r = 0; r < rows; ++r) {
    const double place = (static_cast<double>(r) + 0.5) * scale - 0.5;
    const auto first = static_cast<int64_t>(std::floor(place)) - 1;
    for (int64_t c = first; c < first + 4; ++c)  // beyond an edge its sample is repeated
      matrix.data<double>()[r * cols + std::clamp<int64_t>(c, 0, cols - 1)] +=
          weight(place - static_cast<double>(c));
  }
  return matrix;
}

}  // namespace facet
