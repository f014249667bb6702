#include "nn/init.h"

#include <cmath>

#include "nn/resnet.h"

namespace facet {
namespace {

// FNV-1a, the usual 64-bit constants.
uint64_t hash_name(const std::string& name) {
  uint64_t h = 14695981039346656037ull;
  for (const char c : name) h = (h ^ static_cast<uint8_t>(c)) * 1099511628211ull;
  return h;
}

RandomKey key_of(uint64_t seed, const std::string& parameter) {
  return random_key(seed, RandomPurpose::init).child(hash_name(parameter));
}

double linear_bound(int64_t fan_in) {
  return 1.0 / std::sqrt(static_cast<double>(fan_in));
}

}  // namespace

void initialize(Module& module, uint64_t seed, bool zero_init_residual) {
  int64_t fan_in = 0;  // of the weight just seen, whose bias follows it; 0 for a norm's
  for (NamedParameter& p : parameters(module)) {
    Tensor& value = p.value.value();
    const RandomKey key = key_of(seed, p.name);
    const auto uniform = [&](double bound) {
      value.copy_(ops::random_uniform(value.shape(), key, -bound, bound));
    };
    if (value.rank() > 1) {
      fan_in = value.numel() / value.dim(0);
      if (value.rank() == 4) {
        const double fan_out = static_cast<double>(value.dim(0) * value.dim(1) * value.dim(2));
        value.copy_(ops::random_normal(value.shape(), key, 0.0, std::sqrt(2.0 / fan_out)));
      } else {
        uniform(linear_bound(fan_in));
      }
    } else if (p.name.ends_with("weight")) {
      fan_in = 0;
      value.fill_(1.0);
    } else if (fan_in > 0) {
      uniform(linear_bound(fan_in));
    } else {
      value.zero_();
    }
  }
  if (!zero_init_residual) return;
  for_each_module(module, [](Module& m) {
    if (auto* net = dynamic_cast<ResNet*>(&m)) net->zero_residual_branches();
  });
}

void initialize_normal(Linear& layer, uint64_t seed, double stddev) {
  Tensor& weight = layer.weight.value();
  weight.copy_(ops::random_normal(weight.shape(), key_of(seed, "normal"), 0.0, stddev));
  if (layer.bias.defined()) layer.bias.value().zero_();
}

}  // namespace facet
