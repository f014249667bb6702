// cuBLASLt behind facet's types.
#pragma once

#include "tensor/backend.h"

namespace facet::cuda::vendor {

// As Backend::matmul. False, and nothing done: the library is missing or has no algorithm for this.
bool matmul(const Tensor& a, const Tensor& b, const Tensor& bias, const MatmulArgs& args,
            Tensor& out);

std::string blas_library();  // "cuBLASLt 13.1.0"

}  // namespace facet::cuda::vendor
