// NumPy's .npy files: a header that is a Python dictionary, then the elements of one array.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/file_types.h"

namespace facet {

// Versions 1 to 3, little-endian booleans, integers and floats of any size (tensor/file_types.h
// says what they become), at most five axes; Fortran order is turned into C order. The header is
// parsed, never evaluated, and every size is checked before it is trusted: a FileError names the
// file and what is wrong. Files with bytes behind the array are refused.
Tensor load_npy(const std::filesystem::path& path);

// Version 1, C order, atomically (tensor/file.h). NumPy has no bf16: cast it before.
void save_npy(const std::filesystem::path& path, const Tensor& tensor);

// What a file says before its elements, from its first kNpyStart bytes (or all, where there are
// fewer).
inline constexpr size_t kNpyStart = 12 + 10'000;
struct NpyHeader {
  const FileType* type = nullptr;
  Shape shape;
  bool fortran = false;
  uint64_t length = 0;  // bytes before the first element
};
// `file_bytes` of a whole file that holds nothing else; a FileError names it as `file`.
NpyHeader read_npy_header(std::string_view start, uint64_t file_bytes, const std::string& file);
// The header that goes before such elements in C order; empty for types NumPy does not have.
std::string npy_header(const FileType& type, const std::vector<int64_t>& shape);

}  // namespace facet
