// Kernels that move elements.
#include <algorithm>
#include <cstring>

#include "tensor/cpu/cpu_backend.h"
#include "tensor/parallel.h"

namespace facet {
namespace {
constexpr int64_t kGrain = 1 << 15;  // bytes a thread at least
}

void CpuBackend::gather_rows(const Tensor& x, const Tensor& index, Tensor& y) {
  const auto row_bytes = static_cast<int64_t>(y.bytes()) / y.dim(0);
  const int64_t* from_row = index.data<int64_t>();
  const auto* from = static_cast<const std::byte*>(x.raw());
  auto* to = static_cast<std::byte*>(y.raw());
  parallel_for(y.dim(0), std::max<int64_t>(1, kGrain / std::max<int64_t>(1, row_bytes)),
               [=](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i)
                   std::memcpy(to + i * row_bytes, from + from_row[i] * row_bytes,
                               static_cast<size_t>(row_bytes));
               });
}

void CpuBackend::scatter_add_rows(const Tensor& x, const Tensor& index, Tensor& out) {
  dispatch_floating(x.dtype(), "scatter_add_rows", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const int64_t n = index.numel(), width = x.numel() / n;
    const int64_t* to_row = index.data<int64_t>();
    const T* from = x.data<T>();
    T* to = out.data<T>();
    // Threads own columns, so every sum runs over ascending i whatever their number.
    parallel_for(width, std::max<int64_t>(1, kGrain / n), [=](int64_t begin, int64_t end) {
      for (int64_t i = 0; i < n; ++i)
        for (int64_t c = begin; c < end; ++c) {
          T& target = to[to_row[i] * width + c];
          target = T(A(target) + A(from[i * width + c]));
        }
    });
  });
}

void CpuBackend::permute(const Tensor& x, std::span<const int> axes, Tensor& y) {
  const int rank = x.rank();
  int64_t stride[Shape::kMaxRank], step = 1;
  int64_t source_stride[Shape::kMaxRank];
  for (int d = rank - 1; d >= 0; --d) {
    source_stride[d] = step;
    step *= x.shape()[d];
  }
  for (int d = 0; d < rank; ++d) stride[d] = source_stride[axes[static_cast<size_t>(d)]];
  const Shape shape = y.shape();
  const int64_t inner = shape.cols(), inner_stride = rank == 0 ? 1 : stride[rank - 1];
  const auto move = [&](auto tag) {
    using T = decltype(tag);
    const T* from = static_cast<const T*>(x.raw());
    T* to = static_cast<T*>(y.raw());
    parallel_for(shape.rows(),
                 std::max<int64_t>(1, kGrain / std::max<int64_t>(1, inner * int64_t{sizeof(T)})),
                 [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        int64_t rest = r, offset = 0;
        for (int d = rank - 2; d >= 0; --d) {
          offset += rest % shape[d] * stride[d];
          rest /= shape[d];
        }
        T* row = to + r * inner;
        if (inner_stride == 1)
          std::memcpy(row, from + offset, static_cast<size_t>(inner) * sizeof(T));
        else
          for (int64_t i = 0; i < inner; ++i) row[i] = from[offset + i * inner_stride];
      }
    });
  };
  switch (size_of(x.dtype())) {  // moved as plain words
    case 1: return move(uint8_t{});
    case 2: return move(uint16_t{});
    case 4: return move(uint32_t{});
    default: return move(uint64_t{});
  }
}

}  // namespace facet
