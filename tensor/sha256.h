// SHA-256 (FIPS 180-4), by which published weights are known.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace facet {

class Sha256 {
 public:
  void add(std::span<const std::byte> bytes);
  std::string hex();  // of all that was added; nothing can be added afterwards

 private:
  void block(const std::byte* bytes);

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::byte, 64> rest_{};
  uint64_t length_ = 0;
};

std::string sha256(std::span<const std::byte> bytes);

}  // namespace facet
