#include <algorithm>

#include "tensor/cpu/blas.h"
#include "tensor/cpu/conv.h"
#include "tensor/cpu/dnnl.h"
#include "tensor/parallel.h"

namespace facet::cpu {
namespace {

struct Lowering {
  explicit Lowering(const ConvKey& k)
      : key(k),
        pixels(k.p * k.q),
        group_in(k.c_in / k.args.groups),
        group_out(k.c_out / k.args.groups),
        depth(k.kernel_h * k.kernel_w * group_in),
        columns(sizeof(double) * static_cast<size_t>(pixels * depth)) {}

  // Calls f(row of the columns, row of the image or nullptr outside it) for each output pixel of
  // output rows [begin, end) and each place of the kernel: group_in values on both sides.
  template <typename T, typename F>
  void for_each_tap(T* image, int group, int64_t begin, int64_t end, F&& f) const {
    for (int64_t p = begin; p < end; ++p)
      for (int64_t q = 0; q < key.q; ++q) {
        double* row = columns.as<double>() + (p * key.q + q) * depth;
        for (int64_t i = 0; i < key.kernel_h; ++i)
          for (int64_t j = 0; j < key.kernel_w; ++j, row += group_in) {
            const int64_t h = p * key.args.stride + i - key.args.padding;
            const int64_t w = q * key.args.stride + j - key.args.padding;
            const bool inside = h >= 0 && h < key.h && w >= 0 && w < key.w;
            f(row, inside ? image + (h * key.w + w) * key.c_in + group * group_in : nullptr);
          }
      }
  }

  // columns (pixels, depth) of one image (h, w, c_in)
  void lower(const double* image, int group) const {
    parallel_for(key.p, 4, [&](int64_t begin, int64_t end) {
      for_each_tap(image, group, begin, end, [&](double* row, const double* from) {
        if (from)
          std::copy_n(from, group_in, row);
        else
          std::fill_n(row, group_in, 0.0);
      });
    });
  }

  // image += the columns put back where lower() took them
  void raise(double* image, int group) const {
    for_each_tap(image, group, 0, key.p, [&](const double* row, double* to) {
      if (to)
        for (int64_t c = 0; c < group_in; ++c) to[c] += row[c];
    });
  }

  const ConvKey& key;
  int64_t pixels, group_in, group_out, depth;
  onednn::Scratch columns;
};

}  // namespace

void conv_forward_f64(const ConvKey& key, const double* x, const double* w, double* y) {
  const Lowering at(key);
  for (int64_t n = 0; n < key.n; ++n)
    for (int g = 0; g < key.args.groups; ++g) {
      at.lower(x + n * key.h * key.w * key.c_in, g);
      blas::gemm(false, true, at.pixels, at.group_out, at.depth, 1.0, at.columns.as<double>(),
                 at.depth, w + g * at.group_out * at.depth, at.depth, 0.0,
                 y + n * at.pixels * key.c_out + g * at.group_out, key.c_out);
    }
}

void conv_backward_input_f64(const ConvKey& key, const double* dy, const double* w, double* dx) {
  const Lowering at(key);
  std::fill_n(dx, key.n * key.h * key.w * key.c_in, 0.0);
  for (int64_t n = 0; n < key.n; ++n)
    for (int g = 0; g < key.args.groups; ++g) {
      blas::gemm(false, false, at.pixels, at.depth, at.group_out, 1.0,
                 dy + n * at.pixels * key.c_out + g * at.group_out, key.c_out,
                 w + g * at.group_out * at.depth, at.depth, 0.0, at.columns.as<double>(), at.depth);
      at.raise(dx + n * key.h * key.w * key.c_in, g);
    }
}

void conv_backward_weight_f64(const ConvKey& key, const double* x, const double* dy, double* dw) {
  const Lowering at(key);
  for (int64_t n = 0; n < key.n; ++n)
    for (int g = 0; g < key.args.groups; ++g) {
      at.lower(x + n * key.h * key.w * key.c_in, g);
      blas::gemm(true, false, at.group_out, at.depth, at.pixels, 1.0,
                 dy + n * at.pixels * key.c_out + g * at.group_out, key.c_out,
                 at.columns.as<double>(), at.depth, n == 0 ? 0.0 : 1.0,
                 dw + g * at.group_out * at.depth, at.depth);
    }
}

}  // namespace facet::cpu
