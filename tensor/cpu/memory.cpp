#include <cstring>

#include "tensor/cpu/cpu_backend.h"
#include "tensor/parallel.h"

namespace facet {

namespace {
constexpr int64_t kCopyGrain = 1 << 15;  // elements; below that one thread is quicker
}

CpuBackend& cpu_backend() {
  static CpuBackend backend;
  return backend;
}

void CpuBackend::synchronize() {}

void CpuBackend::copy(const Tensor& src, Tensor& dst) {
  const auto* from = static_cast<const std::byte*>(src.raw());
  auto* to = static_cast<std::byte*>(dst.raw());
  parallel_for(static_cast<int64_t>(src.bytes()), kCopyGrain * 4, [&](int64_t begin, int64_t end) {
    std::memmove(to + begin, from + begin, static_cast<size_t>(end - begin));
  });
}

void CpuBackend::cast(const Tensor& src, Tensor& dst) {
  dispatch_any(src.dtype(), [&](auto from_tag) {
    dispatch_any(dst.dtype(), [&](auto to_tag) {
      using From = decltype(from_tag);
      using To = decltype(to_tag);
      const From* from = src.data<From>();
      To* to = dst.data<To>();
      parallel_for(src.numel(), kCopyGrain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          if constexpr (std::is_same_v<From, bf16>)
            to[i] = static_cast<To>(static_cast<float>(from[i]));
          else if constexpr (std::is_same_v<To, bf16>)
            to[i] = bf16(static_cast<float>(from[i]));
          else
            to[i] = static_cast<To>(from[i]);
        }
      });
    });
  });
}

void CpuBackend::fill(double value, Tensor& dst) {
  dispatch_any(dst.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const T v = static_cast<T>(value);
    T* to = dst.data<T>();
    parallel_for(dst.numel(), kCopyGrain,
                 [&](int64_t begin, int64_t end) { std::fill(to + begin, to + end, v); });
  });
}

}  // namespace facet
