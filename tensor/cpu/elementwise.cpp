// PENDING: replaced by the real kernels
#include "tensor/cpu/cpu_backend.h"
namespace facet {
void CpuBackend::unary(UnaryOp, const Tensor&, Tensor&) { throw InternalError("unary pending"); }
void CpuBackend::unary_backward(UnaryOp, const Tensor&, const Tensor&, const Tensor&, Tensor&) { throw InternalError("unary_backward pending"); }
void CpuBackend::binary(BinaryOp, const Tensor&, const Tensor&, Tensor&) { throw InternalError("binary pending"); }
void CpuBackend::binary_backward(BinaryOp, const Tensor&, const Tensor&, const Tensor&, Tensor&, Tensor&) { throw InternalError("binary_backward pending"); }
void CpuBackend::affine(double, const Tensor&, double, Tensor&) { throw InternalError("affine pending"); }
void CpuBackend::axpby(double, const Tensor&, double, Tensor&) { throw InternalError("axpby pending"); }
}
