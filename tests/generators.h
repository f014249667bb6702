// Deterministic inputs of the golden values: any framework can make the same numbers. Where and how
// closely the values are compared.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "autograd/variable.h"
#include "nn/fill.h"
#include "tests/folder.h"
#include "tests/op_runner.h"

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

inline std::vector<double> values(const Tensor& t) {
  return t.cast(DType::f64).to_vector<double>();
}
// The first elements.
inline void expect_near(const std::vector<double>& got, const std::vector<double>& want,
                        double tolerance) {
  ASSERT_GE(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], tolerance) << i;
}
inline void expect_near(const Tensor& got, const std::vector<double>& want, double tolerance) {
  expect_near(values(got), want, tolerance);
}

// A device and a type that golden values are checked with.
struct Setting {
  Device device;
  DType dtype;

  Tensor operator()(const Tensor& x) const {
    return (is_floating(x.dtype()) ? x.cast(dtype) : x).to(device);
  }
  // f64: to the digits that are known. f32: relative to the largest value, as each is a sum of
  // terms of that size, rounded a few times to 6e-8.
  void near(const Tensor& got, const std::vector<double>& want, double f64,
            double f32 = 1e-5) const {
    SCOPED_TRACE(got.str());
    double largest = 0;
    for (const double v : want) largest = std::max(largest, std::fabs(v));
    expect_near(got, want, dtype == DType::f64 ? f64 : f32 * largest);
  }
  // Scaling a row leaves the loss, so the gradient is orthogonal to it.
  void orthogonal(const Variable& h) const {
    for (const double v : values(ops::reduce(ReduceOp::sum, ops::mul(h.grad(), h.value()), 1)))
      EXPECT_NEAR(v, 0, dtype == DType::f64 ? 1e-12 : 1e-5) << h.value().str();
  }
};
inline std::vector<Setting> settings() {
  std::vector<Setting> all = {{{}, DType::f64}, {{}, DType::f32}};
  for (const Device device : other_devices()) all.push_back({device, DType::f32});
  return all;
}

// The call ends with one line that begins with "[operation] " and holds the words.
template <typename Call>
void expect_refused(const Call& call, const std::string& words) {
  SCOPED_TRACE(words);
  const std::string message = error_of<Error>(call);
  EXPECT_EQ(message.rfind('[', 0), 0u) << message;
  expect_parts(message, {words.c_str()});
}

}  // namespace facet::test
