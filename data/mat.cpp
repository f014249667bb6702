#include "data/mat.h"

#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tensor/check.h"
#include "tensor/file.h"
#include "tensor/text.h"

namespace facet {

namespace {

constexpr size_t kHeader = 128, kMaxInflated = size_t{64} << 20, kMaxElements = size_t{1} << 24;
constexpr int kDeepest = 16;

enum Type : uint32_t {
  i8 = 1,
  u8,
  i16,
  u16,
  i32,
  u32,
  f32,
  f64 = 9,
  i64 = 12,
  u64,
  matrix,
  compressed,
  utf8,
  utf16
};
enum Class : uint8_t { cell = 1, structure, text = 4, first_number = 6, last_number = 15 };

template <typename T>
T load(std::string_view bytes, size_t index = 0) {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof value, sizeof value);
  return value;
}

struct Element {
  uint32_t type = 0;
  std::string_view data;
};

// Takes the next element off `bytes`: a tag of type and size, then data up to a multiple of 8; of
// up to four bytes they may share the tag.
Element next(std::string_view& bytes) {
  if (bytes.size() < 8) throw std::runtime_error("it ends too early");
  const auto first = load<uint32_t>(bytes);
  if (const uint32_t small = first >> 16) {
    if (small > 4) throw std::runtime_error("a small element of more than 4 bytes");
    const Element element{first & 0xffff, bytes.substr(4, small)};
    bytes.remove_prefix(8);
    return element;
  }
  const size_t size = load<uint32_t>(bytes, 1);
  bytes.remove_prefix(8);
  if (size > bytes.size())
    throw std::runtime_error(
        fmt::format("an element of {} bytes, {} are left", size, bytes.size()));
  const Element element{first, bytes.substr(0, size)};
  const size_t padded = first == Type::compressed ? size : (size + 7) / 8 * 8;
  bytes.remove_prefix(std::min(padded, bytes.size()));
  return element;
}

Element expect(std::string_view& bytes, uint32_t type, const char* what) {
  const Element element = next(bytes);
  if (element.type != type)
    throw std::runtime_error(
        fmt::format("expected {} (type {}), got type {}", what, type, element.type));
  return element;
}

std::string inflate(std::string_view packed) {
  std::string bytes;
  z_stream stream{};
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
  stream.avail_in = static_cast<uInt>(packed.size());
  if (::inflateInit(&stream) != Z_OK) throw std::bad_alloc();
  int status = Z_OK;
  while (status == Z_OK && bytes.size() <= kMaxInflated) {
    const size_t done = bytes.size();
    bytes.resize(done + (size_t{1} << 16));
    stream.next_out = reinterpret_cast<Bytef*>(bytes.data() + done);
    stream.avail_out = 1u << 16;
    status = ::inflate(&stream, Z_NO_FLUSH);
    bytes.resize(bytes.size() - stream.avail_out);
  }
  ::inflateEnd(&stream);
  if (status != Z_STREAM_END) throw std::runtime_error("damaged or too large compressed data");
  return bytes;
}

// f(a value of the type in which such elements are stored).
template <typename F>
auto with_type(uint32_t type, const F& f) {
  switch (type) {
    case Type::i8: return f(int8_t{});
    case Type::utf8:
    case Type::u8: return f(uint8_t{});
    case Type::i16: return f(int16_t{});
    case Type::utf16:
    case Type::u16: return f(uint16_t{});
    case Type::i32: return f(int32_t{});
    case Type::u32: return f(uint32_t{});
    case Type::f32: return f(float{});
    case Type::f64: return f(double{});
    case Type::i64: return f(int64_t{});
    case Type::u64: return f(uint64_t{});
    default: throw std::runtime_error(fmt::format("values of type {}", type));
  }
}

}  // namespace

struct MatFile::Array {
  uint8_t kind = 0;  // Class
  std::string name, text;
  size_t count = 0;
  std::vector<double> numbers;
  std::vector<std::string> fields;
  std::vector<Array> items;  // of cells; of structs, field by field

  // `head_only`: up to the name.
  static Array parse(std::string_view bytes, int depth, bool head_only = false) {
    if (depth > kDeepest) throw std::runtime_error("too deeply nested");
    Array array;
    if (bytes.empty()) return array;  // an empty cell
    const Element flags = expect(bytes, Type::u32, "flags");
    if (flags.data.size() != 8) throw std::runtime_error("wrong flags");
    array.kind = static_cast<uint8_t>(flags.data[0]);
    const Element dims = expect(bytes, Type::i32, "extents");
    array.count = 1;
    for (size_t d = 0; d < dims.data.size() / 4; ++d)
      if (__builtin_mul_overflow(array.count, load<uint32_t>(dims.data, d), &array.count) ||
          array.count > kMaxElements)
        throw std::runtime_error("too many values");
    array.name = expect(bytes, Type::i8, "a name").data;
    if (head_only) return array;
    if (flags.data[1] & 8) throw std::runtime_error("complex numbers");
    if (array.kind == Class::cell) {
      array.parse_items(bytes, array.count, depth);
    } else if (array.kind == Class::structure) {
      const Element length = expect(bytes, Type::i32, "the length of names");
      const auto step = length.data.size() == 4 ? load<uint32_t>(length.data) : 0;
      const Element names = expect(bytes, Type::i8, "names of fields");
      if (step == 0 || names.data.size() % step) throw std::runtime_error("wrong names of fields");
      for (size_t at = 0; at < names.data.size(); at += step) {
        const std::string_view field = names.data.substr(at, step);
        array.fields.emplace_back(field.substr(0, field.find('\0')));
      }
      array.parse_items(bytes, array.count * array.fields.size(), depth);
    } else if (array.kind == Class::text ||
               (array.kind >= Class::first_number && array.kind <= Class::last_number)) {
      array.parse_values(next(bytes));
    } else {
      throw std::runtime_error(fmt::format("values of class {}", array.kind));
    }
    return array;
  }

