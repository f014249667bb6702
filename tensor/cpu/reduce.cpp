// PENDING: replaced by the real kernels
#include "tensor/cpu/cpu_backend.h"
namespace facet {
void CpuBackend::reduce(ReduceOp, const Tensor&, int64_t, int64_t, int64_t, Tensor&) { throw InternalError("reduce pending"); }
void CpuBackend::argmax(const Tensor&, Tensor&) { throw InternalError("argmax pending"); }
void CpuBackend::topk(const Tensor&, int64_t, Tensor&, Tensor&) { throw InternalError("topk pending"); }
void CpuBackend::find_nonfinite(std::span<const Tensor>, int64_t&) { throw InternalError("find_nonfinite pending"); }
}
