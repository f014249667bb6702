// Convolution as matrix products: im2col (Chellapilla et al. 2006) of some images at a time.
#include <algorithm>

#include "tensor/cpu/blas.h"
#include "tensor/cpu/conv.h"
#include "tensor/cpu/dnnl.h"
#include "tensor/parallel.h"

namespace facet::cpu {

constexpr int64_t kLeastRows = 1024;  // of a product, where there are as many pixels

// In no anonymous namespace: lambdas of functions that others call capture it.
template <typename T>
class Lowering {
 public:
  explicit Lowering(const ConvKey& k)
      : key(k),
        pixels(k.p * k.q),
        group_in(k.c_in / k.args.groups),
        group_out(k.c_out / k.args.groups),
        depth(k.kernel_h * k.kernel_w * group_in),
        images(std::clamp((kLeastRows + pixels - 1) / pixels, int64_t{1}, k.n)),
        is_product(k.kernel_h == 1 && k.kernel_w == 1 && k.args == ConvArgs{}),
        columns_(is_product ? 0 : sizeof(T) * static_cast<size_t>(images * pixels * depth)) {}

  // Calls f(group, first image, rows of pixels) for every product.
  template <typename F>
  void for_each_part(const F& f) const {
    const int64_t step = is_product ? key.n : images;
    for (int64_t n = 0; n < key.n; n += step)
      for (int64_t g = 0; g < key.args.groups; ++g) f(g, n, std::min(step, key.n - n) * pixels);
  }

  // columns (rows, depth) of images (h, w, c_in) from the n-th on
  const T* lower(const T* x, int64_t group, int64_t n, int64_t rows) const {
    if (is_product) return x + n * pixels * key.c_in;
    parallel_for(rows / pixels * key.p, 4, [&](int64_t begin, int64_t end) {
      for_each_tap(x + n * image_size(), group, begin, end, [&](T* row, const T* from) {
        if (from)
          std::copy_n(from, group_in, row);
        else
          std::fill_n(row, group_in, T(0));
      });
    });
    return columns_.template as<T>();
  }

  T* columns() const { return columns_.template as<T>(); }

  // The images += the columns put back where lower() took them
  void raise(T* x, int64_t group, int64_t n, int64_t rows) const {
    parallel_for(rows / pixels, 1, [&](int64_t begin, int64_t end) {
      for_each_tap(x + n * image_size(), group, begin * key.p, end * key.p,
                   [&](const T* row, T* to) {
                     if (to)
                       for (int64_t c = 0; c < group_in; ++c) to[c] += row[c];
                   });
    });
  }

  int64_t image_size() const { return key.h * key.w * key.c_in; }

  const ConvKey& key;
  const int64_t pixels, group_in, group_out, depth, images;
  const bool is_product;  // the columns of a kernel of one pixel are the images themselves

 private:
  // Calls f(row of the columns, row of the image or nullptr outside it) for each output pixel of
  // output rows [begin, end), counted over images, and each place of the kernel: group_in values on
  // both sides.
  template <typename U, typename F>
  void for_each_tap(U* x, int64_t group, int64_t begin, int64_t end, const F& f) const {
    for (int64_t line = begin; line < end; ++line) {
      U* const image = x + line / key.p * image_size() + group * group_in;
      for (int64_t q = 0; q < key.q; ++q) {
        T* row = columns() + (line * key.q + q) * depth;
        for (int64_t i = 0; i < key.kernel_h; ++i)
          for (int64_t j = 0; j < key.kernel_w; ++j, row += group_in) {
            const int64_t h = line % key.p * key.args.stride + i - key.args.padding;
            const int64_t w = q * key.args.stride + j - key.args.padding;
            const bool inside = h >= 0 && h < key.h && w >= 0 && w < key.w;
            f(row, inside ? image + (h * key.w + w) * key.c_in : nullptr);
          }
      }
    }
  }

