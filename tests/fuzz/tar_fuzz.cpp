// Members lie inside of the archive and do not overlap headers before them.
#include <algorithm>

#include "tensor/tar.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace facet;
  fuzz::expect_value_or_file_error([&] {
    const auto read = [&](size_t offset, std::span<std::byte> into) {
      fuzz::require(offset <= size && into.size() <= size - offset);
      std::copy_n(reinterpret_cast<const std::byte*>(data) + offset, into.size(), into.begin());
    };
    size_t end = 0;
    for (const TarMember& member : index_tar(read, 0, size, "fuzz")) {
      fuzz::require(member.offset >= end + 512 && member.offset <= size &&
                    member.size <= size - member.offset);
      end = member.offset + member.size;
    }
  });
  return 0;
}
