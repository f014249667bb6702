#include "tensor/cpu/cpu_backend.h"
#include "tensor/parallel.h"

namespace facet {
namespace {

// Fills y in groups of four: make(block counter, four values).
template <typename Make>
void fill_by_block(Tensor& y, const char* op, Make make) {
  dispatch_floating(y.dtype(), op, [&](auto tag) {
    using T = decltype(tag);
    T* to = y.data<T>();
    const int64_t n = y.numel();
    parallel_for((n + 3) / 4, 1 << 10, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        double four[4];
        make(static_cast<uint64_t>(block), four);
        for (int64_t i = 0; i < 4 && block * 4 + i < n; ++i) to[block * 4 + i] = T(four[i]);
      }
    });
  });
}

}  // namespace

void CpuBackend::random_uniform(const RandomKey& key, double low, double high, Tensor& y) {
  fill_by_block(y, "random_uniform", [=](uint64_t block, double* four) {
    const Philox4 bits = philox(key, block);
    for (int i = 0; i < 4; ++i)
      four[i] = low + (high - low) * static_cast<double>(uniform_from_bits(bits.v[i]));
  });
}

void CpuBackend::random_normal(const RandomKey& key, double mean, double stddev, Tensor& y) {
  fill_by_block(y, "random_normal", [=](uint64_t block, double* four) {
    const Philox4 bits = philox(key, block);
    normal_from_bits(bits.v[0], bits.v[1], four);
    normal_from_bits(bits.v[2], bits.v[3], four + 2);
    for (int i = 0; i < 4; ++i) four[i] = mean + stddev * four[i];
  });
}

}  // namespace facet
