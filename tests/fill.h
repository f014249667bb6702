// What tests of whole networks look at.
#pragma once

#include <cmath>

#include "nn/module.h"
#include "tests/generators.h"

namespace facet::test {

using facet::fill;

// A tensor of the module's state.
inline Tensor tensor_of(Module& module, const std::string& name) {
  for (const NamedTensor& t : state(module))
    if (t.name == name) return t.value;
  throw Error("no tensor " + name);
}

inline std::vector<double> values(const Tensor& t) {
  return t.cast(DType::f64).to_vector<double>();
}
inline void expect_near(const std::vector<double>& got, const std::vector<double>& want,
                        double tolerance) {
  ASSERT_GE(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], tolerance) << i;
}

inline double norm(const Tensor& t) {
  return std::sqrt(ops::reduce(ReduceOp::sum_squares, t.cast(DType::f64)).item());
}

}  // namespace facet::test
