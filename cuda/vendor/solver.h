// cuSOLVER behind facet's types.
#pragma once

#include "tensor/tensor.h"

namespace facet::vendor {

// Eigenvalues of the symmetric (n, n) f32 or f64 matrix, ascending, into values (n). The matrix is
// overwritten.
void symmetric_eigenvalues(Tensor& matrix, Tensor& values);

}  // namespace facet::vendor
