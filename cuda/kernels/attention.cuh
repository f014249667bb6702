// Where the rows of packed attention lie.
#pragma once

#include "cuda/kernels/common.cuh"

namespace facet::cuda {

// qkv (B, T, 3, H, D), contiguous; y and its gradient are (B, T, H, D), lse and delta (B, H, T).
template <typename T>
struct Packed {
  const T* qkv;
  int64_t tokens, heads, dim;
  acc_t<T> scale;

  // Row t of part 0 (queries), 1 (keys) or 2 (values) of head `index` = image * heads + head.
  __device__ int64_t at(int part, int64_t index, int64_t t) const {
    return (((index / heads * tokens + t) * 3 + part) * heads + index % heads) * dim;
  }
  __device__ int64_t out_at(int64_t index, int64_t t) const {
    return ((index / heads * tokens + t) * heads + index % heads) * dim;
  }
  __device__ acc_t<T> dot(const T* a, const T* b) const {
    acc_t<T> sum = 0;
    for (int64_t i = 0; i < dim; ++i) sum += widen(a[i]) * widen(b[i]);
    return sum;
  }
  __device__ acc_t<T> score(int64_t index, int64_t query, int64_t key) const {
    return scale * dot(qkv + at(0, index, query), qkv + at(1, index, key));
  }
};

// A block works on one of a head's tiles of `rows`; all of a head's are neighbours.
__host__ __device__ constexpr unsigned tiles_of(int64_t tokens, int rows) {
  return static_cast<unsigned>((tokens + rows - 1) / rows);
}
inline dim3 blocks_for_heads(const Tensor& qkv, int rows) {
  return static_cast<unsigned>(qkv.dim(0) * qkv.dim(3)) * tiles_of(qkv.dim(1), rows);
}

// What the backward reads and writes; delta is dy . y of each query.
template <typename T>
struct AttentionGradient {
  Packed<T> p;
  const T* dy;
  const acc_t<T>*lse, *delta;
  T* dqkv;
};

}  // namespace facet::cuda
