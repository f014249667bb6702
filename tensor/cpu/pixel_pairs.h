// Weighted sums of bytes with 16-bit instructions (AVX2): what multiplies pairs of 16-bit numbers
// and adds the two products makes exact 32-bit sums of weights that are taken apart in two halves.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>

#include <cstdint>

namespace facet {

// 16 bytes as 16-bit numbers.
inline __m256i words_at(const uint8_t* bytes) {
  return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
}

// Two 16-bit numbers, again and again.
inline __m256i pair_of(uint32_t first, uint32_t second) {
  return _mm256_set1_epi32(static_cast<int>((first & 0xffff) | second << 16));
}

// The sums of 16 bytes, clipped to bytes: `a` from _mm256_unpacklo_epi16, `b` from unpackhi.
inline void store_bytes(const __m256i& a, const __m256i& b, uint8_t* to) {
  const __m256i words = _mm256_packs_epi32(a, b);
  const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packus_epi16(words, words), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(bytes));
}

}  // namespace facet
#endif
