// Max pooling of NHWC tensors; a thread for an element of the output, or for 8 channels.
#include "cuda/vec.cuh"

namespace facet {

using namespace cuda;

namespace {

struct PoolShape {
  int h, w, c, p, q;
  PoolArgs args;
};

constexpr int kWide = 8;

// Finds the N channels from element N `at` on of a tensor that is written. N > 1: in 32 bits and
// without divisions.
template <int N>
struct Finder {
  using Index = std::conditional_t<N == 1, int64_t, int>;
  Divisor rows, columns, vectors;

  explicit Finder(const Tensor& to) : rows(to.dim(1)), columns(to.dim(2)), vectors(to.dim(3) / N) {}
  // The image.
  __device__ Index operator()(int64_t at, int& row, int& column, int& channel) const {
    if constexpr (N == 1) {
      channel = static_cast<int>(at % vectors.d);
      column = static_cast<int>(at / vectors.d % columns.d);
      row = static_cast<int>(at / vectors.d / columns.d % rows.d);
      return at / vectors.d / columns.d / rows.d;
    } else {
      const int pixel = vectors.divide(static_cast<int>(at), channel);
      channel *= N;
      return rows.divide(columns.divide(pixel, column), row);
    }
  }
};

template <typename T, int N>
struct MaxPool {
  const T* x;
  PoolShape s;
  Finder<N> find;
  T* y;
  uint8_t* where;
  __device__ void operator()(int64_t at) const {
    using A = acc_t<T>;
    int p, q, c;
    const auto n = find(at, p, q, c);
    const int kernel = s.args.kernel;
    const int top = p * s.args.stride - s.args.padding, bottom = min(top + kernel, s.h);
    const int left = q * s.args.stride - s.args.padding, right = min(left + kernel, s.w);
    A best[N];
    int place[N];
    for (int k = 0; k < N; ++k) {
      best[k] = -std::numeric_limits<A>::infinity();
      place[k] = max(-top, 0) * kernel + max(-left, 0);
    }
    for (int row = max(top, 0); row < bottom; ++row)
      for (int col = max(left, 0); col < right; ++col) {
        const auto values =
            Vec<T, N>::load(x + static_cast<int64_t>((n * s.h + row) * s.w + col) * s.c + c);
        for (int k = 0; k < N; ++k)
          if (const A value = widen(values[k]); value > best[k] || value != value) {  // a NaN wins
            best[k] = value;
            place[k] = (row - top) * kernel + col - left;
          }
      }
    Vec<T, N> largest;
    Vec<uint8_t, N> places;
    for (int k = 0; k < N; ++k) {
      largest[k] = static_cast<T>(best[k]);
      places[k] = static_cast<uint8_t>(place[k]);
    }
    largest.store(y + at * N);
    places.store(where + at * N);
  }
};

// Each input place gathers from the windows that cover it: no zeroing, one write, fixed order.
template <typename T, int N>
struct MaxPoolBackward {
  const T* dy;
  const uint8_t* where;
  PoolShape s;
  Finder<N> find;
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
    const auto n = find(at, h, w, c);
    windows(h, s.p, top, bottom);
    windows(w, s.q, left, right);
    acc_t<T> sum[N] = {};
    for (int p = top; p < bottom; ++p)
      for (int q = left; q < right; ++q) {
        const int64_t from = static_cast<int64_t>((n * s.p + p) * s.q + q) * s.c + c;
        const auto grad = Vec<T, N>::load(dy + from);
        const auto place = Vec<uint8_t, N>::load(where + from);
        const int i = h + s.args.padding - p * s.args.stride;
        const int j = w + s.args.padding - q * s.args.stride;
        for (int k = 0; k < N; ++k)
          if (place[k] == i * s.args.kernel + j) sum[k] += widen(grad[k]);
      }
    Vec<T, N> result;
    for (int k = 0; k < N; ++k) result[k] = static_cast<T>(sum[k]);
    result.store(dx + at * N);
  }
};

// run(N): 8 channels a thread where they come in eights, else 1, the naive twin.
template <typename T, typename F>
void for_width(const Tensor& x, const Tensor& y, const Tensor& where, F&& run) {
  if constexpr (!std::is_same_v<T, double>)
    if (x.dim(3) % kWide == 0 && aligned(x.raw(), y.raw(), where.raw()) &&
        std::max(x.numel(), y.numel()) / kWide <= std::numeric_limits<int>::max() &&
        kernel_choice() != KernelChoice::naive)
      return run(std::integral_constant<int, kWide>{});
  run(std::integral_constant<int, 1>{});
}

PoolShape shape_of(const Tensor& x, const Tensor& y, const PoolArgs& args) {
  const auto dim = [](const Tensor& t, int d) { return static_cast<int>(t.dim(d)); };
  return {dim(x, 1), dim(x, 2), dim(x, 3), dim(y, 1), dim(y, 2), args};
}

}  // namespace

void CudaBackend::max_pool2d(const Tensor& x, const PoolArgs& args, Tensor& y, Tensor& where) {
  dispatch_floating(x.dtype(), "max_pool2d", [&](auto tag) {
    using T = decltype(tag);
    for_width<T>(x, y, where, [&]<int N>(std::integral_constant<int, N>) {
      map(y, y.numel() / N,
          MaxPool<T, N>{x.data<T>(), shape_of(x, y, args), Finder<N>(y), y.data<T>(),
                        where.data<uint8_t>()});
    });
  });
}

void CudaBackend::max_pool2d_backward(const Tensor& dy, const Tensor& where, const PoolArgs& args,
                                      Tensor& dx) {
  dispatch_floating(dx.dtype(), "max_pool2d_backward", [&](auto tag) {
    using T = decltype(tag);
    for_width<T>(dx, dy, where, [&]<int N>(std::integral_constant<int, N>) {
      map(dx, dx.numel() / N,
          MaxPoolBackward<T, N>{dy.data<T>(), where.data<uint8_t>(), shape_of(dx, dy, args),
                                Finder<N>(dx), Divisor(args.stride), dx.data<T>()});
    });
  });
}

}  // namespace facet
