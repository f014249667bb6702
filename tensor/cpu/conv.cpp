// PENDING: replaced by the real kernels
#include "tensor/cpu/cpu_backend.h"
namespace facet {
void CpuBackend::conv2d(const Tensor&, const Tensor&, const ConvArgs&, Tensor&) { throw InternalError("conv2d pending"); }
void CpuBackend::conv2d_backward_input(const Tensor&, const Tensor&, const ConvArgs&, Tensor&) { throw InternalError("conv2d_backward_input pending"); }
void CpuBackend::conv2d_backward_weight(const Tensor&, const Tensor&, const ConvArgs&, Tensor&) { throw InternalError("conv2d_backward_weight pending"); }
}
