#include "data/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "tensor/check.h"

namespace facet {

MappedFile::MappedFile(const std::filesystem::path& file) {
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat info {};
  void* memory = MAP_FAILED;
  if (fd >= 0 && ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode)) {
    size_ = static_cast<size_t>(info.st_size);
    if (size_ > 0) memory = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd, 0);
  }
  const int reason = errno;
  if (fd >= 0) ::close(fd);
  if (memory == MAP_FAILED && size_ > 0)
    throw FileError("{}: cannot be mapped: {}", file.string(), std::strerror(reason));
  if (fd < 0) throw FileError("{}: {}", file.string(), std::strerror(reason));
  if (size_ > 0) data_ = static_cast<const char*>(memory);
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<char*>(data_), size_);
}

}  // namespace facet
