// 16 bytes a thread: vector loads and stores, and the elementwise kernel that is made of them.
#pragma once

#include "cuda/kernels/common.cuh"

namespace facet::cuda {

// N neighbouring elements, moved in pieces of 16 bytes, or in one of 8 or 4 where they are fewer.
// N = 1 is a plain element.
template <typename T, int N>
struct Vec {
  static constexpr size_t kBytes = N * sizeof(T);
  using Piece = std::conditional_t<
      kBytes % 16 == 0, uint4,
      std::conditional_t<kBytes == 8, uint2, std::conditional_t<kBytes == 4, unsigned, T>>>;
  static_assert(kBytes % 16 == 0 || kBytes == sizeof(Piece));
  T v[N];

  __device__ T& operator[](int i) { return v[i]; }
  __device__ const T& operator[](int i) const { return v[i]; }

  // `from` and `to` are multiples of sizeof(Piece).
  __device__ static Vec load(const T* from) {
    Piece pieces[kBytes / sizeof(Piece)];
    for (size_t i = 0; i < kBytes / sizeof(Piece); ++i)
      pieces[i] = reinterpret_cast<const Piece*>(from)[i];
    Vec result;
    memcpy(result.v, pieces, kBytes);
    return result;
  }
  __device__ void store(T* to) const {
    Piece pieces[kBytes / sizeof(Piece)];
    memcpy(pieces, v, kBytes);
    for (size_t i = 0; i < kBytes / sizeof(Piece); ++i) reinterpret_cast<Piece*>(to)[i] = pieces[i];
  }
};

// Whether every one of the pointers is a multiple of 16.
template <typename... T>
__host__ __device__ bool aligned(const T*... at) {
  return ((reinterpret_cast<uintptr_t>(at) % 16 == 0) && ...);
}

namespace detail {
template <int N, typename F, typename To, typename... From>
__device__ __forceinline__ void zip_some(const F& f, To* to, const Vec<From, N>&... from) {
  Vec<To, N> result;
  for (int k = 0; k < N; ++k) result[k] = static_cast<To>(f(widen(from[k])...));
  result.store(to);
}
}  // namespace detail

// to[i] = f(from[i]...) for all i < n; `to` may be one of `from`. N elements a thread: 16 bytes of
// the smallest type, or 1, the naive twin. Grid blocks_for(n / N) or 1, block kThreads.
template <int N, typename F, typename To, typename... From>
__global__ void zip_kernel(const __grid_constant__ F f, int64_t n, To* to, const From*... from) {
  for (int64_t i = first_element() * N; i + N <= n; i += element_stride() * N)
    detail::zip_some<N>(f, to + i, Vec<From, N>::load(from + i)...);
  const int64_t rest = n / N * N + first_element();
  if (N > 1 && rest < n) detail::zip_some<1>(f, to + rest, Vec<From, 1>{from[rest]}...);
}

template <typename F, typename To, typename... From>
void zip(const Tensor& where, int64_t n, const F& f, To* to, const From*... from) {
  if (n == 0) return;
  if constexpr (!(std::is_same_v<To, double> || ... || std::is_same_v<From, double>)) {
    constexpr int64_t kWidth = 16 / static_cast<int64_t>(std::min({sizeof(To), sizeof(From)...}));
    if (kernel_choice() != KernelChoice::naive && aligned(to, from...))
      return launch_for<zip_kernel<static_cast<int>(kWidth), F, To, From...>>(
          where, blocks_for(std::max(n / kWidth, int64_t{1})), kThreads, 0, f, n, to, from...);
  }
  launch_for<zip_kernel<1, F, To, From...>>(where, blocks_for(n), kThreads, 0, f, n, to, from...);
}

}  // namespace facet::cuda
