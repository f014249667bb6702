#include "nn/init.h"

#include <cmath>

#include "tensor/hash.h"

namespace facet {
namespace {

RandomKey key_of(uint64_t seed, const std::string& parameter) {
  return random_key(seed, RandomPurpose::init).child(fnv1a(parameter));
}

double linear_bound(int64_t fan_in) {
  return 1.0 / std::sqrt(static_cast<double>(fan_in));
}

void fill_uniform(Tensor& value, const RandomKey& key, double bound) {
  value.copy_(ops::random_uniform(value.shape(), key, -bound, bound));
}

}  // namespace

void initialize(Module& module, uint64_t seed) {
  int64_t fan_in = 0;  // of the weight just seen, whose bias follows it; 0 for a norm's
  for (NamedParameter& p : parameters(module)) {
    Tensor& value = p.value.value();
    const RandomKey key = key_of(seed, p.name);
    if (value.rank() > 1) {
      fan_in = value.numel() / value.dim(0);
      if (value.rank() == 4) {
        const double fan_out = static_cast<double>(value.dim(0) * value.dim(1) * value.dim(2));
        value.copy_(ops::random_normal(value.shape(), key, 0.0, std::sqrt(2.0 / fan_out)));
      } else {
        fill_uniform(value, key, linear_bound(fan_in));
      }
    } else if (p.name.ends_with("weight")) {
      fan_in = 0;
      value.fill_(1.0);
    } else if (fan_in > 0) {
      fill_uniform(value, key, linear_bound(fan_in));
    } else {
      value.zero_();
    }
  }
  for_each_module(module, [&](Module& m) { m.initialize(seed); });
}

void initialize_transformer(Module& module, uint64_t seed, bool xavier) {
  constexpr double kStddev = 0.02;
  double patch_bound = 0;  // of the patch embedding, whose bias follows it
  for (NamedParameter& p : parameters(module)) {
    Tensor& value = p.value.value();
    if (!p.value.requires_grad()) continue;  // fixed position embeddings
    const RandomKey key = key_of(seed, "transformer." + p.name);
    const int64_t fan_out = value.rank() > 0 ? value.dim(0) : 1, fan_in = value.numel() / fan_out;
    const bool patches = p.name.find("patch_embed") != std::string::npos;
    if (value.rank() == 1) {
      if (patches && !xavier)
        fill_uniform(value, key, patch_bound);
      else
        value.fill_(p.name.ends_with("weight") ? 1.0 : 0.0);
    } else if (value.rank() == 3) {
      value.copy_(ops::random_normal(value.shape(), key, 0.0, kStddev));
    } else if (xavier) {
      fill_uniform(value, key, std::sqrt(6.0 / static_cast<double>(fan_in + fan_out)));
    } else if (patches) {
      fill_uniform(value, key, patch_bound = linear_bound(fan_in));
    } else {
      value.copy_(ops::random_normal(value.shape(), key, 0.0, kStddev));
    }
  }
}

void initialize_normal(Linear& layer, uint64_t seed, double stddev, const std::string& name) {
  Tensor& weight = layer.weight.value();
  weight.copy_(ops::random_normal(weight.shape(), key_of(seed, name), 0.0, stddev));
  if (layer.bias.defined()) layer.bias.value().zero_();
}

}  // namespace facet
