#include "tensor/serialize.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "tensor/ops.h"

namespace facet {
namespace {

constexpr uint64_t kLargestHeader = 100'000'000;
constexpr int kDeepestHeader = 8;
constexpr size_t kLongestTensorName = 4096;
constexpr const char* kChecksumKey = "facet.checksum";

struct Entry {
  StoredTensor tensor;
  uint64_t begin = 0, end = 0;  // in the buffer
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
  std::vector<std::string> warnings;
  uint64_t buffer() const { return buffer_; }

  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    throw FileError("{}: {}", file_.path().string(),
                    fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  using Json = nlohmann::json;

  void parse(const std::string& text) {
    const size_t end = text.find_last_not_of(' ');
    if (text.empty() || text.front() != '{' || end == std::string::npos || text[end] != '}')
      fail("header is not a JSON object");
    std::vector<std::set<std::string>> keys;  // one set an open object
    const auto callback = [&](int depth, Json::parse_event_t event, Json& value) {
      if (depth > kDeepestHeader) fail("header nests deeper than {}", kDeepestHeader);
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
      if (name.size() > kLongestTensorName || name.find('\0') != std::string::npos)
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
    entry.tensor.name = name;
    entry.tensor.type = find_file_type(dtype.get<std::string>());
    if (!entry.tensor.type)
      fail("tensor '{}': dtype {} is not supported", name, dtype.get<std::string>());
    if (!shape.is_array() || !offsets.is_array() || offsets.size() != 2)
      fail("tensor '{}': expected shape [...] and data_offsets [begin, end]", name);
    if (value.size() > 3)
      warnings.push_back(fmt::format("tensor '{}' has fields that nobody knows", name));
    // Zero-size tensors may have any other extents, so the product is checked with them at 1, too.
    uint64_t numel = 1, extent_product = std::max<size_t>(entry.tensor.type->bits, 8);
    for (const Json& extent : shape) {
      const uint64_t n = unsigned_of(extent, name);
      if (n > std::numeric_limits<int64_t>::max() ||
          __builtin_mul_overflow(extent_product, std::max<uint64_t>(n, 1), &extent_product) ||
          extent_product > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
        fail("tensor '{}': its size overflows", name);
      numel *= n;
      entry.tensor.shape.push_back(static_cast<int64_t>(n));
    }
    entry.tensor.strides = contiguous_strides(entry.tensor.shape);
    if (numel * entry.tensor.type->bits % 8 != 0)
      fail("tensor '{}': {} elements of {} end inside a byte", name, numel,
           entry.tensor.type->name);
    const uint64_t bytes = entry.tensor.bytes();
    entry.begin = unsigned_of(offsets[0], name);
    entry.end = unsigned_of(offsets[1], name);
    if (entry.end < entry.begin) fail("tensor '{}': ends before it begins", name);
    if (entry.end - entry.begin != bytes)
      fail("tensor '{}': {} of ({}) needs {} bytes, data_offsets give {}", name,
           entry.tensor.type->name, fmt::join(entry.tensor.shape, ", "), bytes,
           entry.end - entry.begin);
    return entry;
  }

  uint64_t unsigned_of(const Json& number, const std::string& name) {
    if (!number.is_number_unsigned()) fail("tensor '{}': {} is not a size", name, number.dump());
    return number.get<uint64_t>();
  }

  // Sorted by offset the tensors lie end to end and fill the file.
  void check_layout() {
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
      return std::tie(a.begin, a.end, a.tensor.name) < std::tie(b.begin, b.end, b.tensor.name);
    });
    uint64_t at = 0;
    for (const Entry& entry : entries) {
      if (entry.begin != at)
        fail("tensor '{}' begins at byte {} of the buffer, expected {}", entry.tensor.name,
             entry.begin, at);
      at = entry.end;
    }
    if (at > file_.size() || buffer_ + at != file_.size())
      fail("expected a file of {} bytes, got {}: truncated?", buffer_ + at, file_.size());
  }

  const InputFile& file_;
  uint64_t buffer_ = 0;
};

// Calls use(tensor, bytes) for each in the file's order and compares the checksum.
template <typename Use>
void read_all(const InputFile& file, const StoredContent& content, const Use& use) {
  Checksum checksum;
  std::vector<std::byte> bytes;
  for (const StoredTensor& tensor : content.tensors) {
    const StoredBlock& block = content.blocks[tensor.block];
    bytes.resize(block.bytes);
    file.read(block.begin, bytes);
    checksum.add(bytes);
    use(tensor, std::span<const std::byte>(bytes));
  }
  const auto expected = content.metadata.find(kChecksumKey);
  if (expected != content.metadata.end() && expected->second != checksum.str())
    throw FileError("{}: checksum {} expected, got {}: the file is damaged", file.path().string(),
                    expected->second, checksum.str());
}

}  // namespace

StoredContent open_safetensors(const InputFile& file) {
  HeaderReader header(file);
  header.read();
  StoredContent content{.container = "safetensors",
                        .metadata = std::move(header.metadata),
                        .warnings = std::move(header.warnings)};
  for (Entry& entry : header.entries) {
    entry.tensor.block = content.blocks.size();
    content.blocks.push_back(
        {.begin = header.buffer() + entry.begin, .bytes = entry.end - entry.begin});
    content.tensors.push_back(std::move(entry.tensor));
  }
  return content;
}

void verify_safetensors(const InputFile& file, const StoredContent& content) {
  if (content.metadata.contains(kChecksumKey))
    read_all(file, content, [](const StoredTensor&, std::span<const std::byte>) {});
}

TensorFile load_safetensors(const std::filesystem::path& path) {
  const InputFile file(path);
  StoredContent content = open_safetensors(file);
  TensorFile result;
  read_all(file, content, [&](const StoredTensor& tensor, std::span<const std::byte> bytes) {
    try {
      if (tensor.shape.size() > Shape::kMaxRank)
        throw FileError("{} axes, expected at most {}", tensor.shape.size(), int{Shape::kMaxRank});
      result.tensors.push_back(
          {tensor.name, decode(*tensor.type, bytes, Shape(std::span(tensor.shape)))});
    } catch (const FileError& e) {
      throw FileError("{}: tensor '{}': {}", path.string(), tensor.name, e.what());
    }
  });
  result.metadata = std::move(content.metadata);
  return result;
}

void save_safetensors(const std::filesystem::path& path, std::vector<PackedTensor> tensors,
                      Metadata metadata) {
  // The largest elements first, so that all lie aligned; then by name.
  std::sort(tensors.begin(), tensors.end(), [](const PackedTensor& a, const PackedTensor& b) {
    return a.type->bits != b.type->bits ? a.type->bits > b.type->bits : a.name < b.name;
  });
  Checksum checksum;
  // Written as text: JSON values end the process where memory runs out while they are freed.
  const auto quoted = [](const std::string& word) { return nlohmann::json(word).dump(); };
  std::string entries;
  uint64_t at = 0;
  std::set<std::string> names;
  for (const PackedTensor& tensor : tensors) {
    const std::string& name = tensor.name;
    FACET_CHECK(!name.empty() && name.size() <= kLongestTensorName && name != "__metadata__" &&
                    name.find('\0') == std::string::npos,
                "save_safetensors", "'{}' is no name for a tensor", name);
    FACET_CHECK(names.insert(name).second, "save_safetensors", "two tensors are named '{}'", name);
    FACET_CHECK(std::string_view(tensor.type->name) != "C128", "save_safetensors",
                "tensor '{}': safetensors has no C128", name);
    entries +=
        fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", quoted(name),
                    tensor.type->name, fmt::join(tensor.shape, ","), at, at + tensor.bytes.size());
    at += tensor.bytes.size();
    checksum.add(tensor.bytes);
  }
  metadata["format"] = "pt";
  metadata[kChecksumKey] = checksum.str();
  std::string text;
  for (const auto& [key, value] : metadata)
    text += fmt::format("{}{}:{}", text.empty() ? "" : ",", quoted(key), quoted(value));
  text = fmt::format(R"({{"__metadata__":{{{}}}{}}})", text, entries);
  text.append((64 - (8 + text.size()) % 64) % 64, ' ');  // the buffer begins at a multiple of 64

  AtomicFile file(path, 8 + text.size() + at);
  const uint64_t length = text.size();
  file.write(std::as_bytes(std::span(&length, 1)));
  file.write(text);
  for (const PackedTensor& tensor : tensors) file.write(tensor.bytes);
  file.commit();
}

void save_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                      Metadata metadata) {
  std::vector<Tensor> hosts;  // what the packed ones point to
  std::vector<PackedTensor> packed;
  for (const auto& [name, value] : tensors) {
    const Tensor& host = hosts.emplace_back(value.to(Device{}));
    packed.push_back({name,
                      &file_type_of(host.dtype()),
                      {host.shape().begin(), host.shape().end()},
                      {static_cast<const std::byte*>(host.raw()), host.bytes()}});
  }
  save_safetensors(path, std::move(packed), std::move(metadata));
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
