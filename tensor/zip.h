// Zip archives, as far as files of weights need them: stored and deflated entries, zip64, read
// through the central directory. Nothing is ever extracted by name; names are only keys.
#pragma once

#include <atomic>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tensor/check.h"
#include "tensor/file.h"

namespace facet {

struct ZipEntry {
  std::string name;
  bool is_deflated = false;
  uint32_t crc = 0;
  uint64_t packed = 0, bytes = 0;  // in the file and unpacked
  uint64_t begin = 0;              // of the packed bytes, in the file
};

// Every way in which an archive can be wrong is a FileError with its name: truncated, overlapping
// entries, names that appear twice, sizes that no deflate stream reaches, encryption.
// Reads are const and may run side by side.
class ZipArchive {
 public:
  explicit ZipArchive(const InputFile& file);  // which must live as long

  const std::vector<ZipEntry>& entries() const { return entries_; }
  const ZipEntry* find(const std::string& name) const;
  size_t index_of(const ZipEntry& entry) const {
    return static_cast<size_t>(&entry - entries_.data());
  }

  // The entry, verified against its checksum.
  std::string read(const ZipEntry& entry) const;
  // Part of it; the first read verifies the whole.
  void read(const ZipEntry& entry, uint64_t offset, std::span<std::byte> into) const;
  // As many of its first bytes as there are, unverified: for listings.
  std::string read_start(const ZipEntry& entry, size_t bytes) const;

  void verify_all() const;  // every entry, whether or not the others' checksums are right
  // Some writers leave the checksums out. Where not one of them is right they are not used, which
  // shows when the first entry is read.
  bool has_no_checksums() const { return has_no_checksums_; }

 private:
  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const;
  void read_directory();
  void locate_entries(uint64_t directory);
  void inflate_into(const ZipEntry& entry, std::span<std::byte> into) const;
  uint32_t checksum_of(const ZipEntry& entry) const;
  void verify(const ZipEntry& entry, uint32_t crc, bool strict = false) const;
  bool none_is_right() const;

  const InputFile& file_;
  std::vector<ZipEntry> entries_;
  std::unordered_map<std::string_view, size_t> by_name_;
  mutable std::vector<std::atomic<bool>> verified_;
  mutable std::mutex unpacking_;
  mutable const ZipEntry* unpacked_entry_ = nullptr;
  mutable std::string unpacked_;  // the deflated entry that was read last
  mutable std::once_flag asked_;
  mutable std::atomic<bool> has_no_checksums_ = false;
};

// Writes an archive of stored entries whose content begins at multiples of 64, as PyTorch aligns
// them. The same entries in the same order give the same bytes.
class ZipWriter {
 public:
  explicit ZipWriter(AtomicFile& file) : file_(file) {}
  void add(const std::string& name, std::span<const std::byte> content);
  void add(const std::string& name, std::string_view content) {
    add(name, std::as_bytes(std::span(content)));
  }
  void finish();  // the directory; the file is still to be committed

 private:
  struct Written {
    std::string name;
    uint32_t crc;
    uint64_t bytes, header;
  };
  AtomicFile& file_;
  std::vector<Written> written_;
  uint64_t at_ = 0;
};

}  // namespace facet
