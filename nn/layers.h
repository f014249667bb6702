// Layers with parameters.
#pragma once

#include "nn/module.h"

namespace facet {

// Parameters are f32; products take them in the type of x, so bf16 images are trained in bf16 with
// f32 masters, gradients and statistics.

// A parameter (or none) in the type of the activations that it meets: with bf16 activations, f32
// masters are rounded for the product and get f32 gradients.
Variable as_type_of(const Variable& x, const Variable& parameter);

// y = x w^T + b. x (rows, in), weight (out, in), bias (out) or none.
class Linear final : public Module {
 public:
  Linear(int64_t in, int64_t out, bool bias = true);
  Variable operator()(const Variable& x) const;
  void visit(ModuleVisitor& v) override;

  Variable weight, bias;
};

// x (N, H, W, Cin), weight (Cout, k, k, Cin / groups), no bias (a norm follows).
class Conv2d final : public Module {
 public:
  Conv2d(int64_t in, int64_t out, int kernel, const ConvArgs& args = {});
  Variable operator()(const Variable& x) const;
  void visit(ModuleVisitor& v) override;

  const ConvArgs& args() const { return args_; }

  Variable weight;

 private:
  ConvArgs args_;
};

// Over the last axis: images (N, H, W, C) and rows (N, C) alike. Batch statistics in training, the
// running ones in eval.
class BatchNorm final : public Module {
 public:
  explicit BatchNorm(int64_t channels, bool relu = false, bool offset = true);
  // relu?(norm(x) + residual)
  Variable operator()(const Variable& x, const Variable& residual = {});
  void visit(ModuleVisitor& v) override;
  const BatchNormArgs& args() const { return args_; }
  // Whether training forwards move the running statistics (the default).
  void set_update_running(bool on) { args_.update_running = on; }
  // In training, statistics of each of so many runs of samples instead of the whole batch.
  void set_splits(int splits) { args_.splits = splits; }
  // In training, statistics of all ranks' batches; not with splits, which are ranks played by one.
  void set_comm(Comm& comm) { comm_ = &comm; }

  Variable weight, bias;
  Tensor running_mean, running_var, num_batches_tracked;  // the last: i64 scalar

 private:
  BatchNormArgs args_;
  Comm* comm_ = nullptr;
};

// norm(conv(x), residual). Where the running statistics hold and no gradient is recorded, the norm
// is folded into the weights and the convolution's epilogue: no pass over its output is left. The
// results differ in the last bits.
Variable conv_norm(const Conv2d& conv, BatchNorm& norm, const Variable& x,
                   const Variable& residual = {});

// The same for every batch norm in the module.
void set_update_running(Module& module, bool on);
void set_norm_splits(Module& module, int splits);
void set_norm_comm(Module& module, Comm& comm);

}  // namespace facet
