// Scaled dot-product attention of packed queries, keys and values (B, T, 3, H, D), after Dao et al.
// 2022, "FlashAttention": scores never leave a block, the softmax is corrected as larger scores
// come, and the backward makes the scores again from lse. No sum crosses blocks, so results are the
// same every time. Heads of bf16 go to the tensor cores (attention_mma.cuh) where their rows come
// in chunks of 16 bytes; f32, f64 and other heads to the tiles below.
#include "cuda/kernels/attention_mma.cuh"

namespace facet {

using namespace cuda;

namespace {

constexpr int kTile = 32;                          // queries, and keys, of a tile
constexpr int kRowThreads = kThreads / kTile;      // threads that share a row: neighbours
constexpr int kMaxDim = 128;                       // of a head, on the tiled kernels
constexpr int kPerThread = kMaxDim / kRowThreads;  // elements of a row, at most
constexpr int kScores = kTile / kRowThreads;       // scores of a row

// ---- the naive twins: a thread for each element, scores computed again and again

template <typename T>
struct NaiveLse {
  Packed<T> p;
  acc_t<T>* lse;
  __device__ void operator()(int64_t i) const {
    using A = acc_t<T>;
    const int64_t index = i / p.tokens, query = i % p.tokens;
    A largest = p.score(index, query, 0), sum = 0;
    for (int64_t k = 1; k < p.tokens; ++k) largest = Max{}(largest, p.score(index, query, k));
    for (int64_t k = 0; k < p.tokens; ++k) sum += std::exp(p.score(index, query, k) - largest);
    lse[i] = largest + std::log(sum);
  }
};
template <typename T>
struct NaiveAttention {
  Packed<T> p;
  const acc_t<T>* lse;
  T* y;
  __device__ void operator()(int64_t i) const {
    const int64_t c = i % p.dim, query = i / p.dim % p.tokens, index = i / (p.dim * p.tokens);
    acc_t<T> sum = 0;
    for (int64_t k = 0; k < p.tokens; ++k)
      sum += std::exp(p.score(index, query, k) - lse[index * p.tokens + query]) *
             widen(p.qkv[p.at(2, index, k) + c]);
    y[p.out_at(index, query) + c] = static_cast<T>(sum);
  }
};
template <typename T>
struct Delta {  // dy . y of each query
  Packed<T> p;
  const T *y, *dy;
  acc_t<T>* delta;
  __device__ void operator()(int64_t i) const {
    const int64_t at = p.out_at(i / p.tokens, i % p.tokens);
    delta[i] = p.dot(dy + at, y + at);
  }
};
template <typename T>
struct NaiveAttentionBackward {
  Packed<T> p;
  const T* dy;
  const acc_t<T>*lse, *delta;
  T* dqkv;
  __device__ void operator()(int64_t i) const {
    using A = acc_t<T>;
    const int64_t c = i % p.dim, t = i / p.dim % p.tokens, index = i / (p.dim * p.tokens) / 3;
    const int part = static_cast<int>(i / (p.dim * p.tokens) % 3);
    A sum = 0;
    for (int64_t other = 0; other < p.tokens; ++other) {
      const int64_t query = part == 0 ? t : other, key = part == 0 ? other : t;
      const int64_t row = index * p.tokens + query, out = p.out_at(index, query);
      const A prob = std::exp(p.score(index, query, key) - lse[row]);
      if (part == 2) {
        sum += prob * widen(dy[out + c]);
        continue;
      }
      const A dprob = p.dot(dy + out, p.qkv + p.at(2, index, key));
      const int64_t factor = part == 0 ? p.at(1, index, key) : p.at(0, index, query);
      sum += p.scale * prob * (dprob - delta[row]) * widen(p.qkv[factor + c]);
    }
    dqkv[p.at(part, index, t) + c] = static_cast<T>(sum);
  }
};

// ---- tiles of 32 x 32 scores. Block 256: eight neighbouring threads share a row, each with every
// eighth column. Dynamic shared memory: tiles of 32 x (D + 1), then one of scores, 32 x 33.

template <typename A>
struct Tiles {
  A* memory;
  int64_t pitch;  // D + 1, so that neighbouring rows lie in different banks
  __device__ A* tile(int i) const { return memory + i * kTile * pitch; }
  __device__ A* scores(int tiles, int i) const { return tile(tiles) + i * kTile * (kTile + 1); }
};
inline int64_t shared_elements(int64_t dim, int tiles, int scores) {
  return tiles * kTile * (dim + 1) + scores * kTile * (kTile + 1);
}

// Rows [first, first + 32) of `from`, zeros beyond the last; row_at(t) is where row t begins.
template <typename T, typename RowAt>
__device__ void load_tile(const T* from, RowAt row_at, int64_t first, int64_t tokens, int64_t dim,
                          int64_t pitch, acc_t<T>* to) {
  for (int64_t i = threadIdx.x; i < kTile * dim; i += kThreads) {
    const int64_t row = i / dim, c = i % dim;
    to[row * pitch + c] = first + row < tokens ? widen(from[row_at(first + row) + c]) : acc_t<T>(0);
  }
}
template <typename A>
__device__ A row_dot(const A* a, const A* b, int64_t dim) {
  A sum = 0;
  for (int64_t i = 0; i < dim; ++i) sum += a[i] * b[i];
  return sum;
}
// Over the eight threads of a row.
template <typename A, typename Op>
__device__ A across_row(A value, Op op) {
  for (int distance = kRowThreads / 2; distance > 0; distance /= 2)
    value = op(value, shuffle_xor(value, distance));
  return value;
}

// y and lse of 32 queries. Grid: tiles of queries within heads, B * H of them.
template <typename T>
__global__ void __launch_bounds__(kThreads, 4)
    attention_kernel(const __grid_constant__ Packed<T> p, T* y, acc_t<T>* lse) {
  using A = acc_t<T>;
  const Tiles<A> shared{dynamic_shared<A>(), p.dim + 1};
  A *const q = shared.tile(0), *const k = shared.tile(1), *const v = shared.tile(2);
  const int row = threadIdx.x / kRowThreads, lane = threadIdx.x % kRowThreads;
  A* const mine = shared.scores(3, 0) + row * (kTile + 1);
  const unsigned tiles = tiles_of(p.tokens, kTile);
  const int64_t index = blockIdx.x / tiles, first = int64_t{blockIdx.x % tiles} * kTile;
  load_tile(
      p.qkv, [&](int64_t t) { return p.at(0, index, t); }, first, p.tokens, p.dim, shared.pitch, q);
  A largest = -std::numeric_limits<A>::infinity(), sum = 0;
  A out[kPerThread] = {};
  for (int64_t key = 0; key < p.tokens; key += kTile) {
    __syncthreads();
    load_tile(
        p.qkv, [&](int64_t t) { return p.at(1, index, t); }, key, p.tokens, p.dim, shared.pitch, k);
    load_tile(
        p.qkv, [&](int64_t t) { return p.at(2, index, t); }, key, p.tokens, p.dim, shared.pitch, v);
    __syncthreads();
    A scores[kScores], highest = largest;
    for (int i = 0; i < kScores; ++i) {
      const int col = lane + i * kRowThreads;
      scores[i] = key + col < p.tokens
                      ? p.scale * row_dot(q + row * shared.pitch, k + col * shared.pitch, p.dim)
                      : -std::numeric_limits<A>::infinity();
      highest = Max{}(highest, scores[i]);
    }
    highest = across_row(highest, Max{});  // finite: the first key of a tile exists
    const A shrink = std::exp(largest - highest);
    A added = 0;
    for (int i = 0; i < kScores; ++i) {
      const A prob = std::exp(scores[i] - highest);
      mine[lane + i * kRowThreads] = prob;
      added += prob;
    }
    sum = sum * shrink + across_row(added, Add{});
    largest = highest;
    __syncwarp();
    for (int d = 0; d < kPerThread; ++d) {
      const int64_t c = lane + d * kRowThreads;
      if (c >= p.dim) break;
      A total = out[d] * shrink;
      for (int i = 0; i < kTile; ++i) total += mine[i] * v[i * shared.pitch + c];
      out[d] = total;
    }
  }
  const int64_t query = first + row;
  if (query >= p.tokens) return;
  for (int d = 0; d < kPerThread; ++d)
    if (const int64_t c = lane + d * kRowThreads; c < p.dim)
      y[p.out_at(index, query) + c] = static_cast<T>(out[d] / sum);
  if (lane == 0) lse[index * p.tokens + query] = largest + std::log(sum);
}

// Gradients of 32 queries (`of_keys` false) or of 32 keys and values: the block walks over the
// other side's tiles. Grid: tiles within heads.
template <typename T, bool of_keys>
__global__ void attention_backward_kernel(const __grid_constant__ AttentionGradient<T> a) {
  using A = acc_t<T>;
  const Packed<T>& p = a.p;
  const Tiles<A> shared{dynamic_shared<A>(), p.dim + 1};
  // Tiles of this block's own rows, and of the rows that it meets.
  A *const own = shared.tile(0), *const own_grad = shared.tile(1);
  A *const other = shared.tile(2), *const other_grad = shared.tile(3);
  const int row = threadIdx.x / kRowThreads, lane = threadIdx.x % kRowThreads;
  A* const probs = shared.scores(4, 0) + row * (kTile + 1);
  A* const slopes = shared.scores(4, 1) + row * (kTile + 1);
  const unsigned tiles = tiles_of(p.tokens, kTile);
  const int64_t index = blockIdx.x / tiles, first = int64_t{blockIdx.x % tiles} * kTile;
  const auto load = [&](int part, int64_t from, A* to) {
    load_tile(
        p.qkv, [&](int64_t t) { return p.at(part, index, t); }, from, p.tokens, p.dim, shared.pitch,
        to);
  };
  const auto load_grad = [&](int64_t from, A* to) {
    load_tile(
        a.dy, [&](int64_t t) { return p.out_at(index, t); }, from, p.tokens, p.dim, shared.pitch,
        to);
  };
  // Queries go with dy, keys with values: score = query . key, d prob = dy . value.
  load(of_keys ? 1 : 0, first, own);
  if (of_keys)
    load(2, first, own_grad);
  else
    load_grad(first, own_grad);
  A grad[kPerThread] = {}, value_grad[of_keys ? kPerThread : 1] = {};
  for (int64_t met = 0; met < p.tokens; met += kTile) {
    __syncthreads();
    load(of_keys ? 0 : 1, met, other);
    if (of_keys)
      load_grad(met, other_grad);
    else
      load(2, met, other_grad);
    __syncthreads();
    for (int i = 0; i < kScores; ++i) {
      const int col = lane + i * kRowThreads;
      const int64_t query = of_keys ? met + col : first + row;
      A prob = 0, slope = 0;
      if (met + col < p.tokens && first + row < p.tokens) {
        const int64_t at = index * p.tokens + query;
        const A score =
            p.scale * row_dot(own + row * shared.pitch, other + col * shared.pitch, p.dim);
        prob = std::exp(score - a.lse[at]);
        slope = p.scale * prob *
                (row_dot(own_grad + row * shared.pitch, other_grad + col * shared.pitch, p.dim) -
                 a.delta[at]);
      }
      probs[col] = prob;
      slopes[col] = slope;
    }
    __syncwarp();
    for (int d = 0; d < kPerThread; ++d) {
      const int64_t c = lane + d * kRowThreads;
      if (c >= p.dim) break;
      for (int i = 0; i < kTile; ++i) {
        grad[d] += slopes[i] * other[i * shared.pitch + c];
        if constexpr (of_keys) value_grad[d] += probs[i] * other_grad[i * shared.pitch + c];
      }
    }
  }
  if (first + row >= p.tokens) return;
  for (int d = 0; d < kPerThread; ++d) {
    const int64_t c = lane + d * kRowThreads;
    if (c >= p.dim) break;
    a.dqkv[p.at(of_keys ? 1 : 0, index, first + row) + c] = static_cast<T>(grad[d]);
    if constexpr (of_keys) a.dqkv[p.at(2, index, first + row) + c] = static_cast<T>(value_grad[d]);
  }
}

template <typename T>
Packed<T> packed(const Tensor& qkv, double scale) {
  return {qkv.data<T>(), qkv.dim(1), qkv.dim(3), qkv.dim(4), static_cast<acc_t<T>>(scale)};
}
bool takes_naive(const Tensor& qkv) {
  return kernel_choice() == KernelChoice::naive || qkv.dim(4) > kMaxDim;
}

}  // namespace

void CudaBackend::attention(const Tensor& qkv, double scale, Tensor& y, Tensor& lse) {
  dispatch_floating(qkv.dtype(), "attention", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const Packed<T> p = packed<T>(qkv, scale);
    if (takes_naive(qkv)) {
      map(qkv, lse.numel(), NaiveLse<T>{p, lse.data<A>()});
      return map(qkv, y.numel(), NaiveAttention<T>{p, lse.data<A>(), y.data<T>()});
    }
    if constexpr (std::is_same_v<T, bf16>)
      if (takes_mma(p) && aligned(y.data<T>()))
        return mma_attention(qkv, p, y.data<T>(), lse.data<A>());
    const auto bytes = static_cast<size_t>(shared_elements(p.dim, 3, 1)) * sizeof(A);
    launch_for<attention_kernel<T>>(qkv, blocks_for_heads(qkv, kTile), kThreads, bytes, p,
                                    y.data<T>(), lse.data<A>());
  });
}

