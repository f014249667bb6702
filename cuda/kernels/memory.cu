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
  const Device from = src.device(), to = dst.device();
  if (from.is_cpu()) return upload(dst.raw(), src.raw(), src.bytes(), to.index);
  const int device = to.is_cpu() ? from.index : to.index;
  FACET_CHECK(from == to || (!recording(from.index) && !recording(device)), "copy",
              "a value leaves the device in a step that is being recorded");
  // src's memory is its device's again as soon as it goes.
  if (from.index != device) wait_for(device, from.index);
  const DeviceGuard guard(device);
  check(cudaMemcpyAsync(dst.raw(), src.raw(), src.bytes(),
                        to.is_cpu() ? cudaMemcpyDeviceToHost : cudaMemcpyDeviceToDevice,
                        stream(device)),
        "cudaMemcpyAsync");
  if (from.index != device) wait_for(from.index, device);
  if (to.is_cpu()) check(cudaStreamSynchronize(stream(device)), "cudaStreamSynchronize");
}

void CudaBackend::synchronize() {
  for (int device = 0; device < device_count(); ++device) {
    if (!in_use(device)) continue;
    const DeviceGuard guard(device);
    check(cudaStreamSynchronize(stream(device)), "cudaStreamSynchronize");
  }
}

}  // namespace facet
