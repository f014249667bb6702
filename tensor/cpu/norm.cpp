// PENDING: replaced by the real kernels
#include "tensor/cpu/cpu_backend.h"
namespace facet {
void CpuBackend::batch_norm_train(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const BatchNormArgs&, Tensor&, Tensor&, Tensor&, Tensor&, Tensor&, Tensor&) { throw InternalError("batch_norm_train pending"); }
void CpuBackend::batch_norm_eval(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const BatchNormArgs&, Tensor&, Tensor&) { throw InternalError("batch_norm_eval pending"); }
void CpuBackend::batch_norm_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const BatchNormArgs&, Tensor&, Tensor&, Tensor&, Tensor&) { throw InternalError("batch_norm_backward pending"); }
}
