// Deterministic inputs of the golden values: any framework can make the same numbers.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "nn/fill.h"

namespace facet::test {

// Element k (row-major) = sin(0.1 k * k + shift). For k < 1000.
inline Tensor wave(const Shape& shape, double shift) {
  std::vector<double> values(static_cast<size_t>(shape.numel()));
  for (size_t k = 0; k < values.size(); ++k)
    values[k] = std::sin((0.1 * static_cast<double>(k)) * static_cast<double>(k) + shift);
  return Tensor::from(values, shape);
}

using facet::hashed;

inline Tensor labels_modulo(int64_t n, int64_t classes) {
  std::vector<int64_t> labels(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) labels[static_cast<size_t>(i)] = i % classes;
  return Tensor::from(labels, {n});
}

// The call ends with one line that begins with "[operation] " and holds the words.
template <typename Call>
void expect_refused(const Call& call, const std::string& words) {
  try {
    call();
    ADD_FAILURE() << "accepted: " << words;
  } catch (const Error& e) {
    const std::string message = e.what();
    EXPECT_EQ(message.rfind('[', 0), 0u) << message;
    EXPECT_NE(message.find(words), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

}  // namespace facet::test
