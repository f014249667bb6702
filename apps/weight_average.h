// A moving average of a training network's weights, beside them.
#pragma once

#include <functional>
#include <vector>

#include "nn/module.h"
#include "optim/ema.h"

namespace facet {

// Over everything that the module holds, buffers too (timm's ModelEma). Its children "encoder" and
// the rest are averaged on their own, so that the encoder's can be left out on some steps.
class WeightAverage {
 public:
  struct Options {
    double decay = 0.9998;
    bool warmup = false;  // a smaller decay at first: a short run forgets its start
    std::function<bool(int64_t step)> encoder_due = {};  // of 0-based steps; none: always
  };
  WeightAverage(Module& module, Options options);

  void update(int64_t step);  // after the optimiser's
  // For checkpoints: the averages under their names, and "updates.encoder", "updates.rest".
  std::vector<NamedTensor> state() const;
  void load(const std::vector<NamedTensor>& values);
  // Calls f while the module that is averaged holds the averages.
  void with_averages(const std::function<void()>& f);

 private:
  Module& module_;
  Options options_;
  Ema encoder_, rest_;
};

}  // namespace facet
