#include "cuda/error.h"

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
  throw CudaError(text, code);
}

}  // namespace facet::cuda
