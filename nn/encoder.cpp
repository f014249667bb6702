#include "nn/encoder.h"

namespace facet {

void set_random_key(Module& module, const RandomKey& key) {
  for_each_module(module, [&](Module& m) {
    if (auto* encoder = dynamic_cast<Encoder*>(&m)) encoder->set_random_key(key);
  });
}

}  // namespace facet
