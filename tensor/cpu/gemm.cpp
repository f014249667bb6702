// PENDING: replaced by the real kernels
#include "tensor/cpu/cpu_backend.h"
namespace facet {
void CpuBackend::matmul(const Tensor&, const Tensor&, const Tensor&, const MatmulArgs&, Tensor&) { throw InternalError("matmul pending"); }
}
