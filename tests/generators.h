// Deterministic inputs of the golden values: any framework can make the same numbers.
#pragma once

#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/tensor.h"

namespace facet::test {

// Element k (row-major) = sin(0.1 k * k + shift). For k < 1000.
inline Tensor wave(const Shape& shape, double shift) {
  std::vector<double> values(static_cast<size_t>(shape.numel()));
  for (size_t k = 0; k < values.size(); ++k)
    values[k] = std::sin((0.1 * static_cast<double>(k)) * static_cast<double>(k) + shift);
  return Tensor::from(values, shape);
}

// Uniform in [-1, 1): splitmix64 counted from the FNV-1a-32 hash of a name.
inline Tensor hashed(std::string_view name, const Shape& shape) {
  uint32_t h = 2166136261u;
  for (const char c : name) h = (h ^ static_cast<uint8_t>(c)) * 16777619u;
  std::vector<double> values(static_cast<size_t>(shape.numel()));
  for (size_t k = 0; k < values.size(); ++k) {
    uint64_t z = (uint64_t{h} << 32) + k + 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    z ^= z >> 31;
    values[k] = 2.0 * (static_cast<double>(z >> 11) * 0x1.0p-53) - 1.0;
  }
  return Tensor::from(values, shape);
}

}  // namespace facet::test
