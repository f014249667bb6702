// Whether the samples of a dataset can be decoded, also by decoders that crash.
#pragma once

#include <functional>

#include "data/dataset.h"

namespace facet {

struct SampleCheck {
  std::string kind = "other";  // "JPEG" ..., where it is a picture in a file
  std::string error;           // empty: it can be decoded
  std::string warnings;        // what the decoder forgave, if anything
};

SampleCheck check_sample(const Dataset& dataset, int64_t index);
// Checks samples [first, last) in a child process. Where that dies, its sample is reported as bad,
// and another goes on behind it. Thread-safe; the child runs on this thread alone. Once `stop` says
// so, no other child is started. Throws an Error when the system grants no process.
void check_in_children(const Dataset& dataset, int64_t first, int64_t last,
                       const std::function<void(int64_t, const SampleCheck&)>& report,
                       const std::function<bool()>& stop);

}  // namespace facet
