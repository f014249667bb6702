// Convolution's factors for the tensor cores: 8 neighbouring channels at a time. What a row or k of
// the product means is found out once a tile or once a step, not for every element.
#pragma once

#include "cuda/kernels/product.cuh"

namespace facet::cuda {

struct ConvShape {
  int64_t h, w, p, q, c_in, c_out;  // of one image; channels of all groups
  int64_t group_in, group_out;      // channels of one group
  int kh, kw, stride, padding;

  // Whether 32 bits reach everything in one image and in the weights.
  bool is_small() const {
    constexpr int64_t kMost = (int64_t{1} << 31) - 1;
    return std::max({h * w * c_in, p * q * c_out, c_out * kh * kw * group_in,
                     (h + padding) * (w + padding)}) <= kMost;
  }
};

// An element (row, col) of an image, and an element (i, j) of the kernel with its first channel.
struct Pixel {
  const bf16* image;
  int row, col;
};
struct Tap {
  int i, j, channel;
};

// What pixels and taps are made of: `width` and `height` of the images whose pixels are counted,
// elements of an image that is read, and channels that a tap has.
struct ConvPlaces {
  Divisor width, height, channels, kw;
  int64_t image;

  // Pixel `at` of all images of x.
  __device__ Pixel pixel(const bf16* x, int at) const {
    int row, col;
    const int n = height.divide(width.divide(at, col), row);
    return {x + n * image, row, col};
  }
  __device__ Tap tap(int k) const {
    int channel, j;
    const int i = kw.divide(channels.divide(k, channel), j);
    return {i, j, channel};
  }
};

// x under the kernel: pixels (n, p, q) and taps (i, j, ci). Pixels are lines and k runs over taps,
// or the other way round.
template <bool PixelsAreLines>
struct WindowChunks {
  static constexpr bool kDepthContiguous = PixelsAreLines;
  using Line = std::conditional_t<PixelsAreLines, Pixel, Tap>;
  using Depth = std::conditional_t<PixelsAreLines, Tap, Pixel>;
  const bf16* x;
  ConvPlaces places;
  int h, w, c_in, group_in, stride, padding;

  WindowChunks(const bf16* from, const ConvShape& s)
      : x(from),
        places{Divisor(s.q), Divisor(s.p), Divisor(s.group_in), Divisor(s.kw), s.h * s.w * s.c_in},
        h(static_cast<int>(s.h)),
        w(static_cast<int>(s.w)),
        c_in(static_cast<int>(s.c_in)),
        group_in(static_cast<int>(s.group_in)),
        stride(s.stride),
        padding(s.padding) {}

  __device__ Line line(int64_t group, int at) const {
    const int first = static_cast<int>(group) * group_in;
    if constexpr (PixelsAreLines) {
      return corner(x + first, at);
    } else {
      Tap tap = places.tap(at);
      tap.channel += first;
      return tap;
    }
  }
  __device__ Depth depth(int k) const {
    if constexpr (PixelsAreLines)
      return places.tap(k);
    else
      return corner(x, k);
  }
  __device__ bool find(const Line& line, const Depth& depth, const bf16*& from) const {
    if constexpr (PixelsAreLines)
      return under(line, depth, from);
    else
      return under(depth, line, from);
  }

 private:
  // Where the kernel's element (0, 0) lies.
  __device__ Pixel corner(const bf16* from, int at) const {
    Pixel pixel = places.pixel(from, at);
    pixel.row = pixel.row * stride - padding;
    pixel.col = pixel.col * stride - padding;
    return pixel;
  }
  __device__ bool under(const Pixel& pixel, const Tap& tap, const bf16*& from) const {
    const int row = pixel.row + tap.i, col = pixel.col + tap.j;
    from = pixel.image + (row * w + col) * c_in + tap.channel;
    return row >= 0 && row < h && col >= 0 && col < w;
  }
};

// Lines (n, h, w), k (i, j, co): dy where the kernel's element (i, j) lay over (h, w).
struct OutputGradientChunks {
  static constexpr bool kDepthContiguous = true;
  using Line = Pixel;
  using Depth = Tap;
  const bf16* dy;
  ConvPlaces places;
  Divisor stride;
  int p, q, c_out, group_out, padding;

  OutputGradientChunks(const bf16* from, const ConvShape& s)
      : dy(from),
        places{Divisor(s.w), Divisor(s.h), Divisor(s.group_out), Divisor(s.kw),
               s.p * s.q * s.c_out},
        stride(s.stride),
        p(static_cast<int>(s.p)),
        q(static_cast<int>(s.q)),
        c_out(static_cast<int>(s.c_out)),
        group_out(static_cast<int>(s.group_out)),
        padding(s.padding) {}

  __device__ Pixel line(int64_t group, int at) const {
    Pixel pixel = places.pixel(dy + group * group_out, at);
    pixel.row += padding;
    pixel.col += padding;
    return pixel;
  }
  __device__ Tap depth(int k) const { return places.tap(k); }
  __device__ bool find(const Pixel& pixel, const Tap& tap, const bf16*& from) const {
    const int down = pixel.row - tap.i, right = pixel.col - tap.j;
    int rest_down, rest_right;
    const int row = stride.divide(max(down, 0), rest_down);
    const int col = stride.divide(max(right, 0), rest_right);
    from = pixel.image + (row * q + col) * c_out + tap.channel;
    return down >= 0 && right >= 0 && rest_down == 0 && rest_right == 0 && row < p && col < q;
  }
};

// Lines ci, k (i, j, co) of the weights (co, i, j, ci).
struct WeightTransposedChunks {
  static constexpr bool kDepthContiguous = false;
  using Line = const bf16*;
  using Depth = int;
  const bf16* w;
  Divisor group_out;
  int64_t group;  // elements of a group's weights
  int group_in, taps;

  WeightTransposedChunks(const bf16* from, const ConvShape& s)
      : w(from),
        group_out(s.group_out),
        group(s.group_out * s.kh * s.kw * s.group_in),
        group_in(static_cast<int>(s.group_in)),
        taps(s.kh * s.kw) {}

  __device__ Line line(int64_t at_group, int ci) const { return w + at_group * group + ci; }
  __device__ Depth depth(int k) const {
    int co;
    const int tap = group_out.divide(k, co);
    return (co * taps + tap) * group_in;
  }
  __device__ bool find(Line line, Depth depth, const bf16*& from) const {
    from = line + depth;
    return true;
  }
};

}  // namespace facet::cuda
