// What a file of weights says about its tensors before any of their elements are read.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tensor/file_types.h"

namespace facet {

// A run of bytes in which tensors lie. Tensors that share memory share their block.
struct StoredBlock {
  enum class In : uint8_t { file, zip, memory };
  In in = In::file;
  uint64_t begin = 0;  // in the file, or in the zip's entry
  uint64_t bytes = 0;
  size_t entry = 0;          // of the zip
  std::string content = {};  // in memory
  bool big_endian = false;
};

// A view of a block: element (i, j, ...) lies offset + i strides[0] + j strides[1] + ... elements
// behind its begin. Where everything lies is checked when the file is opened.
struct StoredTensor {
  std::string name;  // of nested dictionaries the keys joined by dots: "state_dict.conv1.weight"
  const FileType* type = nullptr;
  std::vector<int64_t> shape, strides;
  uint64_t offset = 0;
  size_t block = 0;

  uint64_t numel() const {
    uint64_t n = 1;
    for (const int64_t extent : shape) n *= static_cast<uint64_t>(extent);
    return n;
  }
  uint64_t bytes() const { return bytes_of(*type, numel()); }
};

// Row-major, or with the first axis innermost (Fortran's order); all zero-size extents count as 1.
inline std::vector<int64_t> contiguous_strides(const std::vector<int64_t>& shape,
                                               bool fortran = false) {
  std::vector<int64_t> strides(shape.size());
  int64_t step = 1;
  for (size_t i = 0; i < shape.size(); ++i) {
    const size_t axis = fortran ? i : shape.size() - 1 - i;
    strides[axis] = step;
    step *= shape[axis] > 0 ? shape[axis] : 1;
  }
  return strides;
}

// A tensor that is to be written: little-endian elements in row-major order.
struct PackedTensor {
  std::string name;
  const FileType* type = nullptr;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

struct StoredContent {
  std::string container = {};  // zip, legacy, tar (PyTorch's three), npz, npy or safetensors
  std::vector<StoredTensor> tensors = {};
  std::vector<StoredBlock> blocks = {};
  std::map<std::string, std::string> metadata =
      {};                                  // the file's own, or plain values near its root
  std::vector<std::string> opaque = {};    // types of objects that were passed over, by name
  std::vector<std::string> warnings = {};  // what is odd about the file, a line each
};

}  // namespace facet
