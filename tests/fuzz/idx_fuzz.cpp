#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "data/readers.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace facet;
  namespace fs = std::filesystem;
  static const fs::path file = fs::temp_directory_path() / fmt::format("facet_idx_{}", ::getpid());
  std::ofstream(file, std::ios::binary) << fuzz::text(data, size);
  for (const int rank : {1, 3})
    fuzz::expect_value_or_file_error([&] {
      const Tensor values = read_idx(file, rank);
      fuzz::require(values.rank() == rank);
      uint64_t sum = 0;
      for (const uint8_t v : values.to_vector<uint8_t>()) sum += v;
      fuzz::require(sum <= 255 * static_cast<uint64_t>(values.numel()));
    });
  fs::remove(file);
  return 0;
}
