#include "nn/encoder.h"

namespace facet {

void set_random_key(Module& module, const RandomKey& key) {
  for_each_module(module, [&](Module& m) {
    if (auto* encoder = dynamic_cast<Encoder*>(&m)) encoder->set_random_key(key);
  });
}

bool draws_random_numbers(Module& module) {
  bool any = false;
  for_each_module(module, [&](Module& m) {
    if (auto* encoder = dynamic_cast<Encoder*>(&m)) any = any || encoder->random();
  });
  return any;
}

}  // namespace facet
