#include "tensor/tar.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <memory>
#include <optional>

#include "tensor/check.h"
#include "tensor/hash.h"
#include "tensor/text.h"

namespace facet {

namespace fs = std::filesystem;

namespace {

constexpr size_t kTarBlock = 512;
constexpr size_t kMaxText = 64 * 1024;  // of a long name or PAX header
constexpr const char* kIndexTitle = "facet tar index 1";

// POSIX.1-1988, plus GNU's type 'L' (a long name) and PAX's 'x' and 'g'.
struct Header {
  char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100],
      magic[6], version[2], user[32], group[32], major[8], minor[8], prefix[155], rest[12];
};
static_assert(sizeof(Header) == kTarBlock);

template <size_t N>
std::string text_of(const char (&field)[N]) {
  return {field, ::strnlen(field, N)};
}

// Octal, or base 256 where the first bit is set; none where it is neither.
template <size_t N>
std::optional<uint64_t> number_of(const char (&field)[N]) {
  uint64_t value = 0;
  if (static_cast<unsigned char>(field[0]) & 0x80) {
    if (static_cast<unsigned char>(field[0]) != 0x80) return std::nullopt;  // negative or huge
    for (size_t i = 1; i < N; ++i) {
      if (value >> 55) return std::nullopt;
      value = value << 8 | static_cast<unsigned char>(field[i]);
    }
    return value;
  }
  for (const char c : text_of(field)) {
    if (c == ' ') continue;
    if (c < '0' || c > '7') return std::nullopt;
    value = value << 3 | static_cast<uint64_t>(c - '0');
  }
  return value;
}

bool checksum_holds(const Header& header) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(&header);
  uint64_t sum = 0;
  for (size_t i = 0; i < kTarBlock; ++i) {
    const bool in_field = i >= offsetof(Header, checksum) && i < offsetof(Header, type);
    sum += in_field ? ' ' : bytes[i];
  }
  return number_of(header.checksum) == sum;
}

// The value of a key among PAX's records "LENGTH KEY=VALUE\n".
std::optional<std::string> pax_value(std::string_view records, std::string_view key) {
  std::optional<std::string> found;
  while (!records.empty()) {
    size_t length = 0;
    const auto [end, error] =
        std::from_chars(records.data(), records.data() + records.size(), length);
    const auto digits = static_cast<size_t>(end - records.data());
    if (error != std::errc() || length <= digits + 1 || length > records.size()) break;
    std::string_view record = records.substr(digits + 1, length - digits - 1);
    if (record.ends_with('\n')) record.remove_suffix(1);
    if (record.starts_with(key) && record.substr(key.size()).starts_with('='))
      found = record.substr(key.size() + 1);
    records.remove_prefix(length);
  }
  return found;
}

}  // namespace

std::vector<TarMember> index_tar(const ReadAt& read, size_t begin, size_t end,
                                 const std::string& file) {
  std::vector<TarMember> members;
  std::string long_name, pax;
  for (size_t at = begin; end - at >= kTarBlock;) {
    const auto fail = [&](const std::string& what) {
      throw FileError("{}: no tar file: {} at byte {}", file, what, at);
    };
    Header header;
    read(at, std::as_writable_bytes(std::span(&header, 1)));
    const auto* bytes = reinterpret_cast<const char*>(&header);
    if (std::all_of(bytes, bytes + kTarBlock, [](char c) { return c == 0; })) break;
    if (!checksum_holds(header)) fail("a header with a wrong checksum");
    std::optional<uint64_t> size = number_of(header.size);
    if (const auto longer = pax_value(pax, "size")) size = to_number<uint64_t>(*longer);
    const size_t start = at + kTarBlock;
    if (!size || *size > end - start)
      fail(
          fmt::format("'{:.80}' is larger than what is left of the archive", text_of(header.name)));
    if (header.type == 'L' || header.type == 'x') {
      if (*size > kMaxText) fail("a name of unreasonable length");
      std::string text(*size, '\0');
      read(start, std::as_writable_bytes(std::span(text)));
      (header.type == 'L' ? long_name : pax) = std::move(text);
    } else if (header.type != 'g') {
      std::string name = text_of(header.name);
      const std::string prefix =
          std::string_view(header.magic, 5) == "ustar" ? text_of(header.prefix) : "";
      if (!prefix.empty() && header.magic[5] == 0) name = prefix + '/' + name;
      if (!long_name.empty()) name = long_name.c_str();
      if (const auto path = pax_value(pax, "path")) name = *path;
      if (header.type == '0' || header.type == 0) members.push_back({name, start, *size});
      long_name.clear();
      pax.clear();
    }
    const size_t padded = (*size + kTarBlock - 1) / kTarBlock * kTarBlock;
    if (padded > end - start) break;  // the last member without its padding
    at = start + padded;
  }
  return members;
}

