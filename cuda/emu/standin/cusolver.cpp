// cuSOLVER's symmetric eigenvalues by LAPACK, with cuSOLVER's own conventions: column-major, one
// triangle is read, the matrix is destroyed, the workspace is needed. What facet does not use is
// refused.
#include <cusolverDn.h>

#include <limits>
#include <vector>

#include "cuda/emu/runtime.h"
#include "tensor/cpu/blas.h"

namespace facet::emu {

struct Solver {
  cudaStream_t stream = nullptr;
};

namespace {

template <typename T>
cusolverStatus_t solve(Solver* handle, cusolverEigMode_t mode, cublasFillMode_t fill, int n, T* a,
                       int lda, T* w, T* work, int size, int* info) {
  if (!handle) return CUSOLVER_STATUS_NOT_INITIALIZED;
  if (mode != CUSOLVER_EIG_MODE_NOVECTOR) return CUSOLVER_STATUS_NOT_SUPPORTED;
  if (n < 1 || lda < n || size < n || !work) return CUSOLVER_STATUS_INVALID_VALUE;
  enqueue(handle->stream, [=] {
    const bool lower = fill == CUBLAS_FILL_MODE_LOWER;
    std::vector<T> matrix(static_cast<size_t>(n) * static_cast<size_t>(n));
    for (int col = 0; col < n; ++col)
      for (int row = 0; row < n; ++row) {
        const bool kept = lower ? row >= col : row <= col;
        const int64_t at = kept ? int64_t{col} * lda + row : int64_t{row} * lda + col;
        matrix[static_cast<size_t>(row) * static_cast<size_t>(n) + static_cast<size_t>(col)] =
            a[at];
      }
    blas::symmetric_eigenvalues(n, matrix.data(), w);
    for (int64_t i = 0; i < int64_t{n} * lda; ++i) a[i] = std::numeric_limits<T>::quiet_NaN();
    for (int i = 0; i < size; ++i) work[i] = std::numeric_limits<T>::quiet_NaN();
    *info = 0;
  });
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t needed(Solver* handle, int n, int lda, int* size) {
  if (!handle) return CUSOLVER_STATUS_NOT_INITIALIZED;
  if (n < 1 || lda < n) return CUSOLVER_STATUS_INVALID_VALUE;
  *size = 2 * n + 32;
  return CUSOLVER_STATUS_SUCCESS;
}

}  // namespace
}  // namespace facet::emu

using namespace facet::emu;

cusolverStatus_t cusolverGetVersion(int* version) {
  *version = 0;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t* handle) {
  *handle = new Solver;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t handle) {
  delete handle;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t handle, cudaStream_t stream) {
  if (!handle) return CUSOLVER_STATUS_NOT_INITIALIZED;
  handle->stream = stream;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnSsyevd_bufferSize(cusolverDnHandle_t handle, cusolverEigMode_t,
                                             cublasFillMode_t, int n, const float*, int lda,
                                             const float*, int* size) {
  return needed(handle, n, lda, size);
}
cusolverStatus_t cusolverDnDsyevd_bufferSize(cusolverDnHandle_t handle, cusolverEigMode_t,
                                             cublasFillMode_t, int n, const double*, int lda,
                                             const double*, int* size) {
  return needed(handle, n, lda, size);
}
cusolverStatus_t cusolverDnSsyevd(cusolverDnHandle_t handle, cusolverEigMode_t mode,
                                  cublasFillMode_t fill, int n, float* a, int lda, float* w,
                                  float* work, int size, int* info) {
  return solve(handle, mode, fill, n, a, lda, w, work, size, info);
}
cusolverStatus_t cusolverDnDsyevd(cusolverDnHandle_t handle, cusolverEigMode_t mode,
                                  cublasFillMode_t fill, int n, double* a, int lda, double* w,
                                  double* work, int size, int* info) {
  return solve(handle, mode, fill, n, a, lda, w, work, size, info);
}
