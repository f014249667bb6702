// Element types. Floating tensors are f32, bf16 (storage only: arithmetic is done in f32) or
// f64 (CPU, for gradient checks). Integers hold labels, indices, counters and pixels.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "tensor/check.h"

#if defined(__CUDACC__)
#define FACET_HD __host__ __device__
#else
#define FACET_HD
#endif

namespace facet {

enum class DType : uint8_t { f32, bf16, f64, i32, i64, u8 };

// Brain floating point: the upper half of an f32, rounded to nearest even.
struct bf16 {
  uint16_t bits = 0;

  bf16() = default;
  FACET_HD explicit bf16(float value) : bits(round_bits(value)) {}
  FACET_HD explicit bf16(double value) : bf16(static_cast<float>(value)) {}
  FACET_HD operator float() const { return std::bit_cast<float>(uint32_t{bits} << 16); }

 private:
  FACET_HD static uint16_t round_bits(float value) {
    const auto u = std::bit_cast<uint32_t>(value);
    if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40u);  // NaN
    return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
};
static_assert(sizeof(bf16) == 2);

constexpr size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f32: return 4;
    case DType::bf16: return 2;
    case DType::f64: return 8;
    case DType::i32: return 4;
    case DType::i64: return 8;
    case DType::u8: return 1;
  }
  return 0;
}

constexpr const char* name(DType dtype) {
  switch (dtype) {
    case DType::f32: return "f32";
    case DType::bf16: return "bf16";
    case DType::f64: return "f64";
    case DType::i32: return "i32";
    case DType::i64: return "i64";
    case DType::u8: return "u8";
  }
  return "?";
}

constexpr bool is_floating(DType dtype) {
  return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f64;
}

template <typename T>
constexpr DType dtype_of() {
  using U = std::remove_cv_t<T>;
  if constexpr (std::is_same_v<U, float>)
    return DType::f32;
  else if constexpr (std::is_same_v<U, bf16>)
    return DType::bf16;
  else if constexpr (std::is_same_v<U, double>)
    return DType::f64;
  else if constexpr (std::is_same_v<U, int32_t>)
    return DType::i32;
  else if constexpr (std::is_same_v<U, int64_t>)
    return DType::i64;
  else if constexpr (std::is_same_v<U, uint8_t>)
    return DType::u8;
  else
    static_assert(!sizeof(U), "no DType for this type");
}

// The type in which sums, statistics and losses over T are kept: f32 for f32 and bf16, else f64.
template <typename T>
using acc_t = std::conditional_t<std::is_same_v<T, double>, double, float>;
constexpr DType acc_dtype(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

// Calls f(T{}) with the C++ type of a floating dtype.
template <typename F>
decltype(auto) dispatch_floating(DType dtype, const char* op, F&& f) {
  switch (dtype) {
    case DType::f32: return f(float{});
    case DType::bf16: return f(bf16{});
    case DType::f64: return f(double{});
    default: detail::fail(op, "expected a floating dtype, got {}", name(dtype));
  }
}

// Calls f(T{}) with the C++ type of any dtype.
template <typename F>
decltype(auto) dispatch_any(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32: return f(float{});
    case DType::bf16: return f(bf16{});
    case DType::f64: return f(double{});
    case DType::i32: return f(int32_t{});
    case DType::i64: return f(int64_t{});
    case DType::u8: return f(uint8_t{});
  }
  detail::internal_fail("unknown dtype", __FILE__, __LINE__);
}

}  // namespace facet
