// PENDING: replaced by the real kernels
#include "tensor/cpu/cpu_backend.h"
namespace facet {
void CpuBackend::l2_normalize(const Tensor&, double, Tensor&, Tensor&) { throw InternalError("l2_normalize pending"); }
void CpuBackend::l2_normalize_backward(const Tensor&, const Tensor&, const Tensor&, double, Tensor&) { throw InternalError("l2_normalize_backward pending"); }
void CpuBackend::softmax(const Tensor&, bool, Tensor&) { throw InternalError("softmax pending"); }
void CpuBackend::softmax_backward(const Tensor&, const Tensor&, bool, Tensor&) { throw InternalError("softmax_backward pending"); }
void CpuBackend::cross_entropy(const Tensor&, const Tensor&, double, Tensor&, Tensor&) { throw InternalError("cross_entropy pending"); }
void CpuBackend::cross_entropy_backward(const Tensor&, const Tensor&, double, const Tensor&, const Tensor&, Tensor&) { throw InternalError("cross_entropy_backward pending"); }
void CpuBackend::soft_cross_entropy(const Tensor&, const Tensor&, Tensor&, Tensor&) { throw InternalError("soft_cross_entropy pending"); }
void CpuBackend::soft_cross_entropy_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&, Tensor&) { throw InternalError("soft_cross_entropy_backward pending"); }
}
