#include "tensor/zip.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "tensor/check.h"

namespace facet {
namespace {

constexpr uint32_t kLocal = 0x04034b50, kCentral = 0x02014b50, kEnd = 0x06054b50;
constexpr uint32_t kEnd64 = 0x06064b50, kLocator64 = 0x07064b50;
constexpr size_t kLocalBytes = 30, kCentralBytes = 46, kEndBytes = 22;
constexpr size_t kEnd64Bytes = 56, kLocator64Bytes = 20;
constexpr uint64_t kMostEntries = uint64_t{1} << 20, kLargestDirectory = uint64_t{256} << 20;
constexpr uint64_t kLargestRatio = 1100;  // deflate reaches 1032
constexpr uint32_t kSaturated = 0xFFFFFFFF;
constexpr size_t kPiece = size_t{1} << 20;
constexpr uint64_t kAlignment = 64;

template <typename T>
T number(std::string_view bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

uint32_t crc_of(uint32_t crc, std::span<const std::byte> bytes) {
  return static_cast<uint32_t>(
      ::crc32_z(crc, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

std::span<std::byte> bytes_of(std::string& text) {
  return std::as_writable_bytes(std::span(text));
}

// Inflates what `more` hands out piece by piece until `into` is full. Returns the bytes written;
// `finished` says whether the stream ended exactly there.
template <typename More>
size_t inflate_stream(std::span<std::byte> into, const More& more, bool& finished) {
  z_stream stream{};
  if (::inflateInit2(&stream, -MAX_WBITS) != Z_OK) throw std::bad_alloc();
  size_t written = 0;
  int status = Z_OK;
  Bytef past_end = 0;  // what does not fit shows here
  while (status == Z_OK) {
    if (stream.avail_in == 0) {
      const std::span<const std::byte> piece = more();
      if (piece.empty()) break;
      stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(piece.data()));
      stream.avail_in = static_cast<uInt>(piece.size());
    }
    const size_t room = std::min<size_t>(into.size() - written, size_t{1} << 30);
    stream.next_out = room > 0 ? reinterpret_cast<Bytef*>(into.data() + written) : &past_end;
    stream.avail_out = static_cast<uInt>(std::max<size_t>(room, 1));
    const uInt before = stream.avail_out;
    status = ::inflate(&stream, Z_NO_FLUSH);
    const size_t got = before - stream.avail_out;
    if (room == 0 && got > 0) break;
    written += got;
    if (status == Z_BUF_ERROR && stream.avail_in == 0) status = Z_OK;
  }
  finished = status == Z_STREAM_END && written == into.size();
  ::inflateEnd(&stream);
  return written;
}

}  // namespace

// ---- reading

ZipArchive::ZipArchive(const InputFile& file) : file_(file) {
  read_directory();
  verified_ = std::vector<std::atomic<bool>>(entries_.size());
}

template <typename... Args>
void ZipArchive::fail(fmt::format_string<Args...> format, Args&&... args) const {
  throw FileError("{}: zip: {}", file_.path().string(),
                  fmt::format(format, std::forward<Args>(args)...));
}

void ZipArchive::read_directory() {
  const uint64_t size = file_.size();
  std::string tail(std::min<uint64_t>(size, kEndBytes + 65535), '\0');
  file_.read(size - tail.size(), bytes_of(tail));
  size_t end = std::string::npos;
  for (size_t at = tail.size(); at-- > 0 && end == std::string::npos;)
    if (at + kEndBytes <= tail.size() && number<uint32_t>(tail, at) == kEnd &&
        at + kEndBytes + number<uint16_t>(tail, at + 20) == tail.size())
      end = at;
  if (end == std::string::npos) fail("no directory at the end of its {} bytes: truncated?", size);
  uint64_t count = number<uint16_t>(tail, end + 10), bytes = number<uint32_t>(tail, end + 12),
           begin = number<uint32_t>(tail, end + 16);
  uint64_t limit = size - tail.size() + end;  // the directory ends here at the latest
  if (limit >= kLocator64Bytes) {
    std::string locator(kLocator64Bytes, '\0');
    file_.read(limit - kLocator64Bytes, bytes_of(locator));
    if (number<uint32_t>(locator, 0) == kLocator64) {
      limit -= kLocator64Bytes;
      const auto at = number<uint64_t>(locator, 8);
      std::string end64(kEnd64Bytes, '\0');
      if (at > limit || limit - at < kEnd64Bytes) fail("its zip64 record lies at byte {}", at);
      file_.read(at, bytes_of(end64));
      if (number<uint32_t>(end64, 0) != kEnd64) fail("no zip64 record at byte {}", at);
      limit = at;
      count = number<uint64_t>(end64, 32);
      bytes = number<uint64_t>(end64, 40);
      begin = number<uint64_t>(end64, 48);
    }
  }
  if (count > kMostEntries) fail("{} entries, expected at most {}", count, kMostEntries);
  if (bytes > kLargestDirectory)
    fail("a directory of {} bytes, expected at most {}", bytes, kLargestDirectory);
  if (begin > limit || bytes > limit - begin)
    fail("a directory of {} bytes at byte {}, of a file of {}", bytes, begin, size);

  std::string directory(bytes, '\0');
  file_.read(begin, bytes_of(directory));
  uint64_t inflated = 0;
  size_t at = 0;
  for (uint64_t i = 0; i < count; ++i) {
    if (directory.size() - at < kCentralBytes || number<uint32_t>(directory, at) != kCentral)
      fail("entry {} of {} is missing from its directory", i + 1, count);
    const size_t name_bytes = number<uint16_t>(directory, at + 28);
    const size_t extra_bytes = number<uint16_t>(directory, at + 30);
    const size_t whole =
        kCentralBytes + name_bytes + extra_bytes + number<uint16_t>(directory, at + 32);
    if (directory.size() - at < whole) fail("entry {} of {} is cut short", i + 1, count);
    ZipEntry entry;
    entry.name = directory.substr(at + kCentralBytes, name_bytes);
    if (entry.name.find('\0') != std::string::npos) fail("a name with a NUL");
    const auto flags = number<uint16_t>(directory, at + 8);
    const auto method = number<uint16_t>(directory, at + 10);
    if (flags & 1) fail("'{}' is encrypted", entry.name);
    if (method != 0 && method != 8)
      fail("'{}' is packed by method {}, expected stored or deflated", entry.name, method);
    entry.is_deflated = method == 8;
    entry.crc = number<uint32_t>(directory, at + 16);
    // Sizes from 4 GiB on lie in the zip64 field, in this order.
    uint64_t values[3] = {number<uint32_t>(directory, at + 24),
                          number<uint32_t>(directory, at + 20),
                          number<uint32_t>(directory, at + 42)};
    std::string_view extra =
        std::string_view(directory).substr(at + kCentralBytes + name_bytes, extra_bytes);
    while (extra.size() >= 4) {
      const auto id = number<uint16_t>(extra, 0);
      std::string_view field = extra.substr(4, number<uint16_t>(extra, 2));
      extra.remove_prefix(4 + field.size());
      if (id != 1) continue;
      for (uint64_t& value : values)
        if (value == kSaturated && field.size() >= 8) {
          value = number<uint64_t>(field, 0);
          field.remove_prefix(8);
        }
    }
    entry.bytes = values[0];
    entry.packed = values[1];
    entry.begin = values[2];
    if (!entry.is_deflated && entry.packed != entry.bytes)
      fail("'{}' is stored in {} bytes, expected {}", entry.name, entry.packed, entry.bytes);
    if (entry.packed > size)
      fail("'{}' has {} bytes of a file of {}", entry.name, entry.packed, size);
    if (entry.is_deflated) {
      if (entry.bytes / kLargestRatio > entry.packed)
        fail("'{}' claims to unpack {} bytes to {}", entry.name, entry.packed, entry.bytes);
      inflated += entry.bytes;
      if (inflated > 4 * size + (uint64_t{1} << 30))
        fail("it claims to unpack to more than {} bytes", inflated);
    }
    entries_.push_back(std::move(entry));
    at += whole;
  }
  locate_entries(begin);
}

// From where the local headers begin to where the contents do; entries may not share bytes.
void ZipArchive::locate_entries(uint64_t directory) {
  std::vector<size_t> order(entries_.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::tie(entries_[a].begin, a) < std::tie(entries_[b].begin, b);
  });
  uint64_t free = 0;  // everything before is taken
  std::string local(kLocalBytes, '\0');
  for (const size_t i : order) {
    ZipEntry& entry = entries_[i];
    if (entry.begin < free) fail("'{}' overlaps with another entry", entry.name);
    if (entry.begin > directory || directory - entry.begin < kLocalBytes)
      fail("'{}' begins at byte {}, behind the last", entry.name, entry.begin);
    file_.read(entry.begin, bytes_of(local));
    if (number<uint32_t>(local, 0) != kLocal)
      fail("'{}' is not at byte {}, where the directory says", entry.name, entry.begin);
    entry.begin += kLocalBytes + number<uint16_t>(local, 26) + number<uint16_t>(local, 28);
    if (entry.begin > directory || directory - entry.begin < entry.packed)
      fail("'{}' of {} bytes does not fit before the directory", entry.name, entry.packed);
    free = entry.begin + entry.packed;
  }
  for (size_t i = 0; i < entries_.size(); ++i)
    if (!by_name_.try_emplace(entries_[i].name, i).second)
      fail("'{}' is there twice", entries_[i].name);
}

const ZipEntry* ZipArchive::find(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &entries_[found->second];
}

void ZipArchive::inflate_into(const ZipEntry& entry, std::span<std::byte> into) const {
  std::vector<std::byte> piece(kPiece);
  uint64_t at = 0;
  bool finished = false;
  inflate_stream(
      into,
      [&] {
        const uint64_t n = std::min<uint64_t>(kPiece, entry.packed - at);
        file_.read(entry.begin + at, std::span(piece).first(n));
        at += n;
        return std::span<const std::byte>(piece).first(n);
      },
      finished);
  if (!finished) fail("'{}' does not unpack to its {} bytes: damaged", entry.name, entry.bytes);
}

std::string ZipArchive::read_start(const ZipEntry& entry, size_t bytes) const {
  std::string start(std::min<uint64_t>(bytes, entry.bytes), '\0');
  if (!entry.is_deflated) {
    file_.read(entry.begin, bytes_of(start));
    return start;
  }
  std::vector<std::byte> packed(std::min<uint64_t>(kPiece, entry.packed));
  file_.read(entry.begin, packed);
  bool first = true, finished = false;
  start.resize(inflate_stream(
      bytes_of(start),
      [&] {
        return std::exchange(first, false) ? std::span<const std::byte>(packed)
                                           : std::span<const std::byte>();
      },
      finished));
  return start;
}

std::string ZipArchive::read(const ZipEntry& entry) const {
  std::string content(entry.bytes, '\0');
  if (entry.is_deflated)
    inflate_into(entry, bytes_of(content));
  else
    file_.read(entry.begin, bytes_of(content));
  verify(entry, crc_of(0, std::as_bytes(std::span(content))));
  return content;
}

void ZipArchive::read(const ZipEntry& entry, uint64_t offset, std::span<std::byte> into) const {
  if (offset > entry.bytes || into.size() > entry.bytes - offset)
    fail("'{}' has {} bytes, {} wanted from byte {}", entry.name, entry.bytes, into.size(), offset);
  if (entry.is_deflated) {
    const std::lock_guard lock(unpacking_);
    if (unpacked_entry_ != &entry) {
      unpacked_entry_ = nullptr;
      unpacked_.assign(entry.bytes, '\0');
      inflate_into(entry, bytes_of(unpacked_));
      verify(entry, crc_of(0, std::as_bytes(std::span(unpacked_))));
      unpacked_entry_ = &entry;
    }
    std::memcpy(into.data(), unpacked_.data() + offset, into.size());
    return;
  }
  std::atomic<bool>& is_verified = verified_[index_of(entry)];
  const bool is_whole = into.size() == entry.bytes;
  if (!is_whole && !is_verified) verify(entry, checksum_of(entry));
  file_.read(entry.begin + offset, into);
  if (is_whole && !is_verified) verify(entry, crc_of(0, into));
}

uint32_t ZipArchive::checksum_of(const ZipEntry& entry) const {
  if (entry.is_deflated) {
    std::string content(entry.bytes, '\0');
    inflate_into(entry, bytes_of(content));
    return crc_of(0, bytes_of(content));
  }
  std::vector<std::byte> piece(std::min<uint64_t>(kPiece, entry.bytes));
  uint32_t crc = 0;
  for (uint64_t at = 0; at < entry.bytes; at += piece.size()) {
    piece.resize(std::min<uint64_t>(kPiece, entry.bytes - at));
    file_.read(entry.begin + at, piece);
    crc = crc_of(crc, piece);
  }
  return crc;
}

bool ZipArchive::none_is_right() const {
  std::call_once(asked_, [&] {
    has_no_checksums_ = std::none_of(entries_.begin(), entries_.end(), [&](const ZipEntry& entry) {
      return entry.bytes > 0 && checksum_of(entry) == entry.crc;
    });
  });
  return has_no_checksums_;
}

void ZipArchive::verify_all() const {
  for (const ZipEntry& entry : entries_) verify(entry, checksum_of(entry), true);
}

void ZipArchive::verify(const ZipEntry& entry, uint32_t crc, bool strict) const {
  if (crc != entry.crc && (strict || !none_is_right()))
    fail("'{}' has checksum {:08x}, expected {:08x}: damaged", entry.name, crc, entry.crc);
  verified_[index_of(entry)] = true;
}

// ---- writing

namespace {

// Little-endian numbers one after the other.
template <typename... T>
std::string packed_numbers(T... values) {
  std::string bytes;
  (bytes.append(reinterpret_cast<const char*>(&values), sizeof(values)), ...);
  return bytes;
}

// 1 January 1980, the first day a zip knows.
constexpr uint16_t kTime = 0, kDate = 1 << 5 | 1;
constexpr uint16_t kUtf8Names = 1 << 11;

}  // namespace

void ZipWriter::add(const std::string& name, std::span<const std::byte> content) {
  const bool large = content.size() >= kSaturated;
  std::string extra;
  if (large)
    extra = packed_numbers<uint16_t, uint16_t, uint64_t, uint64_t>(1, 16, content.size(),
                                                                   content.size());
  const uint64_t before = at_ + kLocalBytes + name.size() + extra.size() + 4;
  const auto padding = static_cast<uint16_t>((kAlignment - before % kAlignment) % kAlignment);
  extra += packed_numbers<uint16_t, uint16_t>(0x4246, padding) + std::string(padding, 'Z');
  const uint32_t crc = crc_of(0, content);
  const uint32_t size = large ? kSaturated : static_cast<uint32_t>(content.size());
  written_.push_back({name, crc, content.size(), at_});
  const uint16_t version = large ? 45 : 20;
  const std::string header =
      packed_numbers(kLocal, version, kUtf8Names, uint16_t{0}, kTime, kDate, crc, size, size,
                     static_cast<uint16_t>(name.size()), static_cast<uint16_t>(extra.size())) +
      name + extra;
  file_.write(header);
  file_.write(content);
  at_ += header.size() + content.size();
}

void ZipWriter::finish() {
  const uint64_t begin = at_;
  std::string directory;
  for (const Written& w : written_) {
    const bool large = w.bytes >= kSaturated, far = w.header >= kSaturated;
    std::string extra;
    if (large) extra += packed_numbers<uint64_t, uint64_t>(w.bytes, w.bytes);
    if (far) extra += packed_numbers<uint64_t>(w.header);
    if (!extra.empty())
      extra = packed_numbers<uint16_t, uint16_t>(1, static_cast<uint16_t>(extra.size())) + extra;
    const uint32_t size = large ? kSaturated : static_cast<uint32_t>(w.bytes);
    const uint16_t version = extra.empty() ? 20 : 45;
    directory +=
        packed_numbers(kCentral, version, version, kUtf8Names, uint16_t{0}, kTime, kDate, w.crc,
                       size, size, static_cast<uint16_t>(w.name.size()),
                       static_cast<uint16_t>(extra.size()), uint16_t{0}, uint16_t{0}, uint16_t{0},
                       uint32_t{0}, far ? kSaturated : static_cast<uint32_t>(w.header)) +
        w.name + extra;
  }
  const uint64_t count = written_.size(), bytes = directory.size(), end64 = begin + bytes;
  if (count >= 0xFFFF || begin >= kSaturated || bytes >= kSaturated)
    directory += packed_numbers(kEnd64, uint64_t{kEnd64Bytes - 12}, uint16_t{45}, uint16_t{45},
                                uint32_t{0}, uint32_t{0}, count, count, bytes, begin) +
                 packed_numbers(kLocator64, uint32_t{0}, end64, uint32_t{1});
  const auto short_count = static_cast<uint16_t>(std::min<uint64_t>(count, 0xFFFF));
  directory +=
      packed_numbers(kEnd, uint16_t{0}, uint16_t{0}, short_count, short_count,
                     static_cast<uint32_t>(std::min<uint64_t>(bytes, kSaturated)),
                     static_cast<uint32_t>(std::min<uint64_t>(begin, kSaturated)), uint16_t{0});
  file_.write(directory);
}

}  // namespace facet
