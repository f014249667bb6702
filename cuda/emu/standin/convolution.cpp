#include "cuda/emu/standin/convolution.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "tensor/dtype.h"

namespace facet::emu {
namespace {

size_t offset(const View& v, int64_t n, int64_t c, int64_t h, int64_t w) {
  return static_cast<size_t>(n * v.strides[0] + c * v.strides[1] + h * v.strides[2] +
                             w * v.strides[3]);
}
size_t numel(const View& v) {
  return static_cast<size_t>(v.sizes[0] * v.sizes[1] * v.sizes[2] * v.sizes[3]);
}
float get(const View& v, size_t i) {
  if (v.type == CUDNN_DATA_FLOAT) return static_cast<const float*>(v.data)[i];
  return static_cast<const bf16*>(v.data)[i];
}
void put(const View& v, size_t i, float value) {
  if (v.type == CUDNN_DATA_FLOAT)
    static_cast<float*>(v.data)[i] = value;
  else
    static_cast<bf16*>(v.data)[i] = bf16(value);
}
// All elements as they lie in memory.
std::vector<float> read(const View& v, bool as_tf32) {
  std::vector<float> values(numel(v));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = get(v, i);
    if (as_tf32) values[i] = std::bit_cast<float>(std::bit_cast<uint32_t>(values[i]) & ~0x1fffu);
  }
  return values;
}

}  // namespace

cudnnStatus_t Convolution::check() const {
  for (const size_t axis : {size_t{0}, size_t{1}}) {
    const int64_t reach = dilation[axis] * (w.sizes[2 + axis] - 1) + 1;
    const int64_t room = x.sizes[2 + axis] + pre[axis] + post[axis] - reach;
    if (room < 0 || y.sizes[2 + axis] != room / stride[axis] + 1)
      return CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH;
  }
  if (x.sizes[0] != y.sizes[0] || w.sizes[0] != y.sizes[1] || x.sizes[1] % w.sizes[1] != 0 ||
      y.sizes[1] % (x.sizes[1] / w.sizes[1]) != 0)
    return CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH;
  // Inputs of one type, the output of the same or f32.
  const auto same = [](const View& a, const View& b, const View& result) {
    return a.type == b.type && (result.type == a.type || result.type == CUDNN_DATA_FLOAT);
  };
  const bool fits = output == Output::y   ? same(x, w, y)
                    : output == Output::x ? same(y, w, x)
                                          : same(x, y, w);
  return fits ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_NOT_SUPPORTED_DATA_TYPE;
}

// Every product of the forward convolution is added to the element of the output that it belongs
// to.
void convolve(Convolution c, bool as_tf32, float noise) {
  using Output = Convolution::Output;
  const View &x = c.x, &w = c.w, &y = c.y;
  const View& out = c.output_view();
  std::vector<float> sums(numel(out), 0.0f);
  const auto input = [&](const View& v) {
    return &v == &out ? std::vector<float>() : read(v, as_tf32);
  };
  const std::vector<float> xs = input(x), ws = input(w), ys = input(y);
  const int64_t group_in = w.sizes[1], group_out = w.sizes[0] / (x.sizes[1] / group_in);
  const auto add_products = [&](int64_t n, int64_t k, int64_t p, int64_t q, int64_t r, int64_t s) {
    const int64_t row = p * c.stride[0] - c.pre[0] + r * c.dilation[0];
    const int64_t col = q * c.stride[1] - c.pre[1] + s * c.dilation[1];
    if (row < 0 || row >= x.sizes[2] || col < 0 || col >= x.sizes[3]) return;
    const size_t iy = offset(y, n, k, p, q);
    for (int64_t i = 0; i < group_in; ++i) {
      const size_t ix = offset(x, n, k / group_out * group_in + i, row, col);
      const size_t iw = offset(w, k, i, r, s);
      if (c.output == Output::y)
        sums[iy] += xs[ix] * ws[iw];
      else if (c.output == Output::w)
        sums[iw] += xs[ix] * ys[iy];
      else
        sums[ix] += ws[iw] * ys[iy];
    }
  };
  for (int64_t n = 0; n < y.sizes[0]; ++n)
    for (int64_t k = 0; k < y.sizes[1]; ++k)
      for (int64_t p = 0; p < y.sizes[2]; ++p)
        for (int64_t q = 0; q < y.sizes[3]; ++q)
          for (int64_t r = 0; r < w.sizes[2]; ++r)
            for (int64_t s = 0; s < w.sizes[3]; ++s) add_products(n, k, p, q, r, s);
  const auto finish = [&](int64_t n, int64_t k, int64_t h, int64_t w_) {
    const size_t i = offset(out, n, k, h, w_);
    float value = c.alpha * sums[i] + noise;
    if (c.beta != 0.0f) value += c.beta * get(out, i);
    for (const Step& step : c.steps) {
      const View& b = step.added;
      const auto on = [&](size_t axis, int64_t at) { return b.sizes[axis] == 1 ? 0 : at; };
      if (b.data) value += get(b, offset(b, on(0, n), on(1, k), on(2, h), on(3, w_)));
      if (step.relu) value = std::max(value, 0.0f);
    }
    put(out, i, value);
  };
  for (int64_t n = 0; n < out.sizes[0]; ++n)
    for (int64_t k = 0; k < out.sizes[1]; ++k)
      for (int64_t h = 0; h < out.sizes[2]; ++h)
        for (int64_t w_ = 0; w_ < out.sizes[3]; ++w_) finish(n, k, h, w_);
}

}  // namespace facet::emu
