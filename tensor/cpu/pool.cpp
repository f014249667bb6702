// Max pooling of NHWC tensors, vectorised over the channels.
#include <algorithm>
#include <limits>

#include "tensor/cpu/cpu_backend.h"
#include "tensor/cpu/lanes.h"
#include "tensor/parallel.h"

namespace facet {
namespace {

constexpr int64_t kBlock = 64;           // channels held in registers
constexpr int64_t kPoolGrain = 1 << 14;  // elements

// Output places whose window covers input place i along one axis: [first, last).
struct Cover {
  int64_t first, last;
};
Cover cover(int64_t i, int64_t outputs, const PoolArgs& args) {
  const int64_t shifted = i + args.padding;
  const int64_t first = shifted < args.kernel ? 0 : (shifted - args.kernel) / args.stride + 1;
  return {first, std::min(shifted / args.stride + 1, outputs)};
}

template <typename T>
void forward(const Tensor& x, const PoolArgs& args, Tensor& y, Tensor& where) {
  using A = acc_t<T>;
  const int64_t height = x.dim(1), width = x.dim(2), channels = x.dim(3);
  const int64_t p_out = y.dim(1), q_out = y.dim(2);
  const T* const from = x.data<T>();
  T* const to = y.data<T>();
  uint8_t* const place = where.data<uint8_t>();
  const int64_t grain = std::max<int64_t>(kPoolGrain / std::max<int64_t>(q_out * channels, 1), 1);
  parallel_for(x.dim(0) * p_out, grain, [&](int64_t begin, int64_t end) {
    A best[kBlock];
    int32_t index[kBlock];
    for (int64_t row = begin; row < end; ++row) {
      const int64_t n = row / p_out, top = row % p_out * args.stride - args.padding;
      const int64_t i_begin = std::max<int64_t>(0, -top);
      const int64_t i_end = std::min<int64_t>(args.kernel, height - top);
      for (int64_t q = 0; q < q_out; ++q) {
        const int64_t left = q * args.stride - args.padding;
        const int64_t j_begin = std::max<int64_t>(0, -left);
        const int64_t j_end = std::min<int64_t>(args.kernel, width - left);
        for (int64_t c0 = 0; c0 < channels; c0 += kBlock) {
          const int64_t count = std::min(kBlock, channels - c0);
          std::fill_n(best, kBlock, -std::numeric_limits<A>::infinity());
          std::fill_n(index, kBlock, static_cast<int32_t>(i_begin * args.kernel + j_begin));
          for (int64_t i = i_begin; i < i_end; ++i)
            for (int64_t j = j_begin; j < j_end; ++j) {
              const T* const v = from + ((n * height + top + i) * width + left + j) * channels + c0;
              const auto k = static_cast<int32_t>(i * args.kernel + j);
              for (int64_t c = 0; c < count; ++c) {
                const A value = static_cast<A>(v[c]);
                const bool better = value > best[c] || value != value;  // a NaN wins
                best[c] = better ? value : best[c];
                index[c] = better ? k : index[c];
              }
            }
          const int64_t out = (row * q_out + q) * channels + c0;
          for (int64_t c = 0; c < count; ++c) {
            to[out + c] = static_cast<T>(best[c]);
            place[out + c] = static_cast<uint8_t>(index[c]);
          }
        }
      }
    }
  });
}

// Each input place gathers from the windows that cover it: no zeroing, one write, fixed order.
template <typename T, int W>
void backward(const Tensor& dy, const Tensor& where, const PoolArgs& args, Tensor& dx) {
  using V = cpu::Lanes<acc_t<T>, W>;
  const int64_t height = dx.dim(1), width = dx.dim(2), channels = dx.dim(3);
  const int64_t p_out = dy.dim(1), q_out = dy.dim(2);
  const T* const from = dy.data<T>();
  const uint8_t* const place = where.data<uint8_t>();
  T* const to = dx.data<T>();
  const int64_t grain = std::max<int64_t>(kPoolGrain / std::max<int64_t>(width * channels, 1), 1);
  parallel_for(dx.dim(0) * height, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t n = row / height, h = row % height;
      const Cover ps = cover(h, p_out, args);
      for (int64_t w = 0; w < width; ++w) {
        const Cover qs = cover(w, q_out, args);
        for (int64_t c = 0; c < channels; c += W) {
          V sum{};
          for (int64_t p = ps.first; p < ps.last; ++p)
            for (int64_t q = qs.first; q < qs.last; ++q) {
              const int64_t i = h + args.padding - p * args.stride;
              const int64_t j = w + args.padding - q * args.stride;
              const auto k = static_cast<uint8_t>(i * args.kernel + j);
              const int64_t out = ((n * p_out + p) * q_out + q) * channels + c;
              sum = sum + V::load(from + out).keep(cpu::equal_bits<W>(place + out, k));
            }
          sum.store(to + (row * width + w) * channels + c);
        }
      }
    }
  });
}

}  // namespace

void CpuBackend::max_pool2d(const Tensor& x, const PoolArgs& args, Tensor& y, Tensor& where) {
  dispatch_floating(x.dtype(), "max_pool2d",
                    [&](auto tag) { forward<decltype(tag)>(x, args, y, where); });
}

void CpuBackend::max_pool2d_backward(const Tensor& dy, const Tensor& where, const PoolArgs& args,
                                     Tensor& dx) {
  dispatch_floating(dx.dtype(), "max_pool2d_backward", [&](auto tag) {
    using T = decltype(tag);
    if constexpr (!std::is_same_v<T, double>)
      if (dx.cols() % 16 == 0) return backward<T, 16>(dy, where, args, dx);
    backward<T, 1>(dy, where, args, dx);
  });
}

}  // namespace facet
