#include "tensor/serialize.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "tensor/file.h"
#include "tensor/file_types.h"
#include "tensor/ops.h"

namespace facet {
namespace {

constexpr uint64_t kLargestHeader = 100'000'000;
constexpr int kDeepest = 8;
constexpr size_t kLongestName = 4096;
constexpr const char* kChecksumKey = "facet.checksum";

struct Entry {
  std::string name;
  const FileType* type = nullptr;
  Shape shape;
  uint64_t begin = 0, end = 0;
};

// FNV-1a over 64-bit words (zero-padded at the end of each piece).
class Checksum {
 public:
  void add(std::span<const std::byte> bytes) {
    for (size_t i = 0; i < bytes.size(); i += 8) {
      uint64_t word = 0;
      std::memcpy(&word, bytes.data() + i, std::min<size_t>(8, bytes.size() - i));
      state_ = (state_ ^ word) * 1099511628211ull;
      state_ ^= state_ >> 29;
    }
  }
  std::string str() const { return fmt::format("{:016x}", state_); }

 private:
  uint64_t state_ = 14695981039346656037ull;
};

// Everything that can be wrong with a header, said with the name of the file.
class HeaderReader {
 public:
  explicit HeaderReader(const InputFile& file) : file_(file) {}

  void read() {
    uint64_t length = 0;
    if (file_.size() < 8) fail("expected at least 8 bytes, got {}", file_.size());
    file_.read(0, std::as_writable_bytes(std::span(&length, 1)));
    if (length > kLargestHeader)
      fail("header of {} bytes, expected at most {}: not a safetensors file?", length,
           kLargestHeader);
    if (length > file_.size() - 8)
      fail("header of {} bytes in a file of {}: truncated?", length, file_.size());
    std::string text(length, '\0');
    file_.read(8, std::as_writable_bytes(std::span(text)));
    buffer_ = 8 + length;
    parse(text);
    check_layout();
  }

  Metadata metadata;
  std::vector<Entry> entries;  // by offset
  uint64_t buffer() const { return buffer_; }

  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    throw FileError(fmt::format("{}: {}", file_.path().string(),
                                fmt::format(format, std::forward<Args>(args)...)));
  }

 private:
  using Json = nlohmann::json;

  void parse(const std::string& text) {
    const size_t end = text.find_last_not_of(' ');
    if (text.empty() || text.front() != '{' || end == std::string::npos || text[end] != '}')
      fail("header is not a JSON object");
    std::vector<std::set<std::string>> keys;  // one set an open object
    const auto callback = [&](int depth, Json::parse_event_t event, Json& value) {
      if (depth > kDeepest) fail("header nests deeper than {}", kDeepest);
      if (event == Json::parse_event_t::object_start) keys.emplace_back();
      if (event == Json::parse_event_t::object_end) keys.pop_back();
      if (event == Json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second)
        fail("header names '{}' twice", value.get<std::string>());
      return true;
    };
    Json header;
    try {
      header =
          Json::parse(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(end) + 1, callback);
    } catch (const Json::exception& e) {
      fail("header is not valid JSON: {}", e.what());
    }
    for (const auto& [name, value] : header.items()) {
      if (name.size() > kLongestName || name.find('\0') != std::string::npos)
        fail("a tensor's name has {} bytes or a NUL", name.size());
      if (name == "__metadata__")
        read_metadata(value);
      else
        entries.push_back(read_entry(name, value));
    }
  }

  void read_metadata(const Json& value) {
    if (!value.is_object()) fail("__metadata__ is not an object");
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) fail("__metadata__ '{}' is not a string", key);
      metadata[key] = text.get<std::string>();
    }
  }

  Entry read_entry(const std::string& name, const Json& value) {
    if (!value.is_object() || !value.contains("dtype") || !value.contains("shape") ||
        !value.contains("data_offsets"))
      fail("tensor '{}': expected dtype, shape and data_offsets", name);
    const Json &dtype = value["dtype"], &shape = value["shape"], &offsets = value["data_offsets"];
    if (!dtype.is_string()) fail("tensor '{}': dtype is not a string", name);
    Entry entry;
    entry.name = name;
    entry.type = find_file_type(dtype.get<std::string>());
    if (!entry.type) fail("tensor '{}': dtype {} is not supported", name, dtype.get<std::string>());
    if (!shape.is_array() || !offsets.is_array() || offsets.size() != 2)
      fail("tensor '{}': expected shape [...] and data_offsets [begin, end]", name);
    if (shape.size() > Shape::kMaxRank)
      fail("tensor '{}': {} axes, expected at most {}", name, shape.size(), int{Shape::kMaxRank});
    // Zero-size tensors may have any other extents, so the product is checked with them at 1, too.
    uint64_t bytes = entry.type->bytes, extent_product = entry.type->bytes;
    for (const Json& extent : shape) {
      const uint64_t n = unsigned_of(extent, name);
      if (n > std::numeric_limits<int64_t>::max() ||
          __builtin_mul_overflow(extent_product, std::max<uint64_t>(n, 1), &extent_product) ||
          extent_product > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
        fail("tensor '{}': its size overflows", name);
      bytes *= n;
      entry.shape.push_back(static_cast<int64_t>(n));
    }
    entry.begin = unsigned_of(offsets[0], name);
    entry.end = unsigned_of(offsets[1], name);
    if (entry.end < entry.begin) fail("tensor '{}': ends before it begins", name);
    if (entry.end - entry.begin != bytes)
      fail("tensor '{}': {} of {} needs {} bytes, data_offsets give {}", name, entry.type->name,
           entry.shape, bytes, entry.end - entry.begin);
    return entry;
  }

  uint64_t unsigned_of(const Json& number, const std::string& name) {
    if (!number.is_number_unsigned()) fail("tensor '{}': {} is not a size", name, number.dump());
    return number.get<uint64_t>();
  }

  // Sorted by offset the tensors lie end to end and fill the file.
  void check_layout() {
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
      return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
    });
    uint64_t at = 0;
    for (const Entry& entry : entries) {
      if (entry.begin != at)
        fail("tensor '{}' begins at byte {} of the buffer, expected {}", entry.name, entry.begin,
             at);
      at = entry.end;
    }
    if (at > file_.size() || buffer_ + at != file_.size())
      fail("expected a file of {} bytes, got {}: truncated?", buffer_ + at, file_.size());
  }

  const InputFile& file_;
  uint64_t buffer_ = 0;
};

