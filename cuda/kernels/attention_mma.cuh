// Attention of bf16 heads on tensor cores, with f32 sums.
//
// A block has 64 rows of its own (queries, or keys and values), a warp 16 of them, and walks over
// the other side's rows in tiles of 64, which asynchronous copies bring one tile ahead. A warp's
// own rows are fragments in registers from the start. Scores are made 16 own rows at a time with
// the other side's across, so that a lane's sums of two neighbouring products are, rounded to bf16,
// the left fragment of the next product: they never leave the registers.
//
// Tiles lie as rows of kD elements, swizzled as in mma_gemm.cuh. ldmatrix reads one tile both ways:
// plain where its rows are columns of scores, transposed where they are what is added up.
#pragma once

#include "cuda/kernels/attention.cuh"
#include "cuda/kernels/mma_gemm.cuh"

namespace facet::cuda {

constexpr int kMmaRows = 64;      // of a tile
constexpr int kMmaThreads = 128;  // 16 rows a warp
constexpr int kMmaMaxDim = 128;   // of a head
constexpr float kLog2e = 1.4426950408889634f;

// Tiles of heads that have at most kD elements, 32, 64 or 128; what a head lacks is zeros.
template <int kD>
struct HeadTile {
  static constexpr int kChunks = kD / kChunk;
  static constexpr int elements = kMmaRows * kD;

  // Begins to copy rows [first, first + 64) of those that begin at `from`, `pitch` apart.
  __device__ static void copy(bf16* tile, const bf16* from, int pitch, int first, int tokens,
                              int dim) {
    const int thread = static_cast<int>(threadIdx.x);
    const int chunk = thread % kChunks;
    for (int i = 0; i < kMmaRows * kChunks / kMmaThreads; ++i) {
      const int row = thread / kChunks + i * (kMmaThreads / kChunks);
      copy_async(tile + swizzled<kChunks>(row, chunk),
                 from + (first + row) * pitch + chunk * kChunk,
                 first + row < tokens && chunk * kChunk < dim);
    }
  }

  // Where the calling lane reads the four matrices of 16 rows and 16 elements: the second one is 8
  // rows further, or 8 elements. Multiples of 16 elements are added to either by XOR, of 16 rows by
  // +.
  __device__ static int rows_first(int row) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    return swizzled<kChunks>(row + lane % 16, lane / 16);
  }
  __device__ static int elements_first() {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    return swizzled<kChunks>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
  }

  // A warp's own 16 rows as the left factor: kept in registers, or read from shared memory each
  // time.
  template <bool kKept>
  struct Own {
    const bf16* tile;
    int at;
    unsigned kept[kKept ? kD / 16 : 1][4];

    __device__ Own(const bf16* from, int first) : tile(from), at(rows_first(first)) {
      if constexpr (kKept)
        for (int k = 0; k < kD; k += 16) load_matrices(kept[k / 16], tile + (at ^ k));
    }
    __device__ __forceinline__ void read(unsigned (&to)[4], int k) const {
      if constexpr (kKept)
        for (int i = 0; i < 4; ++i) to[i] = kept[k / 16][i];
      else
        load_matrices(to, tile + (at ^ k));
    }
  };

  // scores (16, 8 kAcross) += own rows times rows [first, first + 8 kAcross) of the tile.
  template <int kAcross, bool kKept>
  __device__ __forceinline__ static void multiply(float (&scores)[kAcross][4],
                                                  const Own<kKept>& own, const bf16* tile,
                                                  int first) {
    const int at = elements_first();
    for (int k = 0; k < kD; k += 16) {
      unsigned left[4];
      own.read(left, k);
      for (int j = 0; j < kAcross; j += 2) {
        unsigned rows[4];
        load_matrices(rows, tile + (at ^ k) + (first + j * 8) * kD);
        mma(scores[j], left, {rows[0], rows[1]});
        mma(scores[j + 1], left, {rows[2], rows[3]});
      }
    }
  }

