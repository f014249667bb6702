// Matrix products out of two loaders: plain matrices (gemm.cu) and convolutions as implicit GEMM
// (conv.cu) share these kernels. A loader gives element (row, k) or (k, column) of one factor, 0
// outside of it. One for bf16 also says whether the factor can be read 8 elements at a time
// (in_chunks), and then hands f the loader that does so (with_chunks): tensor cores take those.
#pragma once

#include "cuda/kernels/mma_gemm.cuh"

namespace facet::cuda {

// The naive twin: a thread for each element of the product. Sums run in the order of k.
template <typename T, typename LoadA, typename LoadB>
struct NaiveGemm {
  GemmShape s;
  LoadA a;
  LoadB b;
  Output<T> out;
  __device__ void operator()(int64_t i) const {
    const int64_t col = i % s.n, row = i / s.n % s.m, batch = i / (s.n * s.m);
    acc_t<T> sum = 0;
    for (int64_t k = 0; k < s.k; ++k) sum += a(batch, row, k) * b(batch, k, col);
    out.store(batch, row, col, Vec<acc_t<T>, 1>{sum});
  }
};

constexpr int kTile = 64;       // rows and columns of a block's product
constexpr int kTileDepth = 16;  // of k in shared memory at once
constexpr int kPerThread = 4;   // rows and columns of a thread's product

// Grid and splits as split_gemm says, block 256; each thread holds 4 x 4 sums of the 64 x 64 tile.
// Shared: two tiles of 16 x 64, the one of A transposed, 4 columns more so that banks differ.
template <typename T, typename LoadA, typename LoadB>
__global__ void tiled_gemm_kernel(const __grid_constant__ GemmShape s,
                                  const __grid_constant__ LoadA load_a,
                                  const __grid_constant__ LoadB load_b, int splits, int64_t depth,
                                  const __grid_constant__ Output<T> out) {
  using A = acc_t<T>;
  constexpr int kPitch = kTile + 4;
  SHARED_ARRAY(A, tile_a, kTileDepth * kPitch);
  SHARED_ARRAY(A, tile_b, kTileDepth * kPitch);
  const unsigned across = static_cast<unsigned>((s.n + kTile - 1) / kTile);
  const unsigned tiles = across * static_cast<unsigned>((s.m + kTile - 1) / kTile);
  const unsigned product = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  const int64_t top = tile / across * kTile, left = tile % across * kTile;
  const int64_t batch = product / splits, split = product % splits;
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
    for (int k = 0; k < kTileDepth; ++k) {
      const auto of_a = Vec<A, kPerThread>::load(tile_a + k * kPitch + row);
      const auto of_b = Vec<A, kPerThread>::load(tile_b + k * kPitch + col);
      for (int r = 0; r < kPerThread; ++r)
        for (int c = 0; c < kPerThread; ++c) sums[r][c] += of_a[r] * of_b[c];
    }
  }
  for (int r = 0; r < kPerThread; ++r)
    for (int c = 0; c < kPerThread; ++c)
      if (top + row + r < s.m && left + col + c < s.n)
        out.store(int64_t{product}, top + row + r, left + col + c, Vec<A, 1>{sums[r][c]});
}

// Sums over k of a(batch, row, k) * b(batch, k, column) go to `out`, on the device of `where`. bf16
// factors that allow it go to the tensor cores.
template <typename T, typename LoadA, typename LoadB>
void gemm(const Tensor& where, const GemmShape& s, const LoadA& a, const LoadB& b,
          const Output<T>& out) {
  const int64_t count = s.m * s.n * s.batch;
  if (count == 0) return;
  if (kernel_choice() == KernelChoice::naive)
    return map(where, count, NaiveGemm<T, LoadA, LoadB>{s, a, b, out});
  if constexpr (std::is_same_v<T, bf16>)
    if (fits_mma(s) && a.in_chunks() && b.in_chunks())
      return a.with_chunks([&](const auto& chunks_a) {
        b.with_chunks([&](const auto& chunks_b) { mma_gemm(where, s, chunks_a, chunks_b, out); });
      });
  split_gemm(where, s, kTile, kTile, kTileDepth, out,
             [&](dim3 grid, int splits, int64_t depth, const Output<T>& to) {
               launch_for<tiled_gemm_kernel<T, LoadA, LoadB>>(where, grid, kThreads, 0, s, a, b,
                                                              splits, depth, to);
             });
}

}  // namespace facet::cuda
