// Writes miniature trees of datasets: folders, lists, pictures of a few bytes, tar files, MATLAB
// files (byte by byte, so that the reader's library is not its own witness).
#pragma once

#include <fstream>
#include <vector>

#include "tests/folder.h"

namespace facet::test {

namespace fs = std::filesystem;

template <typename T>
std::string little(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

// A BMP of 3 x 2 pixels of one grey, which tells it from others.
inline std::string tiny_picture(uint8_t grey = 0) {
  const std::string pixels(2 * 12, static_cast<char>(grey));
  return "BM" + little(uint32_t{54 + 24}) + little(uint32_t{0}) + little(uint32_t{54}) +
         little(uint32_t{40}) + little(int32_t{3}) + little(int32_t{2}) + little(uint16_t{1}) +
         little(uint16_t{24}) + little(uint32_t{0}) + little(uint32_t{24}) + std::string(16, '\0') +
         pixels;
}

// ---- tar
inline std::string tar_member(const std::string& name, const std::string& content,
                              char type = '0') {
  std::string header(512, '\0');
  header.replace(0, std::min<size_t>(name.size(), 100), name, 0, 100);
  const auto field = [&](size_t at, size_t digits, uint64_t value) {
    for (size_t i = 0; i < digits; ++i, value >>= 3)
      header[at + digits - 1 - i] = static_cast<char>('0' + (value & 7));
  };
  field(100, 7, 0644);
  field(124, 11, content.size());
  field(136, 11, 0);
  header[156] = type;
  header.replace(257, 8,
                 std::string("ustar\0"
                             "00",
                             8));
  header.replace(148, 8, 8, ' ');
  uint64_t sum = 0;
  for (const char c : header) sum += static_cast<unsigned char>(c);
  field(148, 6, sum);
  header[154] = '\0';
  return header + content + std::string((512 - content.size() % 512) % 512, '\0');
}
inline std::string tar_end() {
  return std::string(1024, '\0');
}

// ---- MATLAB, version 5
struct Mat {
  static std::string element(uint32_t type, const std::string& data) {
    return little(type) + little(static_cast<uint32_t>(data.size())) + data +
           std::string((8 - data.size() % 8) % 8, '\0');
  }
  static std::string matrix(uint32_t array_class, int32_t rows, int32_t columns,
                            const std::string& name, const std::string& payload) {
    return element(14, element(6, little(array_class) + little(uint32_t{0})) +
                           element(5, little(rows) + little(columns)) + element(1, name) + payload);
  }
  // Doubles that are stored in 16 bits, as MATLAB does with small numbers.
  static std::string numbers(const std::vector<int>& values, const std::string& name = "",
                             bool row = true) {
    std::string data;
    for (const int value : values) data += little(static_cast<uint16_t>(value));
    const auto n = static_cast<int32_t>(values.size());
    return matrix(6, row ? 1 : n, row ? n : 1, name, element(4, data));
  }
  static std::string text(const std::string& value, const std::string& name = "") {
    std::string data;
    for (const char c : value) data += little(static_cast<uint16_t>(static_cast<uint8_t>(c)));
    return matrix(4, 1, static_cast<int32_t>(value.size()), name, element(4, data));
  }
  static std::string cells(const std::vector<std::string>& items, const std::string& name) {
    std::string payload;
    for (const std::string& item : items) payload += item;
    return matrix(1, static_cast<int32_t>(items.size()), 1, name, payload);
  }
  static std::string texts(const std::vector<std::string>& values, const std::string& name) {
    std::vector<std::string> items;
    for (const std::string& value : values) items.push_back(text(value));
    return cells(items, name);
  }
  // `values`: those of the first struct, then of the second ...
  static std::string structs(const std::vector<std::string>& fields,
                             const std::vector<std::string>& values, const std::string& name) {
    constexpr int32_t kLength = 32;
    std::string names, payload;
    for (const std::string& field : fields)
      names += field + std::string(kLength - field.size(), '\0');
    for (const std::string& value : values) payload += value;
    // The length of names is a small element: type and size share a word.
    return matrix(
        2, 1, static_cast<int32_t>(values.size() / fields.size()), name,
        little(uint16_t{5}) + little(uint16_t{4}) + little(kLength) + element(1, names) + payload);
  }
  static std::string file(const std::vector<std::string>& variables) {
    std::string head = "MATLAB 5.0 MAT-file";
    head.resize(124, ' ');
    std::string bytes = head + little(uint16_t{0x0100}) + "IM";
    for (const std::string& variable : variables) bytes += variable;
    return bytes;
  }
};

class Tree : public FolderTest {
 protected:
  void write(const std::string& name, const std::string& bytes) {
    fs::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name, std::ios::binary) << bytes;
  }
  std::string read(const std::string& name) const {
    std::ifstream in(root_ / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  // Pictures, each of a grey of its own.
  void pictures(const std::vector<std::string>& names) {
    for (const std::string& name : names) write(name, tiny_picture(grey_++));
  }

  const fs::path& root_ = folder_;
  uint8_t grey_ = 1;
};

}  // namespace facet::test
