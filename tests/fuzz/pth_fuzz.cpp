// Any file of weights, all three containers of PyTorch among them: every tensor that is listed can
// be read, to its last byte.
#include "tensor/weights_file.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace facet;
  const fuzz::MemoryFile memory(data, size);
  fuzz::expect_value_or_file_error([&] {
    const WeightsFile file(memory.path());
    uint64_t budget = uint64_t{16} << 20;  // an expanded view can be large
    for (const StoredTensor& tensor : file.content().tensors) {
      if (tensor.bytes() > budget) continue;
      budget -= tensor.bytes();
      fuzz::require(file.read(tensor).size() == tensor.bytes());
    }
  });
  return 0;
}
