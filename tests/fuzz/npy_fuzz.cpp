// .npy: what is loaded has as many elements as its header says.
#include "tensor/npy.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace facet;
  const fuzz::MemoryFile memory(data, size);
  fuzz::expect_value_or_file_error([&] {
    const Tensor tensor = load_npy(memory.path());
    const NpyHeader header =
        read_npy_header({reinterpret_cast<const char*>(data), size}, size, "fuzz");
    fuzz::require(tensor.shape() == header.shape);
    fuzz::require(bytes_of(*header.type, static_cast<uint64_t>(tensor.numel())) ==
                  size - header.length);
  });
  return 0;
}
