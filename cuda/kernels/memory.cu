// Copies between devices and the host.
#include "cuda/kernels/common.cuh"

namespace facet {

using namespace cuda;

CudaBackend& cuda_backend() {
  static CudaBackend backend;
  return backend;
}

// Host memory may go as soon as this returns.
void CudaBackend::copy(const Tensor& src, Tensor& dst) {
  if (src.bytes() == 0) return;
  const bool from_host = src.device().is_cpu(), to_host = dst.device().is_cpu();
  if (from_host) return upload(dst.raw(), src.raw(), src.bytes(), dst.device().index);
  const int device = to_host ? src.device().index : dst.device().index;
  const DeviceGuard guard(device);
  FACET_CHECK(!to_host || !recording(device), "copy",
              "a value is copied to the host in a step that is being recorded");
  if (!to_host && src.device() != dst.device())
    check(cudaStreamSynchronize(stream(src.device().index)), "cudaStreamSynchronize");
  check(
      cudaMemcpyAsync(dst.raw(), src.raw(), src.bytes(),
                      to_host ? cudaMemcpyDeviceToHost : cudaMemcpyDeviceToDevice, stream(device)),
      "cudaMemcpyAsync");
  if (to_host) check(cudaStreamSynchronize(stream(device)), "cudaStreamSynchronize");
}

void CudaBackend::synchronize() {
  for (int device = 0; device < device_count(); ++device) {
    const DeviceGuard guard(device);
    check(cudaStreamSynchronize(stream(device)), "cudaStreamSynchronize");
  }
}

}  // namespace facet