Tensor decoded(const Entry& entry, std::span<const std::byte> bytes, const HeaderReader& header) {
  try {
    return decode(*entry.type, bytes, entry.shape);
  } catch (const FileError& e) {
    header.fail("tensor '{}': {}", entry.name, e.what());
  }
}

}  // namespace

TensorFile load_safetensors(const std::filesystem::path& path) {
  const InputFile file(path);
  HeaderReader header(file);
  header.read();
  TensorFile result;
  Checksum checksum;
  std::vector<std::byte> bytes;
  for (const Entry& entry : header.entries) {
    bytes.resize(entry.end - entry.begin);
    file.read(header.buffer() + entry.begin, bytes);
    checksum.add(bytes);
    result.tensors.push_back({entry.name, decoded(entry, bytes, header)});
  }
  result.metadata = std::move(header.metadata);
  const auto expected = result.metadata.find(kChecksumKey);
  if (expected != result.metadata.end() && expected->second != checksum.str())
    header.fail("checksum {} expected, got {}: the file is damaged", expected->second,
                checksum.str());
  return result;
}

void save_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                      Metadata metadata) {
  std::vector<NamedTensor> sorted;
  for (const auto& [name, value] : tensors) {
    FACET_CHECK(!name.empty() && name.size() <= kLongestName && name != "__metadata__" &&
                    name.find('\0') == std::string::npos,
                "save_safetensors", "'{}' is no name for a tensor", name);
    sorted.push_back({name, value.to(Device{})});
  }
  // The largest elements first, so that all lie aligned; then by name.
  std::sort(sorted.begin(), sorted.end(), [](const NamedTensor& a, const NamedTensor& b) {
    const size_t sa = size_of(a.value.dtype()), sb = size_of(b.value.dtype());
    return sa != sb ? sa > sb : a.name < b.name;
  });
  Checksum checksum;
  nlohmann::ordered_json header = {{"__metadata__", nlohmann::ordered_json::object()}};
  uint64_t at = 0;
  for (const auto& [name, value] : sorted) {
    FACET_CHECK(!header.contains(name), "save_safetensors", "two tensors are named '{}'", name);
    header[name] = {{"dtype", file_type_of(value.dtype()).name},
                    {"shape", std::vector<int64_t>(value.shape().begin(), value.shape().end())},
                    {"data_offsets", {at, at + value.bytes()}}};
    at += value.bytes();
    checksum.add({static_cast<const std::byte*>(value.raw()), value.bytes()});
  }
  metadata["format"] = "pt";
  metadata[kChecksumKey] = checksum.str();
  header["__metadata__"] = metadata;
  std::string text = header.dump();
  text.append((64 - (8 + text.size()) % 64) % 64, ' ');  // the buffer begins at a multiple of 64

  AtomicFile file(path, 8 + text.size() + at);
  const uint64_t length = text.size();
  file.write(std::as_bytes(std::span(&length, 1)));
  file.write(text);
  for (const auto& [name, value] : sorted)
    file.write({static_cast<const std::byte*>(value.raw()), value.bytes()});
  file.commit();
}

namespace {
std::vector<NamedTensor> permuted(std::span<const NamedTensor> tensors,
                                  std::initializer_list<int> axes) {
  std::vector<NamedTensor> list;
  for (const auto& [name, value] : tensors)
    list.push_back({name, value.rank() == 4 ? ops::permute(value, axes) : value});
  return list;
}
}  // namespace

std::vector<NamedTensor> to_file_layout(std::span<const NamedTensor> tensors) {
  return permuted(tensors, {0, 3, 1, 2});
}

std::vector<NamedTensor> from_file_layout(std::span<const NamedTensor> tensors) {
  return permuted(tensors, {0, 2, 3, 1});
}

}  // namespace facet
