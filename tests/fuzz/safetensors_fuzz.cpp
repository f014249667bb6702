// safetensors: tensors lie end to end and fill the file.
#include "tensor/serialize.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace facet;
  const fuzz::MemoryFile memory(data, size);
  fuzz::expect_value_or_file_error([&] {
    const InputFile file(memory.path());
    const StoredContent content = open_safetensors(file);
    uint64_t total = 0;
    for (const StoredTensor& tensor : content.tensors) {
      fuzz::require(content.blocks[tensor.block].bytes == tensor.bytes());
      total += tensor.bytes();
    }
    fuzz::require(total < size);
    load_safetensors(memory.path());
  });
  return 0;
}