std::vector<TarMember> index_tar(const InputFile& file) {
  return index_tar([&](size_t offset, std::span<std::byte> into) { file.read(offset, into); }, 0,
                   file.size(), file.path().string());
}

namespace {

// Text: a title with the size and time of the archive, the SHA-256 of what follows, and a line
// "offset size name" a member.
std::string index_title(const InputFile& file) {
  const auto time = fs::last_write_time(file.path()).time_since_epoch().count();
  return fmt::format("{}, {} bytes, {}", kIndexTitle, file.size(), time);
}

std::optional<std::vector<TarMember>> load_index(const fs::path& path, const InputFile& file) {
  if (!fs::exists(path)) return std::nullopt;
  const std::string text = read_file(path);
  const std::string head = index_title(file) + "\n";
  constexpr size_t kHash = 64 + 1;
  if (!text.starts_with(head) || text.size() < head.size() + kHash) return std::nullopt;
  const std::string_view rest = std::string_view(text).substr(head.size() + kHash);
  if (text.substr(head.size(), kHash) != sha256(rest) + "\n") return std::nullopt;
  std::vector<TarMember> members;
  for (size_t at = 0; at < rest.size();) {
    TarMember member;
    const char* const last = rest.data() + rest.size();
    const auto first = std::from_chars(rest.data() + at, last, member.offset);
    const auto second = std::from_chars(first.ptr + 1, last, member.size);
    const size_t name = static_cast<size_t>(second.ptr - rest.data()) + 1;
    const size_t end = rest.find('\n', name);
    if (end == std::string_view::npos) return std::nullopt;
    member.name = rest.substr(name, end - name);
    members.push_back(std::move(member));
    at = end + 1;
  }
  return members;
}

}  // namespace

std::vector<TarMember> index_nested_tar(const InputFile& file) {
  const fs::path path = file.path().string() + ".facet-index";
  if (auto members = load_index(path, file)) return *members;
  std::vector<TarMember> members;
  for (const TarMember& inner : index_tar(file)) {
    if (!inner.name.ends_with(".tar")) continue;
    const auto of_inner = index_tar(
        [&](size_t offset, std::span<std::byte> into) { file.read(offset, into); }, inner.offset,
        inner.offset + inner.size, file.path().string() + ", " + inner.name);
    const std::string folder = fs::path(inner.name).stem().string() + '/';
    for (const TarMember& member : of_inner)
      members.push_back({folder + member.name, member.offset, member.size});
  }
  std::string rest;
  for (const TarMember& m : members)
    if (m.name.find('\n') == std::string::npos)
      rest += fmt::format("{} {} {}\n", m.offset, m.size, m.name);
  try {
    write_file(path, index_title(file) + "\n" + sha256(rest) + "\n" + rest);
  } catch (const FileError&) {
    // A folder that cannot be written to costs the search once more next time, nothing else.
  }
  return members;
}

std::string read_gzip(const fs::path& path, size_t limit) {
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path.c_str(), "rb"), gzclose);
  if (!file) throw FileError("{}: cannot be opened", path.string());
  gzbuffer(file.get(), 1 << 17);
  std::string text;
  std::array<char, 1 << 16> buffer;
  while (true) {
    const int n = gzread(file.get(), buffer.data(), buffer.size());
    int code = Z_OK;
    const char* message = gzerror(file.get(), &code);
    if (n < 0 || code != Z_OK)
      throw FileError("{}: damaged gzip data after {} bytes ({})", path.string(), text.size(),
                      message);
    if (n == 0) return text;
    text.append(buffer.data(), static_cast<size_t>(n));
    if (text.size() > limit) throw FileError("{}: more than {} bytes", path.string(), limit);
  }
}

}  // namespace facet
