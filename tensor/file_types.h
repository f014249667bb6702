// Element types of files, those among them that facet computes with and those that it widens.
#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "tensor/tensor.h"

namespace facet {

// What a file's element is, by safetensors' names (BOOL, U8 ... F64), and what it becomes here:
// nothing for those that facet can list and copy but not compute with.
struct FileType {
  const char* name;
  size_t bits;
  std::optional<DType> dtype;

  size_t bytes() const { return bits / 8; }  // 0 for those smaller than a byte
};

const FileType* find_file_type(std::string_view name);  // null: there is none
const FileType& file_type_of(DType dtype);              // the one that facet writes
// Of so many elements; those smaller than a byte are packed.
inline uint64_t bytes_of(const FileType& type, uint64_t numel) {
  return type.bits >= 8 ? numel * type.bytes() : numel / 8 * type.bits + numel % 8 * type.bits / 8;
}

// Little-endian elements, shape.numel() of them, as a tensor: BOOL to u8, I8, I16 and U16 to i32,
// U32 and U64 to i64, F16 to f32. A FileError where a U64 does not fit or facet has no such type.
Tensor decode(const FileType& type, std::span<const std::byte> bytes, const Shape& shape);

}  // namespace facet
