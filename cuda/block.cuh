// Sums and maxima over a warp and over a block, the same tree every time.
#pragma once

#include "cuda/launch.h"

namespace facet::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWarp = 32;

struct Add {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  // A NaN wins, so that it is not lost.
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a > b || a != a ? a : b;
  }
};
struct Min {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a < b || a != a ? a : b;
  }
};

// `value` of lane ^ distance; structures go word by word.
template <typename T>
__device__ T shuffle_xor(T value, int distance) {
  if constexpr (std::is_arithmetic_v<T>) {
    return __shfl_xor_sync(kAllLanes, value, distance);
  } else {
    static_assert(sizeof(T) % 4 == 0 && std::is_trivially_copyable_v<T>);
    unsigned words[sizeof(T) / 4];
    memcpy(words, &value, sizeof(T));
    for (unsigned& word : words) word = __shfl_xor_sync(kAllLanes, word, distance);
    memcpy(&value, words, sizeof(T));
    return value;
  }
}

// The result in every lane. All 32 lanes call it.
template <typename T, typename Op>
__device__ T warp_reduce(T value, Op op) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    value = op(value, shuffle_xor(value, distance));
  return value;
}

// The result in every thread of a block of up to 1024 threads in x (whole warps). All threads call
// it; `scratch` is 32 elements of shared memory. Synchronises on entry, so that it may be called
// again at once with the same scratch.
template <typename T, typename Op>
__device__ T block_reduce(T value, Op op, T identity, T* scratch) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  value = warp_reduce(value, op);
  __syncthreads();
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  value = lane < static_cast<int>(blockDim.x) / kWarp ? scratch[lane] : identity;
  return warp_reduce(value, op);
}
template <typename T>
__device__ T block_sum(T value, T* scratch) {
  return block_reduce(value, Add{}, T(0), scratch);
}

}  // namespace facet::cuda