 private:
  void parse_items(std::string_view bytes, size_t wanted, int depth) {
    if (wanted > bytes.size() / 8) throw std::runtime_error("fewer values than it announces");
    for (size_t i = 0; i < wanted; ++i)
      items.push_back(parse(expect(bytes, Type::matrix, "a value").data, depth + 1));
  }
  void parse_values(const Element& e) {
    const size_t width = with_type(e.type, [](auto value) { return sizeof value; });
    if (kind == Class::text && width == 1) {
      text = e.data;
      return;
    }
    if (e.data.size() != count * width)
      throw std::runtime_error(
          fmt::format("{} bytes for {} values of {}", e.data.size(), count, width));
    for (size_t i = 0; i < count; ++i)
      if (kind == Class::text)
        append_utf8(text, width == 2 ? load<uint16_t>(e.data, i) : '?');
      else  // in the smallest type that holds all, whatever their class
        numbers.push_back(with_type(
            e.type, [&]<typename T>(T) { return static_cast<double>(load<T>(e.data, i)); }));
  }
};

MatFile::MatFile(const std::filesystem::path& file) : MatFile(read_file(file), file.string()) {}

MatFile::MatFile(std::string content, std::string name) : name_(std::move(name)) {
  const std::string_view all = content;
  if (all.starts_with("MATLAB 7.3") || all.starts_with("\x89HDF"))
    throw FileError(
        "{}: a MATLAB 7.3 file; expected version 5 (save it with -v7, or scipy.io.savemat)", name_);
  if (all.size() < kHeader || all.substr(126, 2) != "IM")
    throw FileError("{}: expected a MATLAB file of version 5, got {} bytes of something else",
                    name_, all.size());
  try {
    size_t total = 0;
    for (std::string_view rest = all.substr(kHeader); !rest.empty();) {
      Element element = next(rest);
      std::string inflated;
      if (element.type == Type::compressed) {
        inflated = inflate(element.data);
        std::string_view inside = inflated;
        element = next(inside);
      }
      total += element.data.size();
      if (total > kMaxInflated) throw std::runtime_error("too much data");
      if (element.type == Type::matrix)
        variables_[Array::parse(element.data, 0, true).name] = element.data;
    }
  } catch (const std::runtime_error& error) {
    throw FileError("{}: damaged MATLAB file: {}", name_, error.what());
  }
}

// Calls `use` on the array, each of its cells, or the field of each of its structs.
template <typename Use>
void MatFile::each(const std::string& variable, const std::string& field, const Use& use) const {
  const auto stored = variables_.find(variable);
  if (stored == variables_.end()) throw FileError("{}: expected a variable '{}'", name_, variable);
  Array array;
  try {
    array = Array::parse(stored->second, 0);
  } catch (const std::runtime_error& error) {
    throw FileError("{}: variable '{}': {}", name_, variable, error.what());
  }
  if (field.empty()) {
    if (array.kind != Class::cell) return use(array);
    for (const Array& item : array.items) use(item);
    return;
  }
  const auto found = std::find(array.fields.begin(), array.fields.end(), field);
  if (found == array.fields.end())
    throw FileError("{}: variable '{}': expected structs with '{}'", name_, variable, field);
  for (auto i = static_cast<size_t>(found - array.fields.begin()); i < array.items.size();
       i += array.fields.size())
    use(array.items[i]);
}

std::vector<int64_t> MatFile::integers(const std::string& variable,
                                       const std::string& field) const {
  std::vector<int64_t> values;
  each(variable, field, [&](const Array& array) {
    if (!field.empty() && array.numbers.size() != 1)
      throw FileError("{}: variable '{}': expected a number a struct", name_, variable);
    for (const double value : array.numbers) {
      if (!(std::abs(value) < 9e15) || value != std::floor(value))
        throw FileError("{}: variable '{}': expected whole numbers, got {}", name_, variable,
                        value);
      values.push_back(static_cast<int64_t>(value));
    }
  });
  return values;
}

std::vector<std::string> MatFile::strings(const std::string& variable,
                                          const std::string& field) const {
  std::vector<std::string> values;
  each(variable, field, [&](const Array& array) {
    // MATLAB wraps texts in cells of one.
    const Array& inner =
        array.kind == Class::cell && array.items.size() == 1 ? array.items[0] : array;
    if (inner.kind != Class::text && inner.kind != 0)
      throw FileError("{}: variable '{}': expected text", name_, variable);
    values.push_back(inner.text);
  });
  return values;
}

}  // namespace facet
