// PENDING: replaced by the real kernels
#include "tensor/cpu/cpu_backend.h"
namespace facet {
void CpuBackend::gather_rows(const Tensor&, const Tensor&, Tensor&) { throw InternalError("gather_rows pending"); }
void CpuBackend::scatter_add_rows(const Tensor&, const Tensor&, Tensor&) { throw InternalError("scatter_add_rows pending"); }
void CpuBackend::permute(const Tensor&, std::span<const int>, Tensor&) { throw InternalError("permute pending"); }
}
