// Sums over the columns of rows x C, two at a time, by a tree that depends on the shape alone.
#pragma once

#include "cuda/kernels/common.cuh"

namespace facet::cuda {

constexpr int64_t kChunkRows = 1024;  // summed by one block
constexpr int kRowLanes = kThreads / kWarp;

// sums (chunks, 2, C) of term over the chunk's rows. Grid (ceil(C / 32), chunks), block 256: a warp
// reads 32 neighbouring channels of every 8th row.
template <typename T, typename Term>
__global__ void channel_sums_kernel(const __grid_constant__ Term term, int64_t rows, int64_t cols,
                                    double* sums) {
  using A = acc_t<T>;
  SHARED_ARRAY(A, partial, 2 * kThreads);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t col = static_cast<int64_t>(blockIdx.x) * kWarp + lane;
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * kChunkRows;
  const int64_t end = min(begin + kChunkRows, rows);
  A s = 0, q = 0;
  if (col < cols)
    for (int64_t row = begin + warp; row < end; row += kRowLanes) term(row, col, s, q);
  partial[threadIdx.x] = s;
  partial[kThreads + threadIdx.x] = q;
  __syncthreads();
  if (warp == 0 && col < cols) {
    double total_s = 0, total_q = 0;
    for (int w = 0; w < kRowLanes; ++w) {
      total_s += partial[w * kWarp + lane];
      total_q += partial[kThreads + w * kWarp + lane];
    }
    double* const to = sums + 2 * static_cast<int64_t>(blockIdx.y) * cols + col;
    to[0] = total_s;
    to[cols] = total_q;
  }
}

__device__ __forceinline__ void add_chunks(const double* sums, int64_t chunks, int64_t cols,
                                           int64_t c, double& s, double& q) {
  s = q = 0;
  for (int64_t k = 0; k < chunks; ++k) {
    s += sums[2 * k * cols + c];
    q += sums[(2 * k + 1) * cols + c];
  }
}

// (chunks, 2, C) on x's device
template <typename T, typename Term>
Tensor channel_sums(const Tensor& x, Term term) {
  const int64_t chunks = (x.rows() + kChunkRows - 1) / kChunkRows, cols = x.cols();
  Tensor sums = Tensor::empty({chunks, 2, cols}, DType::f64, x.device());
  const dim3 grid(static_cast<unsigned>((cols + kWarp - 1) / kWarp), static_cast<unsigned>(chunks));
  launch_for<channel_sums_kernel<T, Term>>(x, grid, kThreads, 0, term, x.rows(), cols,
                                           sums.data<double>());
  return sums;
}

}  // namespace facet::cuda
