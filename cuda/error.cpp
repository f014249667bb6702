#include "cuda/runtime.h"

#if defined(FACET_CUDA_EMULATED)
#include "cuda/emu/runtime.h"
#endif

namespace facet::cuda {

void check(cudaError_t code, const char* call) {
  if (code == cudaSuccess) return;
  std::string text =
      fmt::format("{}: {} ({})", call, cudaGetErrorString(code), cudaGetErrorName(code));
#if defined(FACET_CUDA_EMULATED)
  if (const std::string fault = emu::last_fault(); !fault.empty())
    text = fmt::format("{}: {}: {}", call, cudaGetErrorName(code), fault);
#endif
  // Older drivers call what has no code an invalid function.
  if (code == cudaErrorNoKernelImageForDevice || code == cudaErrorInvalidDeviceFunction) {
    int device = 0;
    static_cast<void>(cudaGetDevice(&device));
    text = fmt::format(
        "cuda:{} is {}: this program holds code for {} (CMAKE_CUDA_ARCHITECTURES); build it for "
        "the device, or try another or --device cpu",
        device, device_description(device), FACET_CUDA_ARCHITECTURES);
  }
  static_cast<void>(cudaGetLastError());  // told here, it is no error of the launches that follow
  throw CudaError(text, code);
}

}  // namespace facet::cuda
