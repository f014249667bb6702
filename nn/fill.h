// Weights and inputs by formula, for golden values: by the names and layouts of torchvision's and
// timm's state dicts, so that any framework can make the same network.
#pragma once

#include <string_view>

#include "nn/module.h"

namespace facet {

// Uniform in [-1, 1): splitmix64 counted from the FNV-1a-32 hash of a name. f64.
Tensor hashed(std::string_view name, const Shape& shape);
// hashed(name, (N, 3, H, W)) as (N, H, W, 3).
Tensor hashed_images(std::string_view name, int64_t images, int64_t size, DType dtype);
// Every parameter and buffer from hashed() of its name; converts the module to `dtype`.
void fill(Module& module, DType dtype = DType::f64);

}  // namespace facet
