#include "nn/init.h"

#include <algorithm>
#include <cmath>

namespace facet {
namespace {

// FNV-1a, the usual 64-bit constants.
uint64_t hash_name(const std::string& name) {
  uint64_t h = 14695981039346656037ull;
  for (const char c : name) h = (h ^ static_cast<uint8_t>(c)) * 1099511628211ull;
  return h;
}

}  // namespace

Tensor init_normal(const Shape& shape, const RandomKey& key, double stddev) {
  return ops::random_normal(shape, key, 0.0, stddev);
}

Tensor init_uniform(const Shape& shape, const RandomKey& key, double bound) {
  return ops::random_uniform(shape, key, -bound, bound);
}

void initialize(Module& module, uint64_t seed, bool zero_init_residual) {
  const RandomKey key = random_key(seed, RandomPurpose::init);
  int64_t linear_fan_in = 1;  // of the weight just seen: its bias follows it
  for (NamedParameter& p : parameters(module)) {
    Tensor& value = p.value.value();
    const RandomKey own = key.child(hash_name(p.name));
    if (value.rank() == 4) {
      const double fan_out = static_cast<double>(value.dim(0) * value.dim(1) * value.dim(2));
      value.copy_(init_normal(value.shape(), own, std::sqrt(2.0 / fan_out)));
    } else if (value.rank() == 2) {
      linear_fan_in = value.dim(1);
      value.copy_(init_uniform(value.shape(), own, 1.0 / std::sqrt(static_cast<double>(linear_fan_in))));
    } else if (p.name.ends_with("weight")) {  // a norm; what follows is its bias
      linear_fan_in = 0;
      value.fill_(1.0);
    } else if (linear_fan_in > 0) {
      value.copy_(init_uniform(value.shape(), own, 1.0 / std::sqrt(static_cast<double>(linear_fan_in))));
    } else {
      value.zero_();
    }
  }
  if (!zero_init_residual) return;
  std::vector<NamedParameter> all = parameters(module);
  // The last norm of a basic block is bn2, of a bottleneck bn3.
  const bool bottleneck = std::any_of(all.begin(), all.end(), [](const NamedParameter& p) {
    return p.name.ends_with(".bn3.weight");
  });
  for (NamedParameter& p : all)
    if (p.name.ends_with(bottleneck ? ".bn3.weight" : ".bn2.weight")) p.value.value().zero_();
}

}  // namespace facet
