// The CPU backend: oneDNN for convolution and f32/bf16 matmul, OpenBLAS for f64 and LAPACK, own
// loops for the rest. One source file a family in this folder.
#pragma once

#include "tensor/backend.h"

namespace facet {

class CpuBackend final : public Backend {
 public:
#define BACKEND_METHOD(name, parameters, arguments) void name parameters override;
#include "tensor/backend.def"
#undef BACKEND_METHOD
};

CpuBackend& cpu_backend();

}  // namespace facet
