// One way into every file of weights: the container is found by content, never by name. Opening a
// file reads what it says about its tensors; their elements are read when asked for.
#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <vector>

#include "tensor/file.h"
#include "tensor/stored_tensor.h"
#include "tensor/zip.h"

namespace facet {

// PyTorch's zip, legacy stream and tar, safetensors, .npz and .npy. Everything else, and every
// damaged or hostile file, is a FileError that says what it is and what to do about it.
// Reads may run side by side.
class WeightsFile {
 public:
  // `strict`: every checksum is verified now, and what would be a warning is an error; so is a
  // container without checksums.
  explicit WeightsFile(const std::filesystem::path& path, bool strict = false);

  const std::filesystem::path& path() const { return file_.path(); }
  const StoredContent& content() const { return content_; }
  const StoredTensor* find(const std::string& name) const;

  // The elements in row-major order, little-endian: tensor.bytes() of them.
  std::vector<std::byte> read(const StoredTensor& tensor) const;
  // As a tensor; types that facet does not have are widened (tensor/file_types.h).
  Tensor load(const StoredTensor& tensor) const;

 private:
  void open();
  void verify_all() const;
  void drop_duplicates();
  void check_totals() const;
  void read_into(const StoredTensor& tensor, std::span<std::byte> into) const;
  void read_block(const StoredBlock& block, uint64_t offset, std::span<std::byte> into) const;
  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    throw FileError("{}: {}", path().string(), fmt::format(format, std::forward<Args>(args)...));
  }

  InputFile file_;
  std::unique_ptr<ZipArchive> zip_;
  StoredContent content_;
  mutable std::once_flag verified_;
};

// A zip of .npy files, one a tensor. Atomic and byte for byte the same each time. NumPy has no
// bf16: such tensors are written as f32.
void save_npz(const std::filesystem::path& path, std::span<const PackedTensor> tensors);

}  // namespace facet
