// Fills of random numbers. Element i comes from block i / 4 of the key's Philox stream; arithmetic
// is in double and fused as written, so that every backend rounds the same number.
#include "cuda/kernels/common.cuh"

namespace facet {

using namespace cuda;

namespace {

// One thread for four elements.
template <typename T>
struct Uniform {
  RandomKey key;
  double low, width;
  int64_t n;
  T* y;
  __device__ void operator()(int64_t four) const {
    const Philox4 bits = philox(key, static_cast<uint64_t>(four));
    for (int lane = 0; lane < 4 && 4 * four + lane < n; ++lane)
      y[4 * four + lane] = static_cast<T>(
          std::fma(width, static_cast<double>(uniform_from_bits(bits.v[lane])), low));
  }
};
template <typename T>
struct Normal {
  RandomKey key;
  double mean, stddev;
  int64_t n;
  T* y;
  __device__ void operator()(int64_t four) const {
    const Philox4 bits = philox(key, static_cast<uint64_t>(four));
    double values[4];
    normal_from_bits(bits.v[0], bits.v[1], values);
    normal_from_bits(bits.v[2], bits.v[3], values + 2);
    for (int lane = 0; lane < 4 && 4 * four + lane < n; ++lane)
      y[4 * four + lane] = static_cast<T>(std::fma(stddev, values[lane], mean));
  }
};

}  // namespace

void CudaBackend::random_uniform(const RandomKey& key, double low, double high, Tensor& y) {
  dispatch_floating(y.dtype(), "random_uniform", [&](auto tag) {
    using T = decltype(tag);
    map(y, (y.numel() + 3) / 4, Uniform<T>{key, low, high - low, y.numel(), y.data<T>()});
  });
}

void CudaBackend::random_normal(const RandomKey& key, double mean, double stddev, Tensor& y) {
  dispatch_floating(y.dtype(), "random_normal", [&](auto tag) {
    using T = decltype(tag);
    map(y, (y.numel() + 3) / 4, Normal<T>{key, mean, stddev, y.numel(), y.data<T>()});
  });
}

}  // namespace facet