void CudaBackend::attention_backward(const Tensor& qkv, const Tensor& y, const Tensor& lse,
                                     const Tensor& dy, double scale, Tensor& dqkv) {
  dispatch_floating(qkv.dtype(), "attention_backward", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const Packed<T> p = packed<T>(qkv, scale);
    Tensor delta = Tensor::empty_like(lse);
    const AttentionGradient<T> a{p, dy.data<T>(), lse.data<A>(), delta.data<A>(), dqkv.data<T>()};
    const bool naive = takes_naive(qkv);
    if constexpr (std::is_same_v<T, bf16>)
      if (!naive && takes_mma(p) && aligned(a.dy, a.dqkv, y.data<T>()))
        return mma_attention_backward(qkv, a, y.data<T>(), delta.data<A>());
    map(qkv, lse.numel(), Delta<T>{p, y.data<T>(), dy.data<T>(), delta.data<A>()});
    if (naive)
      return map(qkv, qkv.numel(),
                 NaiveAttentionBackward<T>{p, dy.data<T>(), lse.data<A>(), delta.data<A>(),
                                           dqkv.data<T>()});
    const auto bytes = static_cast<size_t>(shared_elements(p.dim, 4, 2)) * sizeof(A);
    launch_for<attention_backward_kernel<T, false>>(qkv, blocks_for_heads(qkv, kTile), kThreads,
                                                    bytes, a);
    launch_for<attention_backward_kernel<T, true>>(qkv, blocks_for_heads(qkv, kTile), kThreads,
                                                   bytes, a);
  });
}

}  // namespace facet
