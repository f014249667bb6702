#include "data/mat.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace facet;
  fuzz::expect_value_or_file_error([&] {
    const MatFile file(std::string(fuzz::text(data, size)), "fuzz");
    // As the readers ask for them.
    for (const char* variable : {"labels", "trnid"})
      fuzz::expect_value_or_file_error([&] { file.integers(variable); });
    for (const char* variable : {"file_list", "class_names"})
      fuzz::expect_value_or_file_error([&] { file.strings(variable); });
    for (const char* field : {"class", "test"})
      fuzz::expect_value_or_file_error([&] { file.integers("annotations", field); });
    for (const char* field : {"fname", "relative_im_path"})
      fuzz::expect_value_or_file_error([&] { file.strings("annotations", field); });
  });
  return 0;
}
