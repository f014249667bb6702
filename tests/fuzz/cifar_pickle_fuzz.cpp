#include "data/cifar_python.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace facet;
  fuzz::expect_value_or_file_error([&] {
    const CifarPickle pickle = parse_cifar_pickle(std::string(fuzz::text(data, size)), "fuzz");
    fuzz::require(pickle.rows * pickle.columns == static_cast<int64_t>(pickle.data.size()));
    fuzz::require(pickle.data.size() <= size);
  });
  return 0;
}
