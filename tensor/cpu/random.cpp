// PENDING: replaced by the real kernels
#include "tensor/cpu/cpu_backend.h"
namespace facet {
void CpuBackend::random_uniform(const RandomKey&, double, double, Tensor&) { throw InternalError("random_uniform pending"); }
void CpuBackend::random_normal(const RandomKey&, double, double, Tensor&) { throw InternalError("random_normal pending"); }
}