  // sums (16, kD) += weights (16, 8 kAcross), rounded, times rows [first, first + 8 kAcross).
  template <int kAcross>
  __device__ __forceinline__ static void add(float (&sums)[kD / 8][4],
                                             const float (&weights)[kAcross][4], const bf16* tile,
                                             int first) {
    const int at = rows_first(0);
    for (int j = 0; j < kAcross; j += 2) {
      const float(&low)[4] = weights[j], (&high)[4] = weights[j + 1];
      const unsigned left[4] = {pack_bf16(low[0], low[1]), pack_bf16(low[2], low[3]),
                                pack_bf16(high[0], high[1]), pack_bf16(high[2], high[3])};
      for (int c = 0; c < kD; c += 16) {
        unsigned rows[4];
        load_matrices_transposed(rows, tile + (at ^ c) + (first + j * 8) * kD);
        mma(sums[c / 8], left, {rows[0], rows[1]});
        mma(sums[c / 8 + 1], left, {rows[2], rows[3]});
      }
    }
  }

  // to = factors[0] sums for the first 8 of a warp's 16 rows, factors[1] sums for the others, by
  // way of these rows of a tile that the warp is done with, so that lanes write 16 bytes each. Row
  // `row` of the tile is row first + row of `to`.
  __device__ static void store(bf16* tile, const float (&sums)[kD / 8][4],
                               const float (&factors)[2], bf16* to, int64_t pitch, int row,
                               int first, int tokens, int dim) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    for (int c = 0; c < kD / 8; ++c)
      for (int h = 0; h < 2; ++h)
        *reinterpret_cast<unsigned*>(tile + swizzled<kChunks>(row + h * 8 + lane / 4, c) +
                                     lane % 4 * 2) =
            pack_bf16(factors[h] * sums[c][2 * h], factors[h] * sums[c][2 * h + 1]);
    __syncwarp();
    const int chunk = lane % kChunks;
    for (int i = lane / kChunks; i < 16; i += kWarp / kChunks)
      if (first + row + i < tokens && chunk * kChunk < dim)
        Vec<bf16, 8>::load(tile + swizzled<kChunks>(row + i, chunk))
            .store(to + (first + row + i) * pitch + chunk * kChunk);
  }
};

// Over the four lanes that hold a row of scores.
template <typename Op>
__device__ float across_lanes(float value, Op op) {
  value = op(value, shuffle_xor(value, 1));
  return op(value, shuffle_xor(value, 2));
}

