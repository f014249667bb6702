// The CUDA backend: own kernels for everything, one source file a family in cuda/kernels.
#pragma once

#include "tensor/backend.h"

namespace facet {

class CudaBackend final : public Backend {
 public:
#define BACKEND_METHOD(name, parameters, arguments) void name parameters override;
#include "tensor/backend.def"
#undef BACKEND_METHOD
};

CudaBackend& cuda_backend();

}  // namespace facet
