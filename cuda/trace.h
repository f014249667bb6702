// NVTX ranges: a profiler's time line (Nsight Systems) shows which operation launched what.
#pragma once

#include "tensor/backend.h"

namespace facet::cuda {

// A backend that puts every method of `inner` into a range of its name. install() takes it where
// the environment has FACET_NVTX=1.
Backend& traced(Backend& inner);

}  // namespace facet::cuda
