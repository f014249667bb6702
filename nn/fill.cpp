#include "nn/fill.h"

#include <cmath>

namespace facet {

Tensor hashed(std::string_view name, const Shape& shape) {
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

Tensor hashed_images(std::string_view name, int64_t images, int64_t size, DType dtype) {
  return ops::permute(hashed(name, {images, 3, size, size}), {0, 2, 3, 1}).cast(dtype);
}

void fill(Module& module, DType dtype) {
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

}  // namespace facet
