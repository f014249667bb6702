// Products of bf16 matrices on tensor cores, with f32 sums.
//
// A block's tile of the product wants, for 32 of k at a time, a tile of each factor in shared
// memory. Asynchronous copies of 16 bytes (a chunk: 8 neighbours along the factor's contiguous
// axis) fill them three steps ahead, in a ring of four. A tile lies as its factor does: rows of
// lines (the product's rows or columns) where k is contiguous, rows of k where lines are; ldmatrix
// brings both into the same fragments, plain or transposed. Chunks are swizzled: chunk c of row r
// lies where c ^ (r's place among the rows that span the 32 banks) would, so that the 8 rows that
// one matrix of ldmatrix reads, and the 8 neighbouring chunks that a quarter of a warp copies, are
// in different banks.
//
// A loader of chunks has kDepthContiguous, a Line and a Depth that it makes once a tile,
// line(batch, line), and once a step, depth(k), and find(line, depth, from): where their chunk
// begins, false where it is zeros. Lines and k beyond the factor may be asked for; what they find
// is not read.
#pragma once

#include "cuda/kernels/product.cuh"
#include "cuda/mma.cuh"

namespace facet::cuda {

constexpr int kChunk = 8;      // elements of 16 bytes
constexpr int kMmaDepth = 32;  // of k in one step
constexpr int kMmaStages = 4;

// A block's rows and columns of the product, and how many warps share each.
template <int M, int N, int WarpsM, int WarpsN>
struct MmaTile {
  static constexpr int m = M, n = N, warps_m = WarpsM, warps_n = WarpsN;
  static constexpr int threads = kWarp * WarpsM * WarpsN;
  static constexpr int stage = (M + N) * kMmaDepth;  // elements of both factors' tiles
  // Of the sums in shared memory: 8 columns more, so that a warp's pairs of f32 meet all banks.
  static constexpr int pitch = N + 8;
  // The ring of tiles, and afterwards the sums.
  static constexpr size_t shared_bytes =
      std::max(kMmaStages * stage * sizeof(bf16), M* pitch * sizeof(float));
};
struct LargeTile : MmaTile<128, 128, 2, 4> {};
struct SmallTile : MmaTile<64, 64, 2, 2> {};

// Where chunk `chunk` of row `row` begins in a tile whose rows are kChunks chunks long.
template <int kChunks>
__device__ __forceinline__ int swizzled(int row, int chunk) {
  constexpr int kSpan = kChunks < 8 ? kChunks : 8;  // 8 chunks span the banks
  return (row * kChunks + (chunk ^ (row / (8 / kSpan) % kSpan))) * kChunk;
}

// One factor as a block with kWorkers threads sees it: kLines lines from `first` on.
template <typename Load, int kLines, int kWorkers>
struct Factor {
  static constexpr bool kRowsAreLines = Load::kDepthContiguous;
  static constexpr int kChunks = (kRowsAreLines ? kMmaDepth : kLines) / kChunk;  // of a row
  static constexpr int kCopies = kLines * kMmaDepth / kChunk / kWorkers;         // of a thread
  static constexpr int kRowsBetween = kWorkers / kChunks;                        // two copies

  const Load& load;
  const int chunk, row;  // of the thread's first copy
  typename Load::Line lines[kRowsAreLines ? kCopies : 1];
  unsigned inside = 0;  // a bit for each line

  __device__ Factor(const Load& from, int64_t batch, int first, int count)
      : load(from),
        chunk(static_cast<int>(threadIdx.x) % kChunks),
        row(static_cast<int>(threadIdx.x) / kChunks) {
    for (int i = 0; i < (kRowsAreLines ? kCopies : 1); ++i) {
      const int line = first + (kRowsAreLines ? row + i * kRowsBetween : chunk * kChunk);
      lines[i] = load.line(batch, line);
      if (line < count) inside |= 1u << i;
    }
  }

  // Begins to copy k in [k0, k0 + 32), as far as it is less than `end`.
  __device__ __forceinline__ void copy(bf16* tile, int k0, int end) const {
    for (int i = 0; i < kCopies; ++i) {
      const int to = row + i * kRowsBetween, line = kRowsAreLines ? i : 0;
      const int k = k0 + (kRowsAreLines ? chunk * kChunk : to);
      const bf16* from = nullptr;
      const bool there = load.find(lines[line], load.depth(k), from);
      copy_async(tile + swizzled<kChunks>(to, chunk), from,
                 there && inside >> line & 1u && k < end);
    }
  }

