#include "nn/mae_decoder.h"

#include "nn/init.h"

namespace facet {

MaeDecoder::MaeDecoder(const MaeDecoderOptions& o)
    : options_(o),
      mask_token_(Tensor::zeros({1, 1, o.width}), true),
      position_(Tensor::zeros({1, 1 + o.grid * o.grid, o.width})),
      embed_(o.in, o.width),
      blocks_(make_blocks(o.depth, o.width, o.heads)),
      norm_(o.width),
      pred_(o.width, o.patch_values) {
  reset_position();
}

void MaeDecoder::reset_position() {
  const Tensor table = sincos_position_embedding(options_.grid, options_.width);
  position_.value().copy_(table.cast(position_.dtype()).reshape(position_.shape()));
}

Variable MaeDecoder::operator()(const Variable& encoded, const Tensor& visible,
                                const Tensor& masked, const Tensor& wanted) const {
  const int64_t width = options_.width, tokens = 1 + options_.grid * options_.grid;
  const int64_t rows = masked.dim(0), images = rows / tokens;
  const Variable x = embed_(encoded);
  // Visible tokens to their places, the mask token to all others.
  const Variable placed = scatter_add_rows(x, visible, {rows, width});
  const Variable missing =
      matmul(Variable(masked.cast(x.dtype())), reshape(as_type_of(x, mask_token_), {1, width}));
  const Variable sum =
      reshape(placed + missing, {images, tokens, width}) + as_type_of(x, position_);
  ResidualStream stream{reshape(sum, {rows, width}), {}};
  for (const auto& block : blocks_) stream = (*block)(stream, images);
  return pred_(gather_rows(stream.norm(norm_).y, wanted));
}

void MaeDecoder::initialize(uint64_t seed) {
  initialize_transformer(*this, seed, true);
  reset_position();
}

void MaeDecoder::visit(ModuleVisitor& v) {
  v("mask_token", mask_token_);
  v("decoder_pos_embed", position_);
  v("decoder_embed", embed_);
  for (size_t i = 0; i < blocks_.size(); ++i) v("decoder_blocks." + std::to_string(i), *blocks_[i]);
  v("decoder_norm", norm_);
  v("decoder_pred", pred_);
}

}  // namespace facet