  const onednn::Scratch columns_;
};

template <typename T>
void conv_forward_gemm(const ConvKey& key, const T* x, const T* w, T* y) {
  const Lowering<T> at(key);
  at.for_each_part([&](int64_t g, int64_t n, int64_t rows) {
    blas::gemm<T>(false, true, rows, at.group_out, at.depth, T(1), at.lower(x, g, n, rows),
                  at.depth, w + g * at.group_out * at.depth, at.depth, T(0),
                  y + n * at.pixels * key.c_out + g * at.group_out, key.c_out);
  });
}

template <typename T>
void conv_backward_input_gemm(const ConvKey& key, const T* dy, const T* w, T* dx) {
  const Lowering<T> at(key);
  if (!at.is_product) std::fill_n(dx, key.n * at.image_size(), T(0));
  at.for_each_part([&](int64_t g, int64_t n, int64_t rows) {
    blas::gemm<T>(false, false, rows, at.depth, at.group_out, T(1),
                  dy + n * at.pixels * key.c_out + g * at.group_out, key.c_out,
                  w + g * at.group_out * at.depth, at.depth, T(0),
                  at.is_product ? dx : at.columns(), at.depth);
    if (!at.is_product) at.raise(dx, g, n, rows);
  });
}

template <typename T>
void conv_backward_weight_gemm(const ConvKey& key, const T* x, const T* dy, T* dw) {
  const Lowering<T> at(key);
  at.for_each_part([&](int64_t g, int64_t n, int64_t rows) {
    blas::gemm<T>(true, false, at.group_out, at.depth, rows, T(1),
                  dy + n * at.pixels * key.c_out + g * at.group_out, key.c_out,
                  at.lower(x, g, n, rows), at.depth, n == 0 ? T(0) : T(1),
                  dw + g * at.group_out * at.depth, at.depth);
  });
}

void conv_taps(const ConvKey& k, const float* x, const float* w, const float* y, float* out) {
  const int64_t x_image = k.h * k.w * k.c_in, y_image = k.p * k.q * k.c_out;
  const int64_t w_row = k.kernel_h * k.kernel_w * k.c_in;
  std::fill_n(out,
              k.pass == ConvPass::forward          ? k.n * y_image
              : k.pass == ConvPass::backward_input ? k.n * x_image
                                                   : k.c_out * w_row,
              0.0f);
  for (int64_t pixel = 0; pixel < k.p * k.q; ++pixel)
    for (int64_t i = 0; i < k.kernel_h; ++i) {
      const int64_t row = pixel / k.q * k.args.stride + i - k.args.padding;
      const int64_t left = pixel % k.q * k.args.stride - k.args.padding;
      const int64_t first = std::max(-left, int64_t{0}), last = std::min(k.w - left, k.kernel_w);
      if (row < 0 || row >= k.h || first >= last) continue;
      const int64_t depth = (last - first) * k.c_in;
      const int64_t at_x = (row * k.w + left + first) * k.c_in, at_y = pixel * k.c_out;
      const int64_t at_w = (i * k.kernel_w + first) * k.c_in;
      if (k.pass == ConvPass::forward)
        blas::gemm(false, true, k.n, k.c_out, depth, 1.0f, x + at_x, x_image, w + at_w, w_row, 1.0f,
                   out + at_y, y_image);
      else if (k.pass == ConvPass::backward_input)
        blas::gemm(false, false, k.n, depth, k.c_out, 1.0f, y + at_y, y_image, w + at_w, w_row,
                   1.0f, out + at_x, x_image);
      else
        blas::gemm(true, false, k.c_out, depth, k.n, 1.0f, y + at_y, y_image, x + at_x, x_image,
                   1.0f, out + at_w, w_row);
    }
}

template void conv_forward_gemm(const ConvKey&, const float*, const float*, float*);
template void conv_forward_gemm(const ConvKey&, const double*, const double*, double*);
template void conv_backward_input_gemm(const ConvKey&, const float*, const float*, float*);
template void conv_backward_input_gemm(const ConvKey&, const double*, const double*, double*);
template void conv_backward_weight_gemm(const ConvKey&, const float*, const float*, float*);
template void conv_backward_weight_gemm(const ConvKey&, const double*, const double*, double*);

}  // namespace facet::cpu
