// Hashes in hex: SHA-256, by which published weights and our own lists are known, and MD5, by which
// datasets are.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace facet {

class Hasher {
 public:
  explicit Hasher(const char* kind);  // "SHA256" or "MD5"
  void add(std::span<const std::byte> bytes);
  std::string hex();  // of all that was added; nothing can be added afterwards

 private:
  std::shared_ptr<void> context_;
};

std::string sha256(std::span<const std::byte> bytes);
std::string sha256(std::string_view text);
std::string md5(std::string_view text);

}  // namespace facet
