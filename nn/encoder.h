// Encoder: a network that maps images to one feature row an image.
#pragma once

#include "nn/layers.h"

namespace facet {

class Encoder : public Module {
 public:
  // x (N, H, W, C) -> (N, feature_dim())
  virtual Variable features(const Variable& x) = 0;
  virtual int64_t feature_dim() const = 0;
  // Activations after each stage of a ResNet or block of a ViT, for CKA; the features alone where
  // there are none. blocks(): after every block of a ResNet, too.
  virtual VariableList stages(const Variable& x) { return {features(x)}; }
  virtual VariableList blocks(const Variable& x) { return stages(x); }

  // Where random numbers of forwards in training (drop path) come from until the next call: the
  // same key, the same numbers.
  virtual void set_random_key(const RandomKey& key) { (void)key; }
};

// Gives every encoder in the module that key.
void set_random_key(Module& module, const RandomKey& key);

}  // namespace facet
