// Whole networks with weights by formula against what the official codes make of them.
#pragma once

#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace facet {

struct GoldenValue {
  std::string name;  // "logits[0,1]", "gradient of conv1.weight"
  double got, want;
  double tolerance;  // relative to `want`
  bool pass() const;
};

// Networks by name, and the values of one on a device in f64 or f32. The wanted ones are those of
// torchvision 0.14, timm 0.4.12 and the official DINO and MAE codes in f64.
const std::vector<std::string>& golden_networks();
std::vector<GoldenValue> golden_values(const std::string& network, Device device, DType dtype);

}  // namespace facet