  // Where the calling lane reads for fragment(line, 0). Of the four matrices of 8 lines and 8 of k,
  // mma() takes those with the second lines before those with the second k of its left factor, and
  // the other way round of its right one.
  __device__ static int fragments_at(bool left, int line) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, matrix = lane / 8;
    const int second_line = left ? matrix % 2 : matrix / 2;
    const int second_k = left ? matrix / 2 : matrix % 2;
    return kRowsAreLines ? swizzled<kChunks>(line + second_line * 8 + lane % 8, second_k)
                         : swizzled<kChunks>(second_k * 8 + lane % 8, line / kChunk + second_line);
  }
  // 16 lines, `lines` beyond the one of `at`, and 16 of k from k on. `lines` and k are multiples of
  // 16 that have no bit in common with that line and with 0: along a row they are added by XOR,
  // which leaves the swizzle as it is.
  __device__ __forceinline__ static void fragment(unsigned (&to)[4], const bf16* ring, int at,
                                                  int lines, int k) {
    if (kRowsAreLines)
      load_matrices(to, ring + (at ^ k) + lines * kChunks * kChunk);
    else
      load_matrices_transposed(to, ring + (at ^ lines) + k * kChunks * kChunk);
  }
};

// Grid and splits as split_gemm says, block Tile::threads, dynamic shared Tile::shared_bytes (68
// KiB for the large tile, 32 KiB for the small one). A warp multiplies 64 x 32 of the large tile,
// 32 x 32 of the small one. At most 128 registers a thread and none spilled, so that two large or
// four small blocks share a multiprocessor. `by_four`: out.takes(4), and n is a multiple of it.
template <typename Tile, typename LoadA, typename LoadB>
__global__ void __launch_bounds__(Tile::threads, 512 / Tile::threads)
    mma_gemm_kernel(const __grid_constant__ GemmShape s, const __grid_constant__ LoadA load_a,
                    const __grid_constant__ LoadB load_b, int splits, int depth, bool by_four,
                    const __grid_constant__ Output<bf16> out) {
  constexpr int kRows = Tile::m / Tile::warps_m, kCols = Tile::n / Tile::warps_n;  // of a warp
  constexpr int kDown = kRows / 16, kAcross = kCols / 8;
  constexpr int kTileA = Tile::m * kMmaDepth;
  using FactorA = Factor<LoadA, Tile::m, Tile::threads>;
  using FactorB = Factor<LoadB, Tile::n, Tile::threads>;

  const int m = static_cast<int>(s.m), n = static_cast<int>(s.n);
  const unsigned across = (static_cast<unsigned>(n) + Tile::n - 1) / Tile::n;
  const unsigned tiles = across * ((static_cast<unsigned>(m) + Tile::m - 1) / Tile::m);
  const unsigned product = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  const int top = static_cast<int>(tile / across) * Tile::m;
  const int left = static_cast<int>(tile % across) * Tile::n;
  const int begin = static_cast<int>(product) % splits * depth;
  const int end = min(begin + depth, static_cast<int>(s.k));
  const FactorA a(load_a, product / splits, top, m);
  const FactorB b(load_b, product / splits, left, n);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int row = warp / Tile::warps_n * kRows, col = warp % Tile::warps_n * kCols;

  bf16* const ring = dynamic_shared<bf16>();
  const auto stage = [&](int k) {
    return static_cast<int>(static_cast<unsigned>(k) / kMmaDepth % kMmaStages) * Tile::stage;
  };
  const auto fetch = [&](int k) {
    if (k < end) {
      a.copy(ring + stage(k), k, end);
      b.copy(ring + stage(k) + kTileA, k, end);
    }
    commit_copies();  // an empty group counts, too
  };
  constexpr int kAhead = (kMmaStages - 1) * kMmaDepth;
  for (int k = begin; k < begin + kAhead; k += kMmaDepth) fetch(k);

  const int at_a = FactorA::fragments_at(true, row);
  const int at_b = FactorB::fragments_at(false, col) + kTileA;
  float sums[kDown][kAcross][4] = {};
  for (int k0 = begin; k0 < end; k0 += kMmaDepth) {
    wait_copies<kMmaStages - 2>();
    __syncthreads();  // this step's tiles are there, and the last one's are read
    fetch(k0 + kAhead);
    for (int k = 0; k < kMmaDepth; k += 16) {
      unsigned of_b[kAcross / 2][4];
      for (int j = 0; j < kAcross / 2; ++j)
        FactorB::fragment(of_b[j], ring, stage(k0) + at_b, j * 16, k);
      for (int i = 0; i < kDown; ++i) {
        unsigned of_a[4];
        FactorA::fragment(of_a, ring, stage(k0) + at_a, i * 16, k);
        for (int j = 0; j < kAcross; ++j)
          mma(sums[i][j], of_a, {of_b[j / 2][j % 2 * 2], of_b[j / 2][j % 2 * 2 + 1]});
      }
    }
  }

  // By way of shared memory, so that neighbouring threads write neighbouring columns.
  wait_copies<0>();
  __syncthreads();
  float* const rows = dynamic_shared<float>();
  for (int i = 0; i < kDown; ++i)
    for (int j = 0; j < kAcross; ++j)
      for (int h = 0; h < 2; ++h)
        Vec<float, 2>{sums[i][j][2 * h], sums[i][j][2 * h + 1]}.store(
            rows + (row + i * 16 + h * 8 + lane / 4) * Tile::pitch + col + j * 8 + lane % 4 * 2);
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x) * 4; i < Tile::m * Tile::n; i += 4 * Tile::threads) {
    const int r = i / Tile::n, c = i % Tile::n;
    if (top + r >= m || left + c >= n) continue;
    const auto four = Vec<float, 4>::load(rows + r * Tile::pitch + c);
    if (by_four) {
      out.store(product, top + r, left + c, four);
    } else {
      for (int h = 0; h < min(4, n - left - c); ++h)
        out.store(product, top + r, left + c + h, Vec<float, 1>{four[h]});
    }
  }
}

