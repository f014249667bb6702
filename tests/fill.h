// Deterministic weights for whole-network golden values: by the names and layouts of torchvision's
// state dict, so that any framework can make the same network.
#pragma once

#include <cmath>

#include "nn/module.h"
#include "tests/generators.h"

namespace facet::test {

// Converts the module to f64, fills it, and converts it to dtype.
inline void fill(Module& module, DType dtype = DType::f64) {
  to_dtype(module, DType::f64);
  for (NamedTensor& t : state(module)) {
    if (t.value.dtype() == DType::i64) {
      t.value.zero_();
      continue;
    }
    const Shape& shape = t.value.shape();
    Tensor value;
    if (t.name.ends_with("running_mean") || t.name.ends_with("bias")) {
      value = ops::affine(0.1, hashed(t.name, shape), 0.0);
    } else if (t.name.ends_with("running_var")) {
      value = ops::affine(0.5, hashed(t.name, shape), 1.0);
    } else if (t.name.ends_with("_token") || t.name.ends_with("pos_embed")) {
      value = ops::affine(0.02, hashed(t.name, shape), 0.0);
    } else if (t.name.ends_with("weight_g")) {
      value = Tensor::full(shape, 1.0, DType::f64);
    } else if (shape.rank() == 1) {
      value = ops::affine(0.1, hashed(t.name, shape), 1.0);
    } else {
      const double fan_in = static_cast<double>(shape.numel() / shape[0]);
      // Drawn in (Cout, Cin, kh, kw) order, held as (Cout, kh, kw, Cin).
      if (shape.rank() == 4)
        value =
            ops::permute(hashed(t.name, {shape[0], shape[3], shape[1], shape[2]}), {0, 2, 3, 1});
      else
        value = hashed(t.name, shape);
      value = ops::affine(std::sqrt(3.0 / fan_in), value, 0.0);
    }
    t.value.copy_(value);
  }
  to_dtype(module, dtype);
}

// A tensor of the module's state.
inline Tensor tensor_of(Module& module, const std::string& name) {
  for (const NamedTensor& t : state(module))
    if (t.name == name) return t.value;
  throw Error("no tensor " + name);
}

inline double norm(const Tensor& t) {
  return std::sqrt(ops::reduce(ReduceOp::sum_squares, t.cast(DType::f64)).item());
}

// V(name, (N, 3, H, W)) as NHWC.
inline Tensor image_input(std::string_view name, int64_t n, int64_t size, DType dtype) {
  return ops::permute(hashed(name, {n, 3, size, size}), {0, 2, 3, 1}).cast(dtype);
}

}  // namespace facet::test
