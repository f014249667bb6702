// Bitonic sorting networks, in one block and over a whole device. All comparisons point the same
// way: the first step of a merge compares mirrored places, so that what lies behind the end counts
// as last and need not be there.
#pragma once

#include "cuda/kernels/common.cuh"

namespace facet::cuda {

// Puts pair t of the step of `distance` within runs of `size` (powers of two) of n entries in
// order.
template <typename T, typename Before>
__device__ void sort_step(T* entries, int64_t n, int64_t t, int64_t size, int64_t distance,
                          Before before) {
  const int64_t low = 2 * t - (t & (distance - 1));
  const int64_t high = 2 * distance == size ? low ^ (size - 1) : low + distance;
  if (high >= n) return;
  const T a = entries[low], b = entries[high];
  if (!before(b, a)) return;
  entries[low] = b;
  entries[high] = a;
}

// The steps within a block for runs of `from` to `to` entries; those over more than `tile` entries
// have been taken. All threads call it; synchronises on entry and at the end.
template <typename T, typename Before>
__device__ void sort_steps(T* entries, int64_t n, int64_t from, int64_t to, int64_t tile,
                           Before before) {
  for (int64_t size = from; size <= to; size *= 2)
    for (int64_t distance = min(size, tile) / 2; distance > 0; distance /= 2) {
      __syncthreads();
      for (int64_t t = threadIdx.x; t < tile / 2; t += blockDim.x)
        sort_step(entries, n, t, size, distance, before);
    }
  __syncthreads();
}

// The least power of two that is not below n.
__host__ __device__ inline int64_t power_of_two(int64_t n) {
  int64_t power = 1;
  while (power < n) power *= 2;
  return power;
}

// Sorts n entries in shared or global memory by one block.
template <typename T, typename Before>
__device__ void block_sort(T* entries, int64_t n, Before before) {
  const int64_t size = power_of_two(n);
  sort_steps(entries, n, 2, size, size, before);
}

constexpr int64_t kSortTile = 2048;  // keys in shared memory at once

struct Ascending {
  template <typename Key>
  __device__ bool operator()(Key a, Key b) const {
    return a < b;
  }
};

// A block for each tile of the n keys: its steps for runs of `from` to `to`. Grid: tiles in
// strides; block: kThreads; shared: 2048 keys.
template <typename Key>
__global__ void sort_tiles_kernel(Key* keys, int64_t n, int64_t from, int64_t to) {
  SHARED_ARRAY(Key, tile, kSortTile);
  for (int64_t begin = blockIdx.x * kSortTile; begin < n; begin += gridDim.x * kSortTile) {
    const int64_t count = min(kSortTile, n - begin);
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) tile[i] = keys[begin + i];
    sort_steps(tile, count, from, to, min(kSortTile, power_of_two(count)), Ascending{});
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) keys[begin + i] = tile[i];
    __syncthreads();
  }
}

// One step over runs that are larger than a tile.
template <typename Key>
struct SortStep {
  Key* keys;
  int64_t n, size, distance;
  __device__ void operator()(int64_t t) const {
    sort_step(keys, n, t, size, distance, Ascending{});
  }
};

// Sorts keys (n) upwards on their device.
template <typename Key>
void sort_keys(Tensor& tensor) {
  Key* const keys = tensor.data<Key>();
  const int64_t n = tensor.numel();
  const auto tiles = [&](int64_t from, int64_t to) {
    launch_for<sort_tiles_kernel<Key>>(tensor, blocks_for_rows((n + kSortTile - 1) / kSortTile),
                                       kThreads, 0, keys, n, from, to);
  };
  tiles(2, std::min(kSortTile, power_of_two(n)));
  for (int64_t size = 2 * kSortTile; size < 2 * n; size *= 2) {
    for (int64_t distance = size / 2; distance >= kSortTile; distance /= 2)
      map(tensor, power_of_two(n) / 2, SortStep<Key>{keys, n, size, distance});
    tiles(size, size);
  }
}

}  // namespace facet::cuda
