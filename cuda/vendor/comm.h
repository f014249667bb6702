// Ranks on several CUDA devices that talk by NCCL.
#pragma once

#include <functional>
#include <span>

#include "tensor/comm.h"

namespace facet::cuda {

// As facet::run_ranks, with rank r on devices[r] (all different): body's tensors have to lie there.
// What ranks exchange is work in the devices' streams; nobody waits. Sums run in an order of NCCL's
// own. Ranks that call different things are stopped with an Error that names both calls, as is one
// that does not come to what another waits in within `patience` seconds. Where NCCL is missing,
// facet::run_ranks does the work.
void run_ranks(std::span<const int> devices, const std::function<void(Comm& comm)>& body,
               double patience = 600.0);

namespace vendor {
std::string comm_library();  // "NCCL 2.27.3"
}

}  // namespace facet::cuda
