#include "optim/ema.h"

#include <algorithm>

#include "tensor/backend.h"

namespace facet {

Ema::Ema(const Named& values, double decay, bool warmup)
    : values_(values), decay_(decay), warmup_(warmup) {
  FACET_CHECK(decay >= 0.0 && decay <= 1.0, "Ema", "expected a decay in [0, 1], got {}", decay);
  for (const auto& [name, value] : values_) averages_.push_back({name, value.clone()});
}

void Ema::update() {
  ++updates_;
  const double n = static_cast<double>(updates_);
  const double decay = warmup_ ? std::min(decay_, (1.0 + n) / (10.0 + n)) : decay_;
  TensorList averages, values;
  for (size_t i = 0; i < values_.size(); ++i) {
    if (is_floating(values_[i].value.dtype())) {
      averages.push_back(averages_[i].value);
      values.push_back(values_[i].value);
    } else {
      averages_[i].value.copy_(values_[i].value);
    }
  }
  if (!averages.empty()) averages[0].backend().ema_step(averages, values, decay);
}

void Ema::restore(const Named& averages, int64_t updates) {
  FACET_CHECK(averages.size() == averages_.size(), "Ema", "expected {} tensors, got {}",
              averages_.size(), averages.size());
  for (size_t i = 0; i < averages.size(); ++i) {
    FACET_CHECK(averages[i].name == averages_[i].name, "Ema", "expected {}, got {}",
                averages_[i].name, averages[i].name);
    averages_[i].value.copy_(averages[i].value);
  }
  updates_ = updates;
}

}  // namespace facet
