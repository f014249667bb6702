// safetensors: u64 length N of a JSON header, the header, then one buffer with every tensor. Files
// open in any safetensors reader; what we read is checked before a byte of it is trusted.
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "tensor/file.h"
#include "tensor/stored_tensor.h"

namespace facet {

using Metadata = std::map<std::string, std::string>;
// Empty where there is no such key.
inline std::string value_of(const Metadata& metadata, const std::string& key) {
  const auto found = metadata.find(key);
  return found == metadata.end() ? std::string() : found->second;
}

struct TensorFile {
  Metadata metadata;
  std::vector<NamedTensor> tensors;  // as they lie in the file
};

// Every type from BOOL to F64 and BF16 is read; those that facet has no type for are widened
// (BOOL to u8, I8, I16 and U16 to i32, U32 and U64 to i64, F16 to f32). A file written by
// save_safetensors() carries a checksum of its buffer, which is verified.
TensorFile load_safetensors(const std::filesystem::path& path);

// Atomic (tensor/file.h) and deterministic: the same tensors give the same bytes. `metadata` is
// joined by {"format": "pt"}, without which other readers refuse the file, and the checksum.
void save_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                      Metadata metadata = {});

// The same for tensors of any type, as they are to lie in the file; they are sorted.
void save_safetensors(const std::filesystem::path& path, std::vector<PackedTensor> tensors,
                      Metadata metadata = {});

// What the file holds, its tensors left where they are; types that facet has none for are listed,
// too. verify_safetensors() reads all of them against the checksum that facet writes.
StoredContent open_safetensors(const InputFile& file);
void verify_safetensors(const InputFile& file, const StoredContent& content);

// Files hold convolutions as PyTorch does, (Cout, Cin, kh, kw); facet computes with (Cout, kh, kw,
// Cin). Every tensor of four axes is permuted, others are passed on.
std::vector<NamedTensor> to_file_layout(std::span<const NamedTensor> tensors);
std::vector<NamedTensor> from_file_layout(std::span<const NamedTensor> tensors);

}  // namespace facet
