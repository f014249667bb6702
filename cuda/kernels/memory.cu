// Copies between devices and the host.
#include "cuda/kernels/common.cuh"

namespace facet {

using namespace cuda;

CudaBackend& cuda_backend() {
  static CudaBackend backend;
  return backend;
}

// Copies that touch the host have ended when this returns: pageable memory may go at once.
void CudaBackend::copy(const Tensor& src, Tensor& dst) {
  if (src.bytes() == 0) return;
  const bool from_host = src.device().is_cpu(), to_host = dst.device().is_cpu();
  const int device = to_host ? src.device().index : dst.device().index;
  const DeviceGuard guard(device);
  const cudaMemcpyKind kind = from_host ? cudaMemcpyHostToDevice
                              : to_host ? cudaMemcpyDeviceToHost
                                        : cudaMemcpyDeviceToDevice;
  if (!from_host && !to_host && src.device() != dst.device())
    check(cudaStreamSynchronize(stream(src.device().index)), "cudaStreamSynchronize");
  check(cudaMemcpyAsync(dst.raw(), src.raw(), src.bytes(), kind, stream(device)),
        "cudaMemcpyAsync");
  if (from_host || to_host) check(cudaStreamSynchronize(stream(device)), "cudaStreamSynchronize");
}

void CudaBackend::synchronize() {
  for (int device = 0; device < device_count(); ++device) {
    const DeviceGuard guard(device);
    check(cudaStreamSynchronize(stream(device)), "cudaStreamSynchronize");
  }
}

}  // namespace facet
