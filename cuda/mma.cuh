// Tensor cores from one warp (mma.sync, ldmatrix; sm_80 and later): d += a b for a of 16 x 16, b of
// 16 x 8 bf16 and d of 16 x 8 f32. What lane l holds, with g = l / 4 and t = l % 4 (PTX ISA,
// "Matrix Fragments for mma.m16n8k16"); each word is two neighbouring elements, the first one low:
//
//   a[0] row g,     k 2t, 2t + 1        b[0] k 2t, 2t + 1,         column g
//   a[1] row g + 8, k 2t, 2t + 1        b[1] k 2t + 8, 2t + 9,     column g
//   a[2] row g,     k 2t + 8, 2t + 9    d[0], d[1] row g,     columns 2t, 2t + 1
//   a[3] row g + 8, k 2t + 8, 2t + 9    d[2], d[3] row g + 8, columns 2t, 2t + 1
//
// load_matrices() reads such words from shared memory, pack_bf16() makes them of sums: d of two
// neighbouring products is one a. The emulated twins exchange the same words between the same
// lanes; their sums run in the order of k, and are rounded where the device's need not be.
#pragma once

#include "cuda/async.cuh"
#include "cuda/block.cuh"
#include "tensor/dtype.h"

namespace facet::cuda {

#if defined(FACET_CUDA_EMULATED)

namespace detail {
inline float bf16_of(unsigned word, unsigned half) {
  return std::bit_cast<float>(half ? word & 0xffff0000u : word << 16);
}
}  // namespace detail

inline void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                std::source_location where = std::source_location::current()) {
  const unsigned mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const emu::WarpValues& lanes = emu::exchange(kAllLanes, mine, sizeof mine, where);
  const auto word = [&](unsigned lane, size_t i) {
    return static_cast<unsigned>(lanes[lane][i / 2] >> (i % 2 * 32));
  };
  const unsigned g = emu::lane() / 4, t = emu::lane() % 4;
  float rows[2][16], columns[2][16];
  for (unsigned k = 0; k < 16; ++k) {
    const unsigned holder = k % 8 / 2, high = k / 8;
    for (unsigned i = 0; i < 2; ++i) {
      rows[i][k] = detail::bf16_of(word(4 * g + holder, 2 * high + i), k % 2);
      columns[i][k] = detail::bf16_of(word(4 * (2 * t + i) + holder, 4 + high), k % 2);
    }
  }
  for (size_t i = 0; i < 4; ++i)
    for (size_t k = 0; k < 16; ++k) d[i] += rows[i / 2][k] * columns[i % 2][k];
}

namespace detail {
// The lanes' rows of 16 bytes, 8 of them a matrix of 8 x 8.
inline const emu::WarpValues& gather_rows(const void* row, std::source_location where) {
  require_aligned(row, where);
  return emu::exchange(kAllLanes, row, 16, where);
}
inline unsigned element(const emu::WarpValues& rows, unsigned matrix, unsigned row, unsigned col) {
  return static_cast<unsigned>(rows[8 * matrix + row][col / 4] >> (col % 4 * 16)) & 0xffffu;
}
}  // namespace detail

inline void load_matrices(unsigned (&to)[4], const void* row,
                          std::source_location where = std::source_location::current()) {
  const emu::WarpValues& rows = detail::gather_rows(row, where);
  const unsigned g = emu::lane() / 4, t = emu::lane() % 4;
  for (unsigned i = 0; i < 4; ++i)
    to[i] = detail::element(rows, i, g, 2 * t) | detail::element(rows, i, g, 2 * t + 1) << 16;
}
inline void load_matrices_transposed(unsigned (&to)[4], const void* row,
                                     std::source_location where = std::source_location::current()) {
  const emu::WarpValues& rows = detail::gather_rows(row, where);
  const unsigned g = emu::lane() / 4, t = emu::lane() % 4;
  for (unsigned i = 0; i < 4; ++i)
    to[i] = detail::element(rows, i, 2 * t, g) | detail::element(rows, i, 2 * t + 1, g) << 16;
}

inline unsigned pack_bf16(float low, float high) {
  return bf16(low).bits | static_cast<unsigned>(bf16(high).bits) << 16;
}
inline float exp2_fast(float x) {
  return std::exp2(x);
}

#else

// d += a b. All 32 lanes call it.
__device__ __forceinline__ void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four matrices of 8 x 8 bf16. Lanes 8 i to 8 i + 7 give the addresses (shared memory, multiples of
// 16) of the rows of matrix i; to[i] is its elements (g, 2t) and (g, 2t + 1). All 32 lanes call it.
__device__ __forceinline__ void load_matrices(unsigned (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
               : "memory");
}
// The same of the transposed matrices: to[i] is elements (2t, g) and (2t + 1, g) of what lies
// there.
__device__ __forceinline__ void load_matrices_transposed(unsigned (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
               : "memory");
}

// Both rounded to nearest even.
__device__ __forceinline__ unsigned pack_bf16(float low, float high) {
  unsigned word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
// 2^x to 2 units in the last place, 0 where that is less than 2^-126: a score of -inf weighs
// nothing. One instruction, where exp2f() takes four.
__device__ __forceinline__ float exp2_fast(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

#endif

}  // namespace facet::cuda
