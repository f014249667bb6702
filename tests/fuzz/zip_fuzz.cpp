// Zip archives: entries lie in the file, share no byte, and unpack to what they say.
#include <algorithm>

#include "tensor/zip.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace facet;
  const fuzz::MemoryFile memory(data, size);
  fuzz::expect_value_or_file_error([&] {
    const InputFile file(memory.path());
    const ZipArchive zip(file);
    std::vector<std::pair<uint64_t, uint64_t>> ranges;
    for (const ZipEntry& entry : zip.entries()) {
      fuzz::require(entry.packed <= size && entry.begin <= size - entry.packed);
      if (entry.packed > 0) ranges.emplace_back(entry.begin, entry.begin + entry.packed);
      fuzz::require(zip.find(entry.name) == &entry);
    }
    std::sort(ranges.begin(), ranges.end());
    for (size_t i = 1; i < ranges.size(); ++i)
      fuzz::require(ranges[i].first >= ranges[i - 1].second);
    for (const ZipEntry& entry : zip.entries())
      if (entry.bytes < size_t{1} << 24) fuzz::require(zip.read(entry).size() == entry.bytes);
  });
  return 0;
}
