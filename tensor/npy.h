// NumPy's .npy files: a header that is a Python dictionary, then the elements of one array.
#pragma once

#include <filesystem>

#include "tensor/tensor.h"

namespace facet {

// Versions 1 to 3, little-endian booleans, integers and floats of any size (tensor/file_types.h
// says what they become), at most five axes; Fortran order is turned into C order. The header is
// parsed, never evaluated, and every size is checked before it is trusted: a FileError names the
// file and what is wrong. Files with bytes behind the array are refused.
Tensor load_npy(const std::filesystem::path& path);

// Version 1, C order, atomically (tensor/file.h). NumPy has no bf16: cast it before.
void save_npy(const std::filesystem::path& path, const Tensor& tensor);

}  // namespace facet
