// Fills of random numbers. Element i comes from block i / 4 of the key's Philox stream; arithmetic
// is in double and fused as written, so that every backend rounds the same number.
#include "tensor/cpu/cpu_backend.h"
#include "tensor/cpu/loops.h"

namespace facet {

using namespace cpu;

namespace {

// four(Philox4, double[4]) makes elements 4 c ... 4 c + 3 from block c.
template <typename Four>
void fill_fours(const RandomKey& key, Tensor& y, const Four& four) {
  dispatch_floating(y.dtype(), "random", [&](auto tag) {
    using T = decltype(tag);
    T* to = y.data<T>();
    for_each_block(y.numel(), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i += 4) {
        double values[4];
        four(philox(key, static_cast<uint64_t>(i / 4)), values);
        for (int64_t lane = 0; lane < std::min<int64_t>(4, end - i); ++lane)
          to[i + lane] = static_cast<T>(values[lane]);
      }
    });
  });
}

}  // namespace

void CpuBackend::random_uniform(const RandomKey& key, double low, double high, Tensor& y) {
  const double width = high - low;
  fill_fours(key, y, [=](const Philox4& bits, double* values) {
    for (int lane = 0; lane < 4; ++lane)
      values[lane] = std::fma(width, static_cast<double>(uniform_from_bits(bits.v[lane])), low);
  });
}

void CpuBackend::random_normal(const RandomKey& key, double mean, double stddev, Tensor& y) {
  fill_fours(key, y, [=](const Philox4& bits, double* values) {
    normal_from_bits(bits.v[0], bits.v[1], values);
    normal_from_bits(bits.v[2], bits.v[3], values + 2);
    for (int lane = 0; lane < 4; ++lane) values[lane] = std::fma(stddev, values[lane], mean);
  });
}

}  // namespace facet
