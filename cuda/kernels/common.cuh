// What every family of kernels needs: how to cover n elements or rows, and where to launch.
#pragma once

#include <algorithm>
#include <limits>

#include "cuda/backend.h"
#include "cuda/block.cuh"
#include "cuda/runtime.h"

namespace facet::cuda {

constexpr int kThreads = 256;             // of a block, unless a kernel says otherwise
constexpr int64_t kMaxBlocks = 132 * 16;  // enough to fill the largest device many times

template <typename T>
__device__ __forceinline__ acc_t<T> widen(T x) {
  return static_cast<acc_t<T>>(x);
}

// Launches `Kernel` into the stream of t's device. `blocks` 0: nothing to do.
template <auto Kernel, typename... Arguments>
void launch_for(const Tensor& t, dim3 blocks, int threads, size_t shared,
                Arguments&&... arguments) {
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0) return;
  const DeviceGuard guard(t.device().index);
  launch<Kernel>(blocks, static_cast<unsigned>(threads), shared, stream(t.device().index),
                 std::forward<Arguments>(arguments)...);
}

// Blocks of kThreads that cover n elements in strides.
inline dim3 blocks_for(int64_t n) {
  return static_cast<unsigned>(std::min((n + kThreads - 1) / kThreads, kMaxBlocks));
}
// One block a row, in strides.
inline dim3 blocks_for_rows(int64_t rows) {
  return static_cast<unsigned>(std::min(rows, int64_t{1} << 20));
}

__device__ __forceinline__ int64_t first_element() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ int64_t element_stride() {
  return static_cast<int64_t>(gridDim.x) * blockDim.x;
}

// n / d for 0 <= n < 2^31 by a multiplication (Granlund & Montgomery 1994, figure 4.1).
struct Divisor {
  unsigned d, factor, shift;
  explicit Divisor(int64_t divisor) : d(static_cast<unsigned>(divisor)), shift(0) {
    while ((uint64_t{1} << shift) < d) ++shift;
    factor = static_cast<unsigned>((((uint64_t{1} << shift) - d) << 32) / d + 1);
  }
  // Also leaves the remainder.
  __device__ int divide(int n, int& rest) const {
    const unsigned quotient =
        (__umulhi(static_cast<unsigned>(n), factor) + static_cast<unsigned>(n)) >> shift;
    rest = n - static_cast<int>(quotient * d);
    return static_cast<int>(quotient);
  }
};

// out(i) for all i < n. Grid: blocks_for(n); block: kThreads. `Body` is a functor of values and
// pointers, so that one kernel serves every elementwise operation.
template <typename Body>
__global__ void map_kernel(const __grid_constant__ Body body, int64_t n) {
  for (int64_t i = first_element(); i < n; i += element_stride()) body(i);
}
template <typename Body>
void map(const Tensor& where, int64_t n, Body body) {
  launch_for<map_kernel<Body>>(where, blocks_for(n), kThreads, 0, body, n);
}

}  // namespace facet::cuda
