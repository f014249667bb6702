// W neighbouring elements in registers, and one mask bit for each: what the
// memory-bound kernels are written in. Lanes<float, 16> is one AVX-512 register, or two of AVX2.
#pragma once

#include <cstdint>
#include <cstring>

#include "tensor/dtype.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define FACET_AVX512
#include <immintrin.h>
#elif defined(__AVX2__)
#define FACET_AVX2
#include <immintrin.h>
#endif

namespace facet::cpu {

template <typename A, int W>
struct Lanes {
  A v[W];

  template <typename T>
  static Lanes load(const T* p) {
    Lanes r;
    for (int i = 0; i < W; ++i) r.v[i] = static_cast<A>(p[i]);
    return r;
  }
  template <typename T>
  void store(T* p) const {
    for (int i = 0; i < W; ++i) p[i] = static_cast<T>(v[i]);
  }
  // Past the caches; p on a multiple of the register's size.
  template <typename T>
  void stream(T* p) const {
    store(p);
  }
  // Bit i: lane i > 0.
  uint32_t positive() const {
    uint32_t bits = 0;
    for (int i = 0; i < W; ++i) bits |= static_cast<uint32_t>(v[i] > A(0)) << i;
    return bits;
  }
  // Zero where the bit is not set.
  Lanes keep(uint32_t bits) const {
    Lanes r;
    for (int i = 0; i < W; ++i) r.v[i] = (bits >> i & 1) ? v[i] : A(0);
    return r;
  }
  friend Lanes operator+(Lanes a, Lanes b) {
    for (int i = 0; i < W; ++i) a.v[i] += b.v[i];
    return a;
  }
  friend Lanes operator-(Lanes a, Lanes b) {
    for (int i = 0; i < W; ++i) a.v[i] -= b.v[i];
    return a;
  }
  friend Lanes operator*(Lanes a, Lanes b) {
    for (int i = 0; i < W; ++i) a.v[i] *= b.v[i];
    return a;
  }
};

#ifdef FACET_AVX512
template <>
struct Lanes<float, 16> {
  __m512 v;

  static Lanes load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Lanes load(const bf16* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    // The maskz forms: g++ 12 takes the plain ones for reads of uninitialised registers.
    const __m512i wide = _mm512_maskz_cvtepu16_epi32(0xffff, half);
    return {_mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, wide, 16))};
  }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store(bf16* p) const {
    alignas(64) float wide[16];
    _mm512_store_ps(wide, v);
    for (int i = 0; i < 16; ++i) p[i] = bf16(wide[i]);
  }
  void stream(float* p) const { _mm512_stream_ps(p, v); }
  void stream(bf16* p) const { store(p); }
  uint32_t positive() const { return _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_GT_OQ); }
  Lanes keep(uint32_t bits) const { return {_mm512_maskz_mov_ps(static_cast<__mmask16>(bits), v)}; }
  friend Lanes operator+(Lanes a, Lanes b) { return {_mm512_add_ps(a.v, b.v)}; }
  friend Lanes operator-(Lanes a, Lanes b) { return {_mm512_sub_ps(a.v, b.v)}; }
  friend Lanes operator*(Lanes a, Lanes b) { return {_mm512_mul_ps(a.v, b.v)}; }
};
#elif defined(FACET_AVX2)
template <>
struct Lanes<float, 16> {
  __m256 low, high;

  static Lanes load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static Lanes load(const bf16* p) {
    const auto widen = [](const bf16* q) {
      const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(q));
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
    };
    return {widen(p), widen(p + 8)};
  }
  void store(float* p) const {
    _mm256_storeu_ps(p, low);
    _mm256_storeu_ps(p + 8, high);
  }
  void store(bf16* p) const {
    float wide[16];
    store(wide);
    for (int i = 0; i < 16; ++i) p[i] = bf16(wide[i]);
  }
  void stream(float* p) const {
    _mm256_stream_ps(p, low);
    _mm256_stream_ps(p + 8, high);
  }
  void stream(bf16* p) const { store(p); }
  uint32_t positive() const {
    const auto bits = [zero = _mm256_setzero_ps()](__m256 half) {
      return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(half, zero, _CMP_GT_OQ)));
    };
    return bits(low) | bits(high) << 8;
  }
  Lanes keep(uint32_t bits) const {
    const __m256i all = _mm256_set1_epi32(static_cast<int>(bits));
    const auto kept = [&](__m256 half, __m256i bit) {
      const __m256i set = _mm256_cmpeq_epi32(_mm256_and_si256(all, bit), bit);
      return _mm256_and_ps(half, _mm256_castsi256_ps(set));
    };
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return {kept(low, bit), kept(high, _mm256_slli_epi32(bit, 8))};
  }
  friend Lanes operator+(Lanes a, Lanes b) { return {a.low + b.low, a.high + b.high}; }
  friend Lanes operator-(Lanes a, Lanes b) { return {a.low - b.low, a.high - b.high}; }
  friend Lanes operator*(Lanes a, Lanes b) { return {a.low * b.low, a.high * b.high}; }
};
#endif

// Bit i: p[i] == value.
template <int W>
uint32_t equal_bits(const uint8_t* p, uint8_t value) {
#ifdef FACET_AVX512
  if constexpr (W == 16)
    return _mm_cmpeq_epi8_mask(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)),
                               _mm_set1_epi8(static_cast<char>(value)));
#elif defined(FACET_AVX2)
  if constexpr (W == 16)
    return static_cast<uint32_t>(
        _mm_movemask_epi8(_mm_cmpeq_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)),
                                         _mm_set1_epi8(static_cast<char>(value)))));
#endif
  uint32_t bits = 0;
  for (int i = 0; i < W; ++i) bits |= static_cast<uint32_t>(p[i] == value) << i;
  return bits;
}

// Makes streamed stores visible to other threads.
inline void flush_streams() {
#if defined(FACET_AVX512) || defined(FACET_AVX2)
  _mm_sfence();
#endif
}

// The mask bits of W elements from `element` on, a multiple of W; W is 1 or 16. Bits of one byte
// are written in ascending order by one thread.
template <int W>
uint32_t read_bits(const uint8_t* mask, int64_t element) {
  static_assert(W == 1 || W == 16);
  if constexpr (W == 1) {
    return mask[element / 8] >> (element % 8) & 1u;
  } else {
    uint16_t bits;
    std::memcpy(&bits, mask + element / 8, sizeof bits);
    return bits;
  }
}

template <int W>
void write_bits(uint8_t* mask, int64_t element, uint32_t bits) {
  static_assert(W == 1 || W == 16);
  if constexpr (W == 1) {
    uint8_t& byte = mask[element / 8];
    byte = static_cast<uint8_t>((element % 8 ? byte : 0u) | bits << (element % 8));
  } else {
    const auto low = static_cast<uint16_t>(bits);
    std::memcpy(mask + element / 8, &low, sizeof low);
  }
}

}  // namespace facet::cpu
