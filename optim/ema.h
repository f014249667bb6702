// Exponential moving average of weights.
#pragma once

#include <vector>

#include "tensor/tensor.h"

namespace facet {

// average <- d * average + (1 - d) * value over parameters and buffers, as timm's ModelEma does;
// integer buffers are copied. With warm-up, d = min(decay, (1 + n) / (10 + n)) at update n.
class Ema {
 public:
  using Named = std::vector<NamedTensor>;

  // Starts as a copy of `values`, whose handles are kept: update() reads their current contents.
  Ema(const Named& values, double decay, bool warmup = false);
  void update();
  const Named& averages() const { return averages_; }
  int64_t updates() const { return updates_; }
  void restore(const Named& averages, int64_t updates);

 private:
  Named values_, averages_;
  double decay_;
  bool warmup_;
  int64_t updates_ = 0;
};

}  // namespace facet
