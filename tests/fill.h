// What tests of whole networks look at.
#pragma once

#include <cmath>

#include "data/batch.h"
#include "nn/resnet.h"
#include "tests/generators.h"

namespace facet::test {

using facet::fill;

// A tensor of the module's state.
inline Tensor tensor_of(Module& module, const std::string& name) {
  for (const NamedTensor& t : state(module))
    if (t.name == name) return t.value;
  throw Error("no tensor " + name);
}

inline std::unique_ptr<ResNet> small_resnet() {
  return std::make_unique<ResNet>(
      ResNetOptions{.arch = "resnet18", .stem = Stem::small, .width = 4});
}
// Views of so many pixels a side, others for each step.
inline Batch hashed_batch(int64_t n, const std::vector<int64_t>& sizes, int64_t step,
                          DType dtype = DType::f32) {
  Batch batch{{}, Tensor::zeros({n}, DType::i64), {}};
  for (std::string name = "a" + std::to_string(step); const int64_t size : sizes) {
    batch.views.push_back(hashed_images(name, n, size, dtype));
    ++name[0];
  }
  return batch;
}

inline double norm(const Tensor& t) {
  return std::sqrt(ops::reduce(ReduceOp::sum_squares, t.cast(DType::f64)).item());
}

}  // namespace facet::test
