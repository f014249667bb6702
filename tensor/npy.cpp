#include "tensor/npy.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "tensor/file.h"
#include "tensor/file_types.h"
#include "tensor/ops.h"

namespace facet {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr uint64_t kLargestHeader = 10'000;  // NumPy's own limit

constexpr std::pair<std::string_view, std::string_view> kKinds[] = {
    {"f2", "F16"}, {"f4", "F32"}, {"f8", "F64"}, {"i1", "I8"},  {"i2", "I16"}, {"i4", "I32"},
    {"i8", "I64"}, {"u1", "U8"},  {"u2", "U16"}, {"u4", "U32"}, {"u8", "U64"}, {"b1", "BOOL"}};

// {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), } and nothing else.
class Header {
 public:
  Header(std::string_view text, std::string file) : rest_(text), file_(std::move(file)) {
    expect("{");
    while (!take("}")) {
      const std::string key = quoted();
      expect(":");
      if (key == "descr" && descr.empty())
        read_descr();
      else if (key == "fortran_order" && !has_order_)
        read_order();
      else if (key == "shape" && !has_shape_)
        read_shape();
      else
        fail("'{}' in its header is unknown or there twice", key);
      if (!take(",")) {
        expect("}");
        break;
      }
    }
    skip_space();
    if (!rest_.empty()) fail("its header goes on behind the dictionary");
    if (descr.empty() || !has_order_ || !has_shape_)
      fail("its header lacks one of descr, fortran_order and shape");
  }

  std::string descr;
  const FileType* type = nullptr;
  bool fortran = false;
  Shape shape;

  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    throw FileError("{}: {}", file_, fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  void skip_space() { rest_.remove_prefix(std::min(rest_.find_first_not_of(" \n"), rest_.size())); }
  bool take(std::string_view token) {
    skip_space();
    if (!rest_.starts_with(token)) return false;
    rest_.remove_prefix(token.size());
    return true;
  }
  void expect(std::string_view token) {
    if (!take(token))
      fail("expected '{}' in its header before '{}'", token, printable(rest_.substr(0, 20)));
  }
  static std::string printable(std::string_view text) {
    std::string shown(text);
    for (char& c : shown)
      if (c < ' ' || c > '~') c = '?';
    return shown;
  }
  std::string quoted() {
    const std::string_view quote = take("\"") ? "\"" : "'";
    if (quote == "'") expect(quote);
    const size_t end = rest_.find(quote);
    if (end == std::string_view::npos || end > 64) fail("a word in its header does not end");
    const std::string word = printable(rest_.substr(0, end));
    rest_.remove_prefix(end + 1);
    return word;
  }

  // A byte order, a kind and a size: "<f4", "|u1".
  void read_descr() {
    if (take("[")) fail("structured arrays are not supported");
    descr = quoted();
    const std::string_view order = std::string_view(descr).substr(0, 1);
    const std::string_view kind = std::string_view(descr).substr(descr.empty() ? 0 : 1);
    if (kind.starts_with("O")) fail("Python objects ('{}') are a pickle: never read", descr);
    const bool is_byte = kind == "b1" || kind == "i1" || kind == "u1";
    if (order == ">" && !is_byte) fail("'{}' is big-endian: save it as little-endian", descr);
    for (const auto& [numpy, name] : kKinds)
      if (kind == numpy && (order == "<" || order == "=" || is_byte)) type = find_file_type(name);
    if (!type) fail("elements of type '{}' are not supported", descr);
  }

  void read_order() {
    has_order_ = true;
    fortran = take("True");
    if (!fortran) expect("False");
  }

  // (), (3,), (2, 3) or, in old files, (2L, 3L)
  void read_shape() {
    has_shape_ = true;
    expect("(");
    uint64_t product = type ? type->bytes() : 8;  // with zero extents as 1
    bool comma = true;
    while (!take(")")) {
      if (!comma) expect(",");
      skip_space();
      int64_t extent = -1;
      const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), extent);
      if (error != std::errc() || extent < 0)
        fail("expected an extent in its header before '{}'", printable(rest_.substr(0, 20)));
      rest_.remove_prefix(static_cast<size_t>(end - rest_.data()));
      take("L");
      comma = take(",");
      if (shape.rank() == Shape::kMaxRank) fail("more than {} axes", int{Shape::kMaxRank});
      if (__builtin_mul_overflow(product, std::max<uint64_t>(static_cast<uint64_t>(extent), 1),
                                 &product) ||
          product > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) / 8)
        fail("its size overflows");
      shape.push_back(extent);
    }
    if (shape.rank() == 1 && !comma) fail("its shape is no tuple");
  }

  std::string_view rest_;
  std::string file_;
  bool has_order_ = false, has_shape_ = false;
};