// Chunks of batched matrices: line i begins at data + batch * batch_stride + i * pitch where k is
// contiguous; else k does so at k * pitch.
template <bool DepthContiguous>
struct MatrixChunks {
  static constexpr bool kDepthContiguous = DepthContiguous;
  using Line = const bf16*;
  using Depth = int;
  const bf16* data;
  int64_t batch_stride;
  int pitch;
  __device__ Line line(int64_t batch, int at) const {
    return data + batch * batch_stride + (DepthContiguous ? int64_t{at} * pitch : at);
  }
  __device__ Depth depth(int k) const { return k; }
  __device__ bool find(Line line, Depth k, const bf16*& from) const {
    from = line + (DepthContiguous ? k : int64_t{k} * pitch);
    return true;
  }
};

// Whether the kernel's 32-bit indices reach everything.
inline bool fits_mma(const GemmShape& s) {
  return std::max({s.m, s.n, s.k}) < int64_t{1} << 30;
}

template <typename LoadA, typename LoadB>
void mma_gemm(const Tensor& where, const GemmShape& s, const LoadA& a, const LoadB& b,
              const Output<bf16>& out) {
  const auto run = [&]<typename Tile>(Tile) {
    split_gemm(where, s, Tile::m, Tile::n, kMmaDepth, out,
               [&](dim3 grid, int splits, int64_t depth, const Output<bf16>& to) {
                 launch_for<mma_gemm_kernel<Tile, LoadA, LoadB>>(
                     where, grid, Tile::threads, Tile::shared_bytes, s, a, b, splits,
                     static_cast<int>(depth), s.n % 4 == 0 && to.takes(4), to);
               });
  };
  // Large tiles read a factor half as often; small ones leave fewer multiprocessors idle.
  const int64_t large = pieces_of(s.m, LargeTile::m) * pieces_of(s.n, LargeTile::n) * s.batch *
                        std::max<int64_t>(1, pieces_of(s.k, kLeastDepth));
  if (s.m > SmallTile::m && s.n > SmallTile::n && large >= enough_blocks() / 2)
    run(LargeTile{});
  else
    run(SmallTile{});
}

}  // namespace facet::cuda
