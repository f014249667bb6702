// PENDING: replaced by the real kernels
#include "tensor/cpu/cpu_backend.h"
namespace facet {
void CpuBackend::max_pool2d(const Tensor&, const PoolArgs&, Tensor&, Tensor&) { throw InternalError("max_pool2d pending"); }
void CpuBackend::max_pool2d_backward(const Tensor&, const Tensor&, const PoolArgs&, Tensor&) { throw InternalError("max_pool2d_backward pending"); }
}
