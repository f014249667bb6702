// SHA-256, by which published weights and our own lists are known, and MD5, by which datasets are,
// in hex; FNV-1a, by which things are told apart that nobody forges.
#pragma once

#include <cstddef>
#include <cstdint>
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

// 64 bits, the usual constants; `hash`: of what came before.
inline uint64_t fnv1a(std::string_view bytes, uint64_t hash = 14695981039346656037ull) {
  for (const char c : bytes) hash = (hash ^ static_cast<uint8_t>(c)) * 1099511628211ull;
  return hash;
}

}  // namespace facet
