// Passes over the columns of rows x C: sums, two at a time, by a tree that depends on the shape
// alone, and maps that keep what belongs to their columns in registers. On an H200 many threads
// with a row each move more bytes than fewer threads with several rows in flight
// (docs/benchmarks/gpu.md), so a multiprocessor is asked to hold four blocks.
#pragma once

#include "cuda/kernels/common.cuh"
#include "cuda/vec.cuh"

namespace facet::cuda {

constexpr int kWide = 8;        // neighbouring columns of a thread where they can be moved together
constexpr int kBlocksEach = 4;  // of a multiprocessor

// How blocks cover rows x C with N columns a thread: `lanes` threads side by side, the rest of a
// block on the next rows. Grid (parts of the columns, parts of the rows).
struct Cover {
  int lanes;
  dim3 grid;
  // `rows_each`: the least that a thread is worth starting for.
  Cover(int64_t rows, int64_t cols, int n, int64_t rows_each, int64_t blocks) {
    const int64_t vectors = (cols + n - 1) / n, across_block = std::min<int64_t>(vectors, kThreads);
    const int64_t across = (vectors + across_block - 1) / across_block;
    const int64_t at_once = kThreads / across_block * rows_each;
    const int64_t down = std::clamp<int64_t>((rows + at_once - 1) / at_once, 1,
                                             std::max<int64_t>(blocks / across, 1));
    lanes = static_cast<int>(across_block);
    grid = dim3(static_cast<unsigned>(across), static_cast<unsigned>(down));
  }
};
// Where a thread of a Cover works.
template <int N>
struct Place {
  int64_t row, col;
  int64_t at_once;  // rows that a block covers
  bool idle;
  __device__ Place(int64_t cols, int lanes) {
    const int lane = static_cast<int>(threadIdx.x) % lanes;
    row = static_cast<int>(threadIdx.x) / lanes;
    at_once = kThreads / lanes;
    col = (static_cast<int64_t>(blockIdx.x) * lanes + lane) * N;
    idle = row >= at_once || col >= cols;
  }
};

// sums (grid.y, 2, C) of term.add<N>(columns, row, col, s, q) over the rows of a part. Block
// kThreads.
template <int N, typename Term>
__global__ void __launch_bounds__(kThreads, kBlocksEach)
    channel_sums_kernel(const __grid_constant__ Term term, int64_t rows, int64_t cols, int lanes,
                        double* sums) {
  using A = typename Term::A;
  SHARED_ARRAY(A, partial, 2 * N * kThreads);
  const Place<N> place(cols, lanes);
  const int64_t part = (rows + gridDim.y - 1) / gridDim.y, begin = blockIdx.y * part;
  const int64_t end = min(begin + part, rows);
  A s[N] = {}, q[N] = {};
  if (!place.idle) {
    const auto columns = term.template columns<N>(place.col);
    for (int64_t row = begin + place.row; row < end; row += place.at_once)
      term.template add<N>(columns, row, place.col, s, q);
  }
  for (int k = 0; k < N; ++k) {
    partial[threadIdx.x * N + k] = s[k];
    partial[(kThreads + threadIdx.x) * N + k] = q[k];
  }
  __syncthreads();
  const int width = lanes * N;  // columns of the block
  const int64_t first = static_cast<int64_t>(blockIdx.x) * width;
  for (int i = threadIdx.x; i < 2 * width; i += kThreads) {
    const int which = i / width, c = i % width;
    if (first + c >= cols) continue;
    double total = 0;
    for (int r = 0; r < place.at_once; ++r) total += partial[which * kThreads * N + r * width + c];
    sums[(2 * static_cast<int64_t>(blockIdx.y) + which) * cols + first + c] = total;
  }
}

// finish(c, s, q) for the sums over all parts of column c. A warp a column.
template <typename Finish>
__global__ void finish_sums_kernel(const __grid_constant__ Finish finish, const double* sums,
                                   int64_t parts, int64_t cols) {
  const int lane = threadIdx.x % kWarp;
  for (int64_t c = first_element() / kWarp; c < cols; c += element_stride() / kWarp) {
    double s = 0, q = 0;
    for (int64_t k = lane; k < parts; k += kWarp) {
      s += sums[2 * k * cols + c];
      q += sums[(2 * k + 1) * cols + c];
    }
    s = warp_reduce(s, Add{});
    q = warp_reduce(q, Add{});
    if (lane == 0) finish(c, s, q);
  }
}
template <typename Finish>
void finish_sums(const Tensor& sums, Finish finish) {
  const int64_t cols = sums.dim(2);
  launch_for<finish_sums_kernel<Finish>>(sums, blocks_for(cols * kWarp), kThreads, 0, finish,
                                         sums.data<double>(), sums.dim(0), cols);
}

// Whether columns are moved 8 at a time: never by the naive twins, nor in f64.
template <typename... T>
bool in_wide_columns(int64_t cols, const T*... at) {
  return !(std::is_same_v<T, double> || ...) && kernel_choice() != KernelChoice::naive &&
         cols % kWide == 0 && aligned(at...);
}

// Both sums of each column, finished.
template <typename Term, typename Finish>
void channel_sums(const Tensor& x, bool wide, Term term, Finish finish) {
  constexpr int64_t kRowsEach = 8;
  const int64_t rows = x.rows(), cols = x.cols();
  const Cover c(rows, cols, wide ? kWide : 1, kRowsEach,
                kBlocksEach / 2 * enough_blocks());  // which are two a multiprocessor
  Tensor sums = Tensor::empty({static_cast<int64_t>(c.grid.y), 2, cols}, DType::f64, x.device());
  const auto run = [&]<int N>() {
    launch_for<channel_sums_kernel<N, Term>>(x, c.grid, kThreads, 0, term, rows, cols, c.lanes,
                                             sums.data<double>());
  };
  if constexpr (!std::is_same_v<typename Term::A, double>)
    if (wide) {
      run.template operator()<kWide>();
      return finish_sums(sums, finish);
    }
  run.template operator()<1>();
  finish_sums(sums, finish);
}

// body(columns, row, col) for all rows and every kWide columns. Block kThreads.
template <typename Body>
__global__ void __launch_bounds__(kThreads, kBlocksEach)
    map_columns_kernel(const __grid_constant__ Body body, int64_t rows, int64_t cols, int lanes) {
  const Place<kWide> place(cols, lanes);
  if (place.idle) return;
  const auto columns = body.columns(place.col);
  for (int64_t row = blockIdx.y * place.at_once + place.row; row < rows;
       row += gridDim.y * place.at_once)
    body(columns, row, place.col);
}
template <typename Body>
void map_columns(const Tensor& x, Body body) {
  const Cover c(x.rows(), x.cols(), kWide, 1, kMaxBlocks);
  launch_for<map_columns_kernel<Body>>(x, c.grid, kThreads, 0, body, x.rows(), x.cols(), c.lanes);
}

}  // namespace facet::cuda
