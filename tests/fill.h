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

inline double norm(const Tensor& t) {
  return std::sqrt(ops::reduce(ReduceOp::sum_squares, t.cast(DType::f64)).item());
}

}  // namespace facet::test
