// Matrix products out of two loaders: plain matrices (gemm.cu) and convolutions as implicit GEMM
// (conv.cu) share these kernels. A loader gives element (row, k) or (k, column) of one factor, 0
// outside of it; the epilogue takes the finished sums.
#pragma once

#include "cuda/kernels/common.cuh"

namespace facet::cuda {

struct GemmShape {
  int64_t m, n, k, batch;
};

// The naive twin: a thread for each element of the product. Sums run in the order of k.
template <typename A, typename LoadA, typename LoadB, typename Store>
struct NaiveGemm {
  GemmShape s;
  LoadA a;
  LoadB b;
  Store store;
  __device__ void operator()(int64_t i) const {
    const int64_t col = i % s.n, row = i / s.n % s.m, batch = i / (s.n * s.m);
    A sum = 0;
    for (int64_t k = 0; k < s.k; ++k) sum += a(batch, row, k) * b(batch, k, col);
    store(batch, row, col, sum);
  }
};

constexpr int kTile = 64;               // rows and columns of a block's product
constexpr int kTileDepth = 16;          // of k in shared memory at once
constexpr int kPerThread = 4;           // rows and columns of a thread's product
constexpr int64_t kEnoughBlocks = 264;  // two for each multiprocessor of an H100
constexpr int64_t kLeastDepth = 256;    // of k, that a block sums

// Grid (tiles of m, tiles of n, batch * splits), block 256. A block sums k in
// [split * depth, (split + 1) * depth) of its 64 x 64 tile; each thread holds 4 x 4 sums. Shared:
// two tiles of 16 x 64, the one of A transposed, a column more so that banks differ.
template <typename A, typename LoadA, typename LoadB, typename Store>
__global__ void tiled_gemm_kernel(const __grid_constant__ GemmShape s,
                                  const __grid_constant__ LoadA load_a,
                                  const __grid_constant__ LoadB load_b, int splits, int64_t depth,
                                  const __grid_constant__ Store store) {
  constexpr int kPitch = kTile + 4;
  SHARED_ARRAY(A, tile_a, kTileDepth * kPitch);
  SHARED_ARRAY(A, tile_b, kTileDepth * kPitch);
  const int64_t left = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t top = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t batch = blockIdx.z / splits, split = blockIdx.z % splits;
  const int64_t end = min((split + 1) * depth, s.k);
  const int thread = static_cast<int>(threadIdx.x);
  const int row = thread / 16 * kPerThread, col = thread % 16 * kPerThread;
  A sums[kPerThread][kPerThread] = {};
  for (int64_t k0 = split * depth; k0 < end; k0 += kTileDepth) {
    __syncthreads();
    for (int i = thread; i < kTile * kTileDepth; i += kThreads) {
      // Neighbouring threads read neighbouring k of A, neighbouring columns of B.
      const int ka = i % kTileDepth, ra = i / kTileDepth, cb = i % kTile, kb = i / kTile;
      tile_a[ka * kPitch + ra] =
          top + ra < s.m && k0 + ka < end ? load_a(batch, top + ra, k0 + ka) : A(0);
      tile_b[kb * kPitch + cb] =
          left + cb < s.n && k0 + kb < end ? load_b(batch, k0 + kb, left + cb) : A(0);
    }
    __syncthreads();
    for (int k = 0; k < kTileDepth; ++k)
      for (int r = 0; r < kPerThread; ++r)
        for (int c = 0; c < kPerThread; ++c)
          sums[r][c] += tile_a[k * kPitch + row + r] * tile_b[k * kPitch + col + c];
  }
  for (int r = 0; r < kPerThread; ++r)
    for (int c = 0; c < kPerThread; ++c)
      if (top + row + r < s.m && left + col + c < s.n)
        store(static_cast<int64_t>(blockIdx.z), top + row + r, left + col + c, sums[r][c]);
}

// Sums of one split into (batch * splits, m, n).
template <typename A>
struct StorePartial {
  A* to;
  int64_t m, n;
  __device__ void operator()(int64_t z, int64_t row, int64_t col, A sum) const {
    to[(z * m + row) * n + col] = sum;
  }
};
template <typename A, typename Store>
struct AddSplits {
  const A* from;
  GemmShape s;
  int splits;
  Store store;
  __device__ void operator()(int64_t i) const {
    const int64_t area = s.m * s.n, batch = i / area, at = i % area;
    A sum = 0;
    for (int k = 0; k < splits; ++k) sum += from[(batch * splits + k) * area + at];
    store(batch, at / s.n, at % s.n, sum);
  }
};

// store(batch, row, column, sum over k of a(batch, row, k) * b(batch, k, column)) for all of them,
// on the device of `where`. Where there are too few tiles to fill a device, k is split, by the
// shape alone: sums are the same every time.
template <typename A, typename LoadA, typename LoadB, typename Store>
void gemm(const Tensor& where, const GemmShape& s, LoadA a, LoadB b, Store store) {
  const int64_t count = s.m * s.n * s.batch;
  if (count == 0) return;
  if (kernel_choice() == KernelChoice::naive)
    return map(where, count, NaiveGemm<A, LoadA, LoadB, Store>{s, a, b, store});
  const auto cut = [](int64_t length, int64_t piece) { return (length + piece - 1) / piece; };
  const int64_t tiles_m = cut(s.m, kTile), tiles_n = cut(s.n, kTile);
  const int64_t wanted = cut(kEnoughBlocks, tiles_m * tiles_n * s.batch);
  const int64_t pieces = std::clamp<int64_t>(cut(s.k, kLeastDepth), 1, wanted);
  const int64_t depth = cut(std::max<int64_t>(s.k, 1), pieces * kTileDepth) * kTileDepth;
  const int64_t splits = std::max<int64_t>(1, cut(s.k, depth));
  const dim3 grid(static_cast<unsigned>(tiles_m), static_cast<unsigned>(tiles_n),
                  static_cast<unsigned>(s.batch * splits));
  FACET_CHECK(grid.y <= 65535 && grid.z <= 65535, "gemm",
              "{} x {} x {} is too large for one launch", s.m, s.n, s.batch);
  if (splits == 1)
    return launch_for<tiled_gemm_kernel<A, LoadA, LoadB, Store>>(where, grid, kThreads, 0, s, a, b,
                                                                 1, s.k, store);
  constexpr DType kType = dtype_of<A>();
  Tensor partial = Tensor::empty({s.batch * splits, s.m, s.n}, kType, where.device());
  launch_for<tiled_gemm_kernel<A, LoadA, LoadB, StorePartial<A>>>(
      where, grid, kThreads, 0, s, a, b, static_cast<int>(splits), depth,
      StorePartial<A>{partial.data<A>(), s.m, s.n});
  map(where, count, AddSplits<A, Store>{partial.data<A>(), s, static_cast<int>(splits), store});
}

}  // namespace facet::cuda