// y and lse = of 64 queries. Grid: tiles of queries within heads, block 128, dynamic shared memory
// 5 tiles of 64 x kD bf16: 40 KiB for kD 64. D at most kD and a multiple of 8, pointers multiples
// of 16, scale > 0.
template <int kD>
__global__ void __launch_bounds__(kMmaThreads, kD > 64 ? 2 : 4)
    attention_mma_kernel(const __grid_constant__ Packed<bf16> p, bf16* y, float* lse) {
  using Tile = HeadTile<kD>;
  bf16 *const mine = dynamic_shared<bf16>(), *const ring = mine + Tile::elements;
  const int tokens = static_cast<int>(p.tokens), dim = static_cast<int>(p.dim);
  const unsigned tiles = tiles_of(tokens, kMmaRows);
  const int first = static_cast<int>(blockIdx.x % tiles) * kMmaRows;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int row = static_cast<int>(threadIdx.x) / kWarp * 16;
  const int64_t index = blockIdx.x / tiles;
  const int out_pitch = static_cast<int>(p.heads) * dim, pitch = 3 * out_pitch;
  const auto stage = [&](int key) { return ring + key / kMmaRows % 2 * 2 * Tile::elements; };
  const auto fetch = [&](int key) {
    if (key < tokens) {
      Tile::copy(stage(key), p.qkv + p.at(1, index, 0), pitch, key, tokens, dim);
      Tile::copy(stage(key) + Tile::elements, p.qkv + p.at(2, index, 0), pitch, key, tokens, dim);
    }
    commit_copies();
  };
  Tile::copy(mine, p.qkv + p.at(0, index, 0), pitch, first, tokens, dim);
  commit_copies();
  fetch(0);
  wait_copies<1>();
  __syncthreads();
  // For kD 64 registers are worth more than loads: four blocks share a multiprocessor.
  const typename Tile::template Own<(kD != 64)> queries(mine, row);

  // Element 2 h + i of a sum is in row lane / 4 + 8 h. Scores are scaled inside the exponent.
  const float scale = p.scale * kLog2e;
  float out[kD / 8][4] = {}, sums[2] = {};
  float largest[2] = {-std::numeric_limits<float>::infinity(),
                      -std::numeric_limits<float>::infinity()};
  for (int key = 0; key < tokens; key += kMmaRows) {
    wait_copies<0>();
    __syncthreads();  // this tile is there, and the last one is read
    fetch(key + kMmaRows);
    if (first + row >= tokens) continue;  // a warp without queries only copies
    float scores[kMmaRows / 8][4] = {};
    Tile::multiply(scores, queries, stage(key), 0);
    if (key + kMmaRows > tokens)
      for (int j = 0; j < kMmaRows / 8; ++j)
        for (int i = 0; i < 4; ++i)
          if (key + j * 8 + lane % 4 * 2 + i % 2 >= tokens)
            scores[j][i] = -std::numeric_limits<float>::infinity();
    for (int h = 0; h < 2; ++h) {
      float highest = largest[h];
      for (int j = 0; j < kMmaRows / 8; ++j)
        highest = std::fmax(highest, std::fmax(scores[j][2 * h], scores[j][2 * h + 1]));
      // Finite: the first key of a tile exists. A NaN comes back with the sum.
      highest = across_lanes(highest, [](float a, float b) { return std::fmax(a, b); });
      const float shrink = exp2_fast(scale * (largest[h] - highest));
      largest[h] = highest;
      sums[h] *= shrink;
      for (int j = 0; j < kMmaRows / 8; ++j)
        for (int i = 2 * h; i < 2 * h + 2; ++i) {
          scores[j][i] = exp2_fast(scale * scores[j][i] - scale * highest);
          sums[h] += scores[j][i];
        }
      for (int c = 0; c < kD / 8; ++c)
        for (int i = 2 * h; i < 2 * h + 2; ++i) out[c][i] *= shrink;
    }
    Tile::add(out, scores, stage(key) + Tile::elements, 0);
  }

  float factors[2];
  for (int h = 0; h < 2; ++h) {
    const float sum = across_lanes(sums[h], Add{});
    factors[h] = 1 / sum;
    const int query = first + row + h * 8 + lane / 4;
    if (query < tokens && lane % 4 == 0)
      lse[index * tokens + query] = p.scale * largest[h] + std::log(sum);
  }
  Tile::store(mine, out, factors, y + p.out_at(index, 0), out_pitch, row, first, tokens, dim);
}

// delta = dy . y of each query: kLanes lanes a query, 16 bytes at a time. Grid:
// blocks_for(kLanes queries).
template <int kLanes>
__global__ void delta_mma_kernel(const __grid_constant__ Packed<bf16> p, const bf16* y,
                                 const bf16* dy, int64_t queries, float* delta) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int64_t base = (first_element() - lane) / kLanes; base < queries;
       base += element_stride() / kLanes) {
    const int64_t query = base + lane / kLanes;
    float sum = 0;
    if (query < queries) {
      const int64_t at = p.out_at(query / p.tokens, query % p.tokens);
      for (int64_t c = lane % kLanes * kChunk; c < p.dim; c += kLanes * kChunk) {
        const auto a = Vec<bf16, kChunk>::load(y + at + c),
                   b = Vec<bf16, kChunk>::load(dy + at + c);
        for (int k = 0; k < kChunk; ++k) sum += widen(a[k]) * widen(b[k]);
      }
    }
    for (int distance = kLanes / 2; distance > 0; distance /= 2) sum += shuffle_xor(sum, distance);
    if (query < queries && lane % kLanes == 0) delta[query] = sum;
  }
}

