// facet's own files: what loads is saved and loaded again as the same tensors.
#include <cstring>

#include "tensor/serialize.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace facet;
  static const std::filesystem::path copy =
      std::filesystem::temp_directory_path() / ("facet_fuzz_" + std::to_string(::getpid()));
  const fuzz::MemoryFile memory(data, size);
  try {
    const TensorFile first = load_safetensors(memory.path());
    if (!first.metadata.contains("facet.checksum")) return 0;
    save_safetensors(copy, first.tensors, first.metadata);
    const TensorFile second = load_safetensors(copy);
    std::filesystem::remove(copy);
    fuzz::require(first.tensors.size() == second.tensors.size());
    for (const NamedTensor& a : first.tensors)
      for (const NamedTensor& b : second.tensors)
        if (a.name == b.name)
          fuzz::require(a.value.shape() == b.value.shape() && a.value.dtype() == b.value.dtype() &&
                        std::memcmp(a.value.raw(), b.value.raw(), a.value.bytes()) == 0);
  } catch (const Error&) {
  }
  return 0;
}
