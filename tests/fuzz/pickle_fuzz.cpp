// Pickles: every node that can be reached is one, and everything inside it, too.
#include "tensor/pickle.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace facet;
  fuzz::expect_value_or_file_error([&] {
    const Pickle pickle(std::string(reinterpret_cast<const char*>(data), size));
    fuzz::require(pickle.length() <= size && pickle.root() < pickle.size());
    size_t letters = 0;
    for (Pickle::Id id = 0; id < pickle.size(); ++id) {
      for (const Pickle::Id item : pickle.items(id)) fuzz::require(item < pickle.size());
      for (const char c : pickle.text(id)) letters += c == 'x';
      if (pickle.is(id, Pickle::Kind::dict)) fuzz::require(pickle.items(id).size() % 2 == 0);
      if (pickle.is(id, Pickle::Kind::object)) fuzz::require(pickle.items(id).size() == 5);
    }
    fuzz::require(letters <= size * size + 1);
  });
  return 0;
}