// Gradients = of 64 queries (`of_keys` false) or of 64 keys and values. Grid: tiles within heads,
// block 128, dynamic shared memory 6 tiles of 64 x kD bf16, for keys also 2 of lse and delta: 48 or
// 49 KiB for kD 64. D, pointers and scale as above.
template <int kD, bool of_keys>
__global__ void __launch_bounds__(kMmaThreads, kD > 64 ? 2 : 3)
    attention_backward_mma_kernel(const __grid_constant__ AttentionGradient<bf16> a) {
  using Tile = HeadTile<kD>;
  // As much as registers hold: eights of the other rows at a time, and whether own rows are kept.
  constexpr int kAcross = kD > (of_keys ? 32 : 64) ? 2 : 4;
  constexpr bool kKept = kD <= 64 || !of_keys;
  const Packed<bf16>& p = a.p;
  // Queries go with dy, keys with values: score = query . key, d prob = dy . value.
  bf16 *const mine = dynamic_shared<bf16>(), *const mine_grad = mine + Tile::elements;
  bf16* const ring = mine_grad + Tile::elements;
  float* const rows = reinterpret_cast<float*>(ring + 4 * Tile::elements);
  const int tokens = static_cast<int>(p.tokens), dim = static_cast<int>(p.dim);
  const unsigned tiles = tiles_of(tokens, kMmaRows);
  const int first = static_cast<int>(blockIdx.x % tiles) * kMmaRows;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  const int row = thread / kWarp * 16;
  const int64_t index = blockIdx.x / tiles;
  const int out_pitch = static_cast<int>(p.heads) * dim, pitch = 3 * out_pitch;
  const auto copy_queries = [&](bf16* to, int from) {
    Tile::copy(to, p.qkv + p.at(0, index, 0), pitch, from, tokens, dim);
    Tile::copy(to + Tile::elements, a.dy + p.out_at(index, 0), out_pitch, from, tokens, dim);
  };
  const auto copy_keys = [&](bf16* to, int from) {
    Tile::copy(to, p.qkv + p.at(1, index, 0), pitch, from, tokens, dim);
    Tile::copy(to + Tile::elements, p.qkv + p.at(2, index, 0), pitch, from, tokens, dim);
  };
  const auto stage = [&](int met) { return met / kMmaRows % 2; };
  const auto fetch = [&](int met) {
    bf16* const to = ring + stage(met) * 2 * Tile::elements;
    if (met < tokens) {
      if constexpr (of_keys)
        copy_queries(to, met);
      else
        copy_keys(to, met);
    }
    commit_copies();
  };
  // Of a query, for powers of 2; beyond the last one, where every weight is 0.
  const auto lse_of = [&](int query) {
    return query < tokens ? kLog2e * a.lse[index * tokens + query]
                          : std::numeric_limits<float>::infinity();
  };
  const auto delta_of = [&](int query) {
    return query < tokens ? a.delta[index * tokens + query] : 0.0f;
  };
  // lse and delta of the tile's queries, one a thread.
  const auto row_of = [&](int met) {
    return thread < kMmaRows ? lse_of(met + thread) : delta_of(met + thread - kMmaRows);
  };

  if constexpr (of_keys)
    copy_keys(mine, first);
  else
    copy_queries(mine, first);
  commit_copies();
  fetch(0);
  float lse[2] = {}, delta[2] = {};
  if constexpr (of_keys) {
    rows[thread] = row_of(0);
  } else {
    for (int h = 0; h < 2; ++h) {
      lse[h] = lse_of(first + row + h * 8 + lane / 4);
      delta[h] = delta_of(first + row + h * 8 + lane / 4);
    }
  }
  wait_copies<1>();
  __syncthreads();
  const typename Tile::template Own<kKept> own(mine, row), own_grad(mine_grad, row);

  const float scale = p.scale * kLog2e;
  float grad[kD / 8][4] = {}, value_grad[of_keys ? kD / 8 : 1][4] = {};
  for (int met = 0; met < tokens; met += kMmaRows) {
    wait_copies<0>();
    __syncthreads();  // this tile is there, and the last one is read
    fetch(met + kMmaRows);
    float next = 0;  // comes while this tile is worked on
    if constexpr (of_keys) next = row_of(met + kMmaRows);
    const bf16* const other = ring + stage(met) * 2 * Tile::elements;
    const bf16* const other_grad = other + Tile::elements;
    // What lies beyond the last row is left out; a warp without rows only copies. Besides, a bound
    // that only the run knows keeps the loop from being unrolled, which would take more registers.
    const int count = first + row < tokens ? min(kMmaRows, tokens - met) : 0;
    for (int from = 0; from < count; from += 8 * kAcross) {
      float probs[kAcross][4] = {}, slopes[kAcross][4] = {};
      Tile::multiply(probs, own, other, from);
      Tile::multiply(slopes, own_grad, other_grad, from);
      for (int j = 0; j < kAcross; ++j) {
        const int col = from + j * 8 + lane % 4 * 2;
        Vec<float, 2> of_lse, of_delta;
        if constexpr (of_keys) {
          of_lse = Vec<float, 2>::load(rows + stage(met) * kMmaThreads + col);
          of_delta = Vec<float, 2>::load(rows + stage(met) * kMmaThreads + kMmaRows + col);
        }
        for (int i = 0; i < 4; ++i) {
          const float shift = of_keys ? of_lse[i % 2] : lse[i / 2];
          const bool beyond = !of_keys && met + col + i % 2 >= tokens;
          probs[j][i] = beyond ? 0.0f : exp2_fast(scale * probs[j][i] - shift);
          slopes[j][i] = probs[j][i] * (slopes[j][i] - (of_keys ? of_delta[i % 2] : delta[i / 2]));
        }
      }
      Tile::add(grad, slopes, other, from);
      if constexpr (of_keys) Tile::add(value_grad, probs, other_grad, from);
    }
    if constexpr (of_keys) rows[stage(met + kMmaRows) * kMmaThreads + thread] = next;
  }

  Tile::store(mine, grad, {p.scale, p.scale}, a.dqkv + p.at(of_keys ? 1 : 0, index, 0), pitch, row,
              first, tokens, dim);
  if constexpr (of_keys)
    Tile::store(mine_grad, value_grad, {1.0f, 1.0f}, a.dqkv + p.at(2, index, 0), pitch, row, first,
                tokens, dim);
}

