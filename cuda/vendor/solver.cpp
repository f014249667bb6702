#include "cuda/vendor/solver.h"

#include <cusolverDn.h>

#include <type_traits>
#include <utility>

#include "cuda/runtime.h"
#include "cuda/vendor/library.h"

namespace facet::cuda::vendor {
namespace {

struct Cusolver : Library {
  Cusolver() : Library("cuSOLVER", {"libcusolver.so.12", "libcusolver.so.11"}) {}
  VENDOR_FUNCTION(cusolverGetVersion);
  VENDOR_FUNCTION(cusolverDnCreate);
  VENDOR_FUNCTION(cusolverDnSetStream);
  VENDOR_FUNCTION(cusolverDnSsyevd_bufferSize);
  VENDOR_FUNCTION(cusolverDnDsyevd_bufferSize);
  VENDOR_FUNCTION(cusolverDnSsyevd);
  VENDOR_FUNCTION(cusolverDnDsyevd);
};
const Cusolver& solver() {
  static const auto* const library = new Cusolver;
  return *library;
}

void check_solver(cusolverStatus_t status, const char* call) {
  if (status != CUSOLVER_STATUS_SUCCESS)
    throw Error("{}: cuSOLVER status {}", call, static_cast<int>(status));
}

struct SolverState {
  std::mutex mutex;
  cusolverDnHandle_t handle = nullptr;
};

// What asks for the size of the workspace, and what solves.
template <typename T>
auto functions() {
  if constexpr (std::is_same_v<T, float>)
    return std::pair(solver().cusolverDnSsyevd_bufferSize, solver().cusolverDnSsyevd);
  else
    return std::pair(solver().cusolverDnDsyevd_bufferSize, solver().cusolverDnDsyevd);
}

// The matrix is symmetric: row-major is column-major.
template <typename T>
void run(Tensor& matrix, Tensor& values) {
  const auto n = static_cast<int>(matrix.dim(0));
  const Device device = matrix.device();
  // cuSOLVER waits for the device, which would spoil its handle.
  FACET_CHECK(!recording(device.index), "eigvalsh", "waits for the device, so it is not recorded");
  const DeviceGuard guard(device.index);
  auto& state = state_of<SolverState>(device.index);
  const std::lock_guard lock(state.mutex);
  if (!state.handle) check_solver(solver().cusolverDnCreate(&state.handle), "cusolverDnCreate");
  check_solver(solver().cusolverDnSetStream(state.handle, stream(device.index)),
               "cusolverDnSetStream");
  const auto [buffer_size, solve] = functions<T>();
  const auto mode = CUSOLVER_EIG_MODE_NOVECTOR;
  const auto fill = CUBLAS_FILL_MODE_LOWER;
  T *const a = matrix.data<T>(), *const w = values.data<T>();
  int size = 0;
  check_solver(buffer_size(state.handle, mode, fill, n, a, n, w, &size),
               "cusolverDnsyevd_bufferSize");
  Tensor work = Tensor::empty({size}, dtype_of<T>(), device);
  Tensor info = Tensor::zeros({1}, DType::i32, device);
  check_solver(
      solve(state.handle, mode, fill, n, a, n, w, work.data<T>(), size, info.data<int32_t>()),
      "cusolverDnsyevd");
  FACET_CHECK(info.item() == 0.0, "eigvalsh", "no convergence: is the matrix finite?");
}

}  // namespace

void symmetric_eigenvalues(Tensor& matrix, Tensor& values) {
  if (matrix.numel() == 0) return;
  FACET_CHECK(solver().found(), "eigvalsh", "CUDA devices need cuSOLVER for eigenvalues: {}",
              solver().missing());
  if (matrix.dtype() == DType::f32) return run<float>(matrix, values);
  run<double>(matrix, values);
}

std::string solver_library() {
  int version = 0;
  if (!solver().found()) return solver().describe_missing();
  check_solver(solver().cusolverGetVersion(&version), "cusolverGetVersion");
  return solver().describe(version, 1000);
}

}  // namespace facet::cuda::vendor
