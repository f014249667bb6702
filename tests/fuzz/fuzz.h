// What the fuzz targets share: the input as text or as a file, and the one kind of failure that is
// allowed.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include "tensor/check.h"

namespace facet::fuzz {

// Damaged input may throw a FileError, which is one line, and nothing else.
template <typename F>
void expect_value_or_file_error(const F& f) {
  try {
    f();
  } catch (const FileError& error) {
    if (std::string_view(error.what()).empty()) std::abort();
  }
}

inline void require(bool holds) {
  if (!holds) std::abort();
}

inline std::string_view text(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// A file in memory with these bytes.
class MemoryFile {
 public:
  MemoryFile(const uint8_t* data, size_t size) : fd_(::memfd_create("fuzz", MFD_CLOEXEC)) {
    if (fd_ < 0 || ::write(fd_, data, size) != static_cast<ssize_t>(size)) std::abort();
  }
  ~MemoryFile() { ::close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::filesystem::path path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  int fd_;
};

}  // namespace facet::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
