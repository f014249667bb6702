// What to do with CUDA's return codes.
#pragma once

#include <cuda_runtime.h>

#include "tensor/check.h"

namespace facet::cuda {

class CudaError : public DeviceError {
 public:
  CudaError(const std::string& message, cudaError_t code) : DeviceError(message), cuda_code(code) {}
  cudaError_t cuda_code;
};

// Throws CudaError, one line that names the call, unless `code` is cudaSuccess.
void check(cudaError_t code, const char* call);

}  // namespace facet::cuda
