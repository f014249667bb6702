#include "tensor/cpu/weight_tiles.h"

#include <algorithm>

#include "tensor/parallel.h"

namespace facet::cpu {
namespace {

constexpr int64_t kTile = 16;  // floats of a cache line

// Rows may be a multiple of 4 KiB apart: each is read once, whole.
void transpose(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  alignas(64) float tile[kTile][kTile];
  for (int64_t r = 0; r < kTile; ++r) std::copy_n(from + r * from_stride, kTile, tile[r]);
  for (int64_t c = 0; c < kTile; ++c)
    for (int64_t r = 0; r < kTile; ++r) to[c * to_stride + r] = tile[r][c];
}

}  // namespace

std::optional<WeightTiles> WeightTiles::between(const dnnl::memory::desc& kept,
                                                const dnnl::memory::desc& wanted) {
  const auto& from = kept.data.format_desc.blocking;
  const auto& to = wanted.data.format_desc.blocking;
  const dnnl_dim_t* const dims = kept.data.dims;
  const int last = to.inner_nblks - 1;
  const bool is_blocked = kept.data.ndims == 4 && kept.data.data_type == dnnl_f32 &&
                          wanted.data.format_kind == dnnl_blocked && last >= 0 &&
                          wanted.data.extra.flags == dnnl_memory_extra_flag_none;
  if (!is_blocked || from.inner_nblks != 0 || from.strides[1] != 1 || dims[0] % kTile != 0 ||
      dims[1] % kTile != 0 || to.inner_idxs[last] != 0 || to.inner_blks[last] % kTile != 0 ||
      (last == 1 && (to.inner_idxs[0] != 1 || to.inner_blks[0] != kTile)) || last > 1)
    return std::nullopt;
  WeightTiles tiles;
  tiles.c_out_ = dims[0];
  tiles.c_in_ = dims[1];
  tiles.pixels_ = dims[2] * dims[3];
  tiles.width_ = dims[3];
  tiles.padded_out_ = wanted.data.padded_dims[0];
  tiles.block_out_ = to.inner_blks[last];
  tiles.block_in_ = last == 1 ? kTile : 1;
  tiles.stride_out_ = to.strides[0];
  tiles.stride_in_ = to.strides[1];
  tiles.stride_h_ = to.strides[2];
  tiles.stride_w_ = to.strides[3];
  return tiles;
}

void WeightTiles::copy(const float* from, float* to, bool back) const {
  const int64_t kept_step = pixels_ * c_in_;
  const int64_t wanted_step = block_in_ == 1 ? stride_in_ : block_out_;
  parallel_for(padded_out_ / kTile * pixels_, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t o = t / pixels_ * kTile, pixel = t % pixels_;
      for (int64_t i = 0; i < c_in_; i += kTile) {
        const int64_t kept = (o * pixels_ + pixel) * c_in_ + i;
        const int64_t wanted = o / block_out_ * stride_out_ + o % block_out_ +
                               i / block_in_ * stride_in_ + pixel / width_ * stride_h_ +
                               pixel % width_ * stride_w_;
        if (o < c_out_ && back)
          transpose(from + wanted, wanted_step, to + kept, kept_step);
        else if (o < c_out_)
          transpose(from + kept, kept_step, to + wanted, wanted_step);
        else if (!back)
          for (int64_t c = 0; c < kTile; ++c)
            std::fill_n(to + wanted + c * wanted_step, kTile, 0.0f);
      }
    }
  });
}

}  // namespace facet::cpu
