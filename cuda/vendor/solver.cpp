#include "cuda/vendor/solver.h"

#include <cusolverDn.h>

#include "cuda/runtime.h"

namespace facet::vendor {
namespace {

void check(cusolverStatus_t status, const char* call) {
  if (status != CUSOLVER_STATUS_SUCCESS)
    throw Error(fmt::format("{}: cuSOLVER status {}", call, static_cast<int>(status)));
}

// One handle a thread: a handle may not be used by two at once.
cusolverDnHandle_t handle() {
  thread_local cusolverDnHandle_t instance = [] {
    cusolverDnHandle_t made = nullptr;
    check(cusolverDnCreate(&made), "cusolverDnCreate");
    return made;
  }();
  return instance;
}

cusolverStatus_t buffer_size(int n, const float* a, const float* w, int* size) {
  return cusolverDnSsyevd_bufferSize(handle(), CUSOLVER_EIG_MODE_NOVECTOR, CUBLAS_FILL_MODE_LOWER,
                                     n, a, n, w, size);
}
cusolverStatus_t buffer_size(int n, const double* a, const double* w, int* size) {
  return cusolverDnDsyevd_bufferSize(handle(), CUSOLVER_EIG_MODE_NOVECTOR, CUBLAS_FILL_MODE_LOWER,
                                     n, a, n, w, size);
}
cusolverStatus_t solve(int n, float* a, float* w, float* work, int size, int* info) {
  return cusolverDnSsyevd(handle(), CUSOLVER_EIG_MODE_NOVECTOR, CUBLAS_FILL_MODE_LOWER, n, a, n, w,
                          work, size, info);
}
cusolverStatus_t solve(int n, double* a, double* w, double* work, int size, int* info) {
  return cusolverDnDsyevd(handle(), CUSOLVER_EIG_MODE_NOVECTOR, CUBLAS_FILL_MODE_LOWER, n, a, n, w,
                          work, size, info);
}

// The matrix is symmetric: row-major is column-major.
template <typename T>
void run(Tensor& matrix, Tensor& values) {
  const auto n = static_cast<int>(matrix.dim(0));
  const Device device = matrix.device();
  const cuda::DeviceGuard guard(device.index);
  check(cusolverDnSetStream(handle(), cuda::stream(device.index)), "cusolverDnSetStream");
  int size = 0;
  check(buffer_size(n, matrix.data<T>(), values.data<T>(), &size), "cusolverDnsyevd_bufferSize");
  Tensor work = Tensor::empty({size}, dtype_of<T>(), device);
  Tensor info = Tensor::zeros({1}, DType::i32, device);
  check(solve(n, matrix.data<T>(), values.data<T>(), work.data<T>(), size, info.data<int32_t>()),
        "cusolverDnsyevd");
  FACET_CHECK(info.item() == 0.0, "eigvalsh", "no convergence: is the matrix finite?");
}

}  // namespace

void symmetric_eigenvalues(Tensor& matrix, Tensor& values) {
  if (matrix.numel() == 0) return;
  if (matrix.dtype() == DType::f32) return run<float>(matrix, values);
  run<double>(matrix, values);
}

}  // namespace facet::vendor