// Whether the kernels above take p; other tensors must be aligned(), too.
inline bool takes_mma(const Packed<bf16>& p) {
  return p.dim % kChunk == 0 && p.dim <= kMmaMaxDim &&
         p.tokens * 3 * p.heads * p.dim < int64_t{1} << 30 && p.scale > 0 && aligned(p.qkv);
}

namespace detail {
// f(the smallest kD that holds dim)
template <typename F>
void with_head_tile(int64_t dim, const F& f) {
  if (dim <= 32)
    f(std::integral_constant<int, 32>{});
  else if (dim <= 64)
    f(std::integral_constant<int, 64>{});
  else
    f(std::integral_constant<int, kMmaMaxDim>{});
}
template <int kD>
constexpr size_t mma_shared_bytes(int tiles, int rows) {
  return static_cast<size_t>(tiles) * HeadTile<kD>::elements * sizeof(bf16) +
         static_cast<size_t>(rows) * kMmaThreads * sizeof(float);
}
}  // namespace detail

inline void mma_attention(const Tensor& qkv, const Packed<bf16>& p, bf16* y, float* lse) {
  detail::with_head_tile(p.dim, [&](auto dim) {
    launch_for<attention_mma_kernel<dim()>>(qkv, blocks_for_heads(qkv, kMmaRows), kMmaThreads,
                                            detail::mma_shared_bytes<dim()>(5, 0), p, y, lse);
  });
}

// `delta` is a's, to be written.
inline void mma_attention_backward(const Tensor& qkv, const AttentionGradient<bf16>& a,
                                   const bf16* y, float* delta) {
  const int64_t queries = qkv.dim(0) * qkv.dim(1) * qkv.dim(3);
  launch_for<delta_mma_kernel<8>>(qkv, blocks_for(8 * queries), kThreads, 0, a.p, y, a.dy, queries,
                                  delta);
  detail::with_head_tile(a.p.dim, [&](auto dim) {
    const dim3 tiles = blocks_for_heads(qkv, kMmaRows);
    launch_for<attention_backward_mma_kernel<dim(), false>>(
        qkv, tiles, kMmaThreads, detail::mma_shared_bytes<dim()>(6, 0), a);
    launch_for<attention_backward_mma_kernel<dim(), true>>(
        qkv, tiles, kMmaThreads, detail::mma_shared_bytes<dim()>(6, 2), a);
  });
}

}  // namespace facet::cuda
