// The members of a tar file by place, so that they are read where they lie (POSIX.1-1988 ustar,
// GNU long names, PAX paths and sizes, base-256 sizes).
#pragma once

#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "tensor/file.h"

namespace facet {

struct TarMember {
  std::string name;
  size_t offset = 0, size = 0;  // of its bytes in the file
};

// Reads `into.size()` bytes from `offset`.
using ReadAt = std::function<void(size_t offset, std::span<std::byte> into)>;

// The regular members of the archive in bytes [begin, end) of a file, in their order. A FileError
// that names `file` and the byte for a damaged header, and for a member that leaves the archive.
std::vector<TarMember> index_tar(const ReadAt& read, size_t begin, size_t end,
                                 const std::string& file);
std::vector<TarMember> index_tar(const InputFile& file);
// The same for a tar file whose members are tar files (ImageNet's): all pictures of all of them.
// What was found is kept in FILE.facet-index beside it, with a checksum, where that can be written.
std::vector<TarMember> index_nested_tar(const InputFile& file);

// The bytes of a gzipped file, or of a plain one, `limit` of them at most.
std::string read_gzip(const std::filesystem::path& file, size_t limit);

}  // namespace facet
