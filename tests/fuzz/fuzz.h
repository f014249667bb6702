// What the fuzz targets share. Each target is one LLVMFuzzerTestOneInput: a libFuzzer program with
// FACET_FUZZ (clang), and always a program that runs the files of its corpus, for the tests.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>

namespace facet {

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

// What a target promises, whatever its input.
inline void require(bool holds) {
  if (!holds) std::abort();
}

}  // namespace facet

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
