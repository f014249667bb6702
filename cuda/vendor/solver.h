// cuSOLVER behind facet's types.
#pragma once

#include "tensor/tensor.h"

namespace facet::cuda::vendor {

// Eigenvalues of the symmetric (n, n) f32 or f64 matrix, ascending, into values (n). The matrix is
// overwritten. Throws where cuSOLVER is missing.
void symmetric_eigenvalues(Tensor& matrix, Tensor& values);

std::string solver_library();  // "cuSOLVER 12.0.4"

}  // namespace facet::cuda::vendor
