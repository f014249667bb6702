// Max pooling of NHWC tensors; a thread for each element of the output.
#include "cuda/kernels/common.cuh"

namespace facet {

using namespace cuda;

namespace {

struct PoolShape {
  int64_t h, w, c, p, q;
  PoolArgs args;
};

template <typename T>
struct MaxPool {
  const T* x;
  PoolShape s;
  T* y;
  uint8_t* where;
  __device__ void operator()(int64_t at) const {
    const int64_t c = at % s.c, q = at / s.c % s.q, p = at / (s.c * s.q) % s.p,
                  n = at / (s.c * s.q * s.p);
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
    const int64_t c = at % s.c, w = at / s.c % s.w, h = at / (s.c * s.w) % s.h,
                  n = at / (s.c * s.w * s.h);
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

PoolShape shape_of(const Tensor& x, const Tensor& y, const PoolArgs& args) {
  return {x.dim(1), x.dim(2), x.dim(3), y.dim(1), y.dim(2), args};
}

}  // namespace

void CudaBackend::max_pool2d(const Tensor& x, const PoolArgs& args, Tensor& y, Tensor& where) {
  dispatch_floating(x.dtype(), "max_pool2d", [&](auto tag) {
    using T = decltype(tag);
    map(y, y.numel(),
        MaxPool<T>{x.data<T>(), shape_of(x, y, args), y.data<T>(), where.data<uint8_t>()});
  });
}

void CudaBackend::max_pool2d_backward(const Tensor& dy, const Tensor& where, const PoolArgs& args,
                                      Tensor& dx) {
  dispatch_floating(dx.dtype(), "max_pool2d_backward", [&](auto tag) {
    using T = decltype(tag);
    map(dx, dx.numel(),
        MaxPoolBackward<T>{dy.data<T>(), where.data<uint8_t>(), shape_of(dx, dy, args),
                           dx.data<T>()});
  });
}

}  // namespace facet
