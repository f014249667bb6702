#include "data/cifar_python.h"

#include "tensor/pickle.h"

namespace facet {
namespace {

using Id = Pickle::Id;
using Kind = Pickle::Kind;

bool is_numpy_array(std::string_view name) {
  return name == "numpy.core.multiarray._reconstruct" || name == "numpy.ndarray" ||
         name == "numpy.dtype";
}

bool is_number(const Pickle& pickle, Id id) {
  return pickle.is(id, Kind::integer) || pickle.is(id, Kind::boolean);
}

// Says what is wrong with the array, or nothing. Its state is (version, (rows, columns), type,
// fortran, bytes); the type's first argument is its name.
std::string read_array(const Pickle& pickle, Id array, CifarPickle& result) {
  if (!pickle.is(array, Kind::object) || pickle.items(pickle.state(array)).size() != 5)
    return "no array 'data'";
  const auto part = [&](size_t i) { return pickle.item(pickle.state(array), i); };
  const auto number = [&](Id id) { return is_number(pickle, id) ? pickle.integer(id) : 0; };
  const Id type = part(2);
  const bool is_bytes =
      pickle.is(type, Kind::object) && pickle.text(pickle.item(pickle.arguments(type), 0)) == "u1";
  if (pickle.items(part(1)).size() != 2 || !is_bytes) return "'data' is no matrix of bytes";
  result.rows = number(pickle.item(part(1), 0));
  result.columns = number(pickle.item(part(1), 1));
  result.fortran = number(part(3)) != 0;
  result.data = pickle.text(part(4));
  int64_t numel = 0;
  if (result.rows < 0 || result.columns < 0 ||
      __builtin_mul_overflow(result.rows, result.columns, &numel) ||
      numel != static_cast<int64_t>(result.data.size()))
    return fmt::format("{} bytes of 'data' for {} x {}", result.data.size(), result.rows,
                       result.columns);
  return {};
}

}  // namespace

CifarPickle parse_cifar_pickle(std::string bytes, const std::string& file) {
  const auto fail = [&](const std::string& what) {
    throw FileError("{}: no batch of CIFAR's Python version: {}", file, what);
  };
  if (bytes.starts_with('\x80') && bytes.size() > 1 && static_cast<uint8_t>(bytes[1]) > 2)
    fail("a newer protocol than Python 2's");
  CifarPickle result;
  try {
    result.owner = std::make_shared<const Pickle>(std::move(bytes), nullptr, is_numpy_array);
  } catch (const PickleTruncated& e) {
    fail(fmt::format("it ends too early: {}", e.what()));
  } catch (const FileError& e) {
    fail(e.what());
  }
  const Pickle& pickle = *result.owner;
  if (!pickle.is(pickle.root(), Kind::dict)) fail("no dictionary");
  const std::span<const Id> entries = pickle.items(pickle.root());
  for (size_t i = 0; i < entries.size(); i += 2) {
    const std::string key(pickle.text(entries[i]));
    const Id value = entries[i + 1];
    if (key == "data") {
      if (const std::string problem = read_array(pickle, value, result); !problem.empty())
        fail(problem);
    } else if (pickle.is(value, Kind::list) || pickle.is(value, Kind::tuple)) {
      for (const Id item : pickle.items(value))
        if (is_number(pickle, item))
          result.numbers[key].push_back(pickle.integer(item));
        else if (pickle.is(item, Kind::text))
          result.texts[key].emplace_back(pickle.text(item));
    }
  }
  return result;
}

}  // namespace facet
