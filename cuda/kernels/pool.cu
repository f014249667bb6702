// Max pooling of NHWC tensors; a thread for an element of the output, or for 8 channels.
#include "cuda/vec.cuh"

namespace facet {

using namespace cuda;

namespace {

struct PoolShape {
  int h, w, c, p, q;
  PoolArgs args;
};

template <typename T>
struct MaxPool {
  const T* x;
  PoolShape s;
  T* y;
  uint8_t* where;
  __device__ void operator()(int64_t at) const {
    const int64_t c = at % s.c, q = at / s.c % s.q, p = at / s.c / s.q % s.p,
                  n = at / s.c / s.q / s.p;
    const int64_t top = p * s.args.stride - s.args.padding;
    const int64_t left = q * s.args.stride - s.args.padding;
    auto best = -std::numeric_limits<acc_t<T>>::infinity();
    int place = -1;
    for (int i = 0; i < s.args.kernel; ++i)
      for (int j = 0; j < s.args.kernel; ++j) {
        const int64_t row = top + i, col = left + j;
        if (row < 0 || row >= s.h || col < 0 || col >= s.w) continue;
        const auto value = widen(x[((n * s.h + row) * s.w + col) * s.c + c]);
        if (place < 0 || value > best || value != value) {  // a NaN wins
          best = value;
          place = i * s.args.kernel + j;
        }
      }
    y[at] = static_cast<T>(best);
    where[at] = static_cast<uint8_t>(place);
  }
};

// Each input place gathers from the windows that cover it: no zeroing, one write, fixed order.
template <typename T>
struct MaxPoolBackward {
  const T* dy;
  const uint8_t* where;
  PoolShape s;
  T* dx;
  __device__ void operator()(int64_t at) const {
    const int64_t c = at % s.c, w = at / s.c % s.w, h = at / s.c / s.w % s.h,
                  n = at / s.c / s.w / s.h;
    acc_t<T> sum = 0;
    for (int i = s.args.kernel - 1; i >= 0; --i) {
      const int64_t row = h + s.args.padding - i, p = row / s.args.stride;
      if (row < 0 || row % s.args.stride != 0 || p >= s.p) continue;
      for (int j = s.args.kernel - 1; j >= 0; --j) {
        const int64_t col = w + s.args.padding - j, q = col / s.args.stride;
        if (col < 0 || col % s.args.stride != 0 || q >= s.q) continue;
        const int64_t out = ((n * s.p + p) * s.q + q) * s.c + c;
        if (where[out] == i * s.args.kernel + j) sum += widen(dy[out]);
      }
    }
    dx[at] = static_cast<T>(sum);
  }
};

constexpr int kWide = 8;  // channels of a thread

// Finds the 8 channels from `at` on of a tensor that is written, without divisions.
struct WidePlace {
  Divisor channels, columns, rows;  // channels in vectors
  __device__ int operator()(int64_t at, int& row, int& column, int& channel) const {
    const int pixel = channels.divide(static_cast<int>(at), channel);
    channel *= kWide;
    return rows.divide(columns.divide(pixel, column), row);  // the image
  }
};

template <typename T>
struct WideMaxPool {
  const T* x;
  PoolShape s;
  WidePlace find;
  T* y;
  uint8_t* where;
  __device__ void operator()(int64_t at) const {
    using A = acc_t<T>;
    int p, q, c;
    const int n = find(at, p, q, c), kernel = s.args.kernel;
    const int top = p * s.args.stride - s.args.padding, bottom = min(top + kernel, s.h);
    const int left = q * s.args.stride - s.args.padding, right = min(left + kernel, s.w);
    A best[kWide];
    int place[kWide];
    for (int k = 0; k < kWide; ++k) {
      best[k] = -std::numeric_limits<A>::infinity();
      place[k] = max(-top, 0) * kernel + max(-left, 0);
    }
    for (int row = max(top, 0); row < bottom; ++row)
      for (int col = max(left, 0); col < right; ++col) {
        const int64_t from = static_cast<int64_t>((n * s.h + row) * s.w + col) * s.c + c;
        const auto values = Vec<T, kWide>::load(x + from);
        const int here = (row - top) * kernel + col - left;
        for (int k = 0; k < kWide; ++k)
          if (const A value = widen(values[k]); value > best[k] || value != value) {
            best[k] = value;
            place[k] = here;
          }
      }
    Vec<T, kWide> largest;
    Vec<uint8_t, kWide> places;
    for (int k = 0; k < kWide; ++k) {
      largest[k] = static_cast<T>(best[k]);
      places[k] = static_cast<uint8_t>(place[k]);
    }
    largest.store(y + at * kWide);
    places.store(where + at * kWide);
  }
};

template <typename T>
struct WideMaxPoolBackward {
  const T* dy;
  const uint8_t* where;
  PoolShape s;
  WidePlace find;
  Divisor stride;
  T* dx;
  // Windows [first, last) of `count` that cover place i of an axis.
  __device__ void windows(int i, int count, int& first, int& last) const {
    int rest;
    const int shifted = i + s.args.padding, behind = shifted - s.args.kernel;
    first = behind < 0 ? 0 : stride.divide(behind, rest) + 1;
    last = min(stride.divide(shifted, rest) + 1, count);
  }
  __device__ void operator()(int64_t at) const {
    int h, w, c, top, bottom, left, right;
    const int n = find(at, h, w, c);
    windows(h, s.p, top, bottom);
    windows(w, s.q, left, right);
    acc_t<T> sum[kWide] = {};
    for (int p = top; p < bottom; ++p)
      for (int q = left; q < right; ++q) {
        const int64_t from = static_cast<int64_t>((n * s.p + p) * s.q + q) * s.c + c;
        const auto grad = Vec<T, kWide>::load(dy + from);
        const auto place = Vec<uint8_t, kWide>::load(where + from);
        const int i = h + s.args.padding - p * s.args.stride;
        const int j = w + s.args.padding - q * s.args.stride;
        for (int k = 0; k < kWide; ++k)
          if (place[k] == i * s.args.kernel + j) sum[k] += widen(grad[k]);
      }
    Vec<T, kWide> result;
    for (int k = 0; k < kWide; ++k) result[k] = static_cast<T>(sum[k]);
    result.store(dx + at * kWide);
  }
};

// Whether the kernels above take pooling of x to y.
bool is_wide(const Tensor& x, const Tensor& y, const Tensor& where) {
  return x.dim(3) % kWide == 0 &&
         std::max(x.numel(), y.numel()) / kWide <= std::numeric_limits<int>::max() &&
         aligned(x.raw(), y.raw(), where.raw()) && kernel_choice() != KernelChoice::naive;
}

WidePlace places(const Tensor& to) {
  return {Divisor(to.dim(3) / kWide), Divisor(to.dim(2)), Divisor(to.dim(1))};
}

PoolShape shape_of(const Tensor& x, const Tensor& y, const PoolArgs& args) {
  const auto dim = [](const Tensor& t, int d) { return static_cast<int>(t.dim(d)); };
  return {dim(x, 1), dim(x, 2), dim(x, 3), dim(y, 1), dim(y, 2), args};
}

}  // namespace

void CudaBackend::max_pool2d(const Tensor& x, const PoolArgs& args, Tensor& y, Tensor& where) {
  dispatch_floating(x.dtype(), "max_pool2d", [&](auto tag) {
    using T = decltype(tag);
    const PoolShape shape = shape_of(x, y, args);
    if constexpr (!std::is_same_v<T, double>)
      if (is_wide(x, y, where))
        return map(
            y, y.numel() / kWide,
            WideMaxPool<T>{x.data<T>(), shape, places(y), y.data<T>(), where.data<uint8_t>()});
    map(y, y.numel(), MaxPool<T>{x.data<T>(), shape, y.data<T>(), where.data<uint8_t>()});
  });
}

void CudaBackend::max_pool2d_backward(const Tensor& dy, const Tensor& where, const PoolArgs& args,
                                      Tensor& dx) {
  dispatch_floating(dx.dtype(), "max_pool2d_backward", [&](auto tag) {
    using T = decltype(tag);
    const PoolShape shape = shape_of(dx, dy, args);
    if constexpr (!std::is_same_v<T, double>)
      if (is_wide(dx, dy, where))
        return map(dx, dx.numel() / kWide,
                   WideMaxPoolBackward<T>{dy.data<T>(), where.data<uint8_t>(), shape, places(dx),
                                          Divisor(args.stride), dx.data<T>()});
    map(dx, dx.numel(),
        MaxPoolBackward<T>{dy.data<T>(), where.data<uint8_t>(), shape, dx.data<T>()});
  });
}

}  // namespace facet
