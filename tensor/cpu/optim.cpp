// PENDING: replaced by the real kernels
#include "tensor/cpu/cpu_backend.h"
namespace facet {
void CpuBackend::sgd_step(std::span<Tensor>, std::span<const Tensor>, std::span<Tensor>, std::span<const SgdArgs>) { throw InternalError("sgd_step pending"); }
void CpuBackend::adamw_step(std::span<Tensor>, std::span<const Tensor>, std::span<Tensor>, std::span<Tensor>, std::span<const AdamArgs>) { throw InternalError("adamw_step pending"); }
void CpuBackend::lars_step(std::span<Tensor>, std::span<const Tensor>, std::span<Tensor>, std::span<const LarsArgs>) { throw InternalError("lars_step pending"); }
void CpuBackend::ema_step(std::span<Tensor>, std::span<const Tensor>, double) { throw InternalError("ema_step pending"); }
void CpuBackend::sum_squares(std::span<const Tensor>, std::span<double>) { throw InternalError("sum_squares pending"); }
void CpuBackend::scale(std::span<Tensor>, std::span<const double>) { throw InternalError("scale pending"); }
}
