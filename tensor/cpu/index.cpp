// Kernels that move elements.
#include <cstring>

#include "tensor/cpu/cpu_backend.h"
#include "tensor/cpu/loops.h"

namespace facet {

using namespace cpu;

void CpuBackend::gather_rows(const Tensor& x, const Tensor& index, Tensor& y) {
  const int64_t rows = index.numel();
  if (y.numel() == 0) return;
  const size_t bytes = y.bytes() / static_cast<size_t>(rows);
  const auto* from = static_cast<const std::byte*>(x.raw());
  auto* to = static_cast<std::byte*>(y.raw());
  const int64_t* at = index.data<int64_t>();
  for_each_row(rows, y.numel() / rows, [&](int64_t row) {
    std::memcpy(to + static_cast<size_t>(row) * bytes, from + static_cast<size_t>(at[row]) * bytes,
                bytes);
  });
}

void CpuBackend::copy_block(const Tensor& x, const BlockArgs& block, Tensor& y) {
  const auto element = static_cast<int64_t>(size_of(x.dtype()));
  const auto* from = static_cast<const std::byte*>(x.raw());
  auto* to = static_cast<std::byte*>(y.raw());
  for_each_row(block.rows, block.width, [&](int64_t row) {
    std::memcpy(to + (row * block.to_pitch + block.to_first) * element,
                from + (row * block.from_pitch + block.from_first) * element,
                static_cast<size_t>(block.width * element));
  });
}

void CpuBackend::scatter_add_rows(const Tensor& x, const Tensor& index, Tensor& out) {
  if (x.numel() == 0) return;
  const int64_t rows = out.dim(0), sources = index.numel(), cols = x.numel() / sources;
  const int64_t* at = index.data<int64_t>();
  // The sources of each row of out, ascending: a stable counting sort.
  std::vector<int64_t> first(static_cast<size_t>(rows) + 1, 0);
  for (int64_t i = 0; i < sources; ++i) ++first[static_cast<size_t>(at[i]) + 1];
  for (size_t r = 0; r < static_cast<size_t>(rows); ++r) first[r + 1] += first[r];
  std::vector<int64_t> next(first.begin(), first.end() - 1), order(static_cast<size_t>(sources));
  for (int64_t i = 0; i < sources; ++i)
    order[static_cast<size_t>(next[static_cast<size_t>(at[i])]++)] = i;
  dispatch_floating(x.dtype(), "scatter_add_rows", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const T* from = x.data<T>();
    constexpr int64_t kStrip = 1024;
    for_each_row(rows, x.numel() / rows, [&](int64_t row) {
      const int64_t begin = first[static_cast<size_t>(row)];
      const int64_t end = first[static_cast<size_t>(row) + 1];
      for (int64_t strip = 0; begin < end && strip < cols; strip += kStrip) {
        const int64_t width = std::min(kStrip, cols - strip);
        T* to = out.data<T>() + row * cols + strip;
        A sum[kStrip];
        for (int64_t j = 0; j < width; ++j) sum[j] = widen(to[j]);
        for (int64_t k = begin; k < end; ++k) {
          const T* source = from + order[static_cast<size_t>(k)] * cols + strip;
#pragma omp simd
          for (int64_t j = 0; j < width; ++j) sum[j] += widen(source[j]);
        }
        for (int64_t j = 0; j < width; ++j) to[j] = static_cast<T>(sum[j]);
      }
    });
  });
}

namespace {

// The axes of y with the strides at which they walk over x; neighbours in both are merged.
struct PermutePlan {
  int rank = 0;
  int64_t extent[Shape::kMaxRank] = {};
  int64_t stride[Shape::kMaxRank] = {};
};

PermutePlan plan_permute(const Shape& x, std::span<const int> axes) {
  int64_t stride_x[Shape::kMaxRank] = {};
  int64_t stride = 1;
  for (int d = x.rank() - 1; d >= 0; --d) {
    stride_x[d] = stride;
    stride *= x[d];
  }
  PermutePlan plan;
  for (const int axis : axes) {
    if (x[axis] == 1) continue;
    const int last = plan.rank - 1;
    if (last >= 0 && plan.stride[last] == stride_x[axis] * x[axis]) {
      plan.extent[last] *= x[axis];
      plan.stride[last] = stride_x[axis];
      continue;
    }
    plan.extent[plan.rank] = x[axis];
    plan.stride[plan.rank++] = stride_x[axis];
  }
  if (plan.rank == 0) {
    plan.extent[0] = plan.stride[0] = 1;
    plan.rank = 1;
  }
  return plan;
}

template <typename T>
void permute_elements(const PermutePlan& plan, const T* x, T* y) {
  const int inner = plan.rank - 1;
  int64_t stride_y[Shape::kMaxRank] = {};
  int64_t numel = 1;
  for (int d = inner; d >= 0; --d) {
    stride_y[d] = numel;
    numel *= plan.extent[d];
  }
  const int64_t cols = plan.extent[inner];
  // Offset in x (or y) of the index `row` over the axes before the innermost but `skip`.
  const auto offset = [&](int64_t row, int skip, const int64_t* strides) {
    int64_t at = 0;
    for (int d = inner - 1; d >= 0; --d) {
      if (d == skip) continue;
      at += row % plan.extent[d] * strides[d];
      row /= plan.extent[d];
    }
    return at;
  };
  if (plan.stride[inner] == 1) {  // rows stay whole
    for_each_row(numel / cols, cols, [&](int64_t row) {
      std::memcpy(y + row * cols, x + offset(row, -1, plan.stride),
                  static_cast<size_t>(cols) * sizeof(T));
    });
    return;
  }
  // Transpositions of the innermost axis of y with that of x, in tiles that fit the first cache.
  int across = 0;
  while (plan.stride[across] != 1) ++across;
  constexpr int64_t kTile = 32;
  const int64_t height = plan.extent[across], strips = (height + kTile - 1) / kTile;
  const int64_t matrices = numel / (cols * height);
  for_each_row(matrices * strips, cols * kTile, [&](int64_t task) {
    const int64_t matrix = task / strips, top = task % strips * kTile;
    const int64_t bottom = std::min(top + kTile, height);
    const T* from = x + offset(matrix, across, plan.stride);
    T* to = y + offset(matrix, across, stride_y);
    for (int64_t left = 0; left < cols; left += kTile) {
      const int64_t right = std::min(left + kTile, cols);
      for (int64_t i = top; i < bottom; ++i)
        for (int64_t j = left; j < right; ++j)
          to[i * stride_y[across] + j] = from[i + j * plan.stride[inner]];
    }
  });
}

}  // namespace

void CpuBackend::permute(const Tensor& x, std::span<const int> axes, Tensor& y) {
  if (x.numel() == 0) return;
  const PermutePlan plan = plan_permute(x.shape(), axes);
  // Only the size of an element matters.
  const auto permute_as = [&]<typename T>(T) {
    permute_elements(plan, static_cast<const T*>(x.raw()), static_cast<T*>(y.raw()));
  };
  switch (size_of(x.dtype())) {
    case 1: return permute_as(uint8_t{});
    case 2: return permute_as(uint16_t{});
    case 4: return permute_as(uint32_t{});
    default: return permute_as(uint64_t{});
  }
}

}  // namespace facet