// x (C order) with its axes reversed.
Tensor reversed(const Tensor& x) {
  std::vector<int> axes(static_cast<size_t>(x.rank()));
  std::iota(axes.rbegin(), axes.rend(), 0);
  return ops::permute(x, axes);
}

}  // namespace

NpyHeader read_npy_header(std::string_view start, uint64_t file_bytes, const std::string& file) {
  const auto fail = [&](const std::string& what) { throw FileError("{}: {}", file, what); };
  if (start.size() < 12 || !start.starts_with(kMagic)) fail("not a .npy file");
  const auto byte = [&](size_t i) { return uint64_t{static_cast<uint8_t>(start[i])}; };
  const uint64_t version = byte(6);
  if (version < 1 || version > 3) fail(fmt::format("version {} of .npy is unknown", version));
  const uint64_t begin = version == 1 ? 10 : 12;
  uint64_t length = byte(8) | byte(9) << 8;
  if (version > 1) length |= byte(10) << 16 | byte(11) << 24;
  if (length > kLargestHeader || begin + length > start.size())
    fail(fmt::format("header of {} bytes in a file of {}, expected at most {}", length, file_bytes,
                     kLargestHeader));
  const Header header(start.substr(begin, length), file);
  const uint64_t bytes = bytes_of(*header.type, static_cast<uint64_t>(header.shape.numel()));
  if (file_bytes - begin - length != bytes)
    fail(fmt::format("{} of '{}' needs {} bytes behind the header, got {}", header.shape,
                     header.descr, bytes, file_bytes - begin - length));
  return {header.type, header.shape, header.fortran, begin + length};
}

Tensor load_npy(const std::filesystem::path& path) {
  const InputFile file(path);
  std::string start(std::min(file.size(), kNpyStart), '\0');
  file.read(0, std::as_writable_bytes(std::span(start)));
  const NpyHeader header = read_npy_header(start, file.size(), path.string());
  std::vector<std::byte> content(file.size() - header.length);
  file.read(header.length, content);
  Shape stored = header.shape;
  if (header.fortran)
    for (int axis = 0; axis < stored.rank(); ++axis)
      stored.set(axis, header.shape[stored.rank() - 1 - axis]);
  try {
    const Tensor tensor = decode(*header.type, content, stored);
    return header.fortran ? reversed(tensor) : tensor;
  } catch (const FileError& e) {
    throw FileError("{}: {}", path.string(), e.what());
  }
}

std::string npy_header(const FileType& type, const std::vector<int64_t>& shape) {
  const auto kind = std::find_if(std::begin(kKinds), std::end(kKinds),
                                 [&](const auto& k) { return k.second == type.name; });
  if (kind == std::end(kKinds)) return {};
  std::string extents;
  for (const int64_t extent : shape) extents += fmt::format("{}, ", extent);
  std::string header = fmt::format("{{'descr': '{}{}', 'fortran_order': False, 'shape': ({}), }}",
                                   type.bits > 8 ? '<' : '|', kind->first, extents);
  header.append(63 - (10 + header.size()) % 64, ' ');  // the elements begin at a multiple of 64
  header += '\n';
  return std::string(kMagic) + '\1' + '\0' + static_cast<char>(header.size() & 255) +
         static_cast<char>(header.size() >> 8) + header;
}

void save_npy(const std::filesystem::path& path, const Tensor& tensor) {
  FACET_CHECK(tensor.dtype() != DType::bf16, "save_npy", "NumPy has no bf16: cast {} before",
              tensor.str());
  const Tensor host = tensor.to(Device{});
  const std::string header =
      npy_header(file_type_of(tensor.dtype()), {tensor.shape().begin(), tensor.shape().end()});
  AtomicFile file(path, header.size() + host.bytes());
  file.write(header);
  file.write({static_cast<const std::byte*>(host.raw()), host.bytes()});
  file.commit();
}

}  // namespace facet
