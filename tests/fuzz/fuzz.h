// What the fuzz targets share: the input as text, and the one kind of failure that is allowed.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "tensor/check.h"

namespace facet::fuzz {

// Damaged input may throw a FileError, which is one line, and nothing else.
template <typename F>
void expect_value_or_file_error(const F& f) {
  try {
    f();
  } catch (const FileError& error) {
    if (std::string_view(error.what()).empty()) std::abort();
  }
}

inline void require(bool holds) {
  if (!holds) std::abort();
}

inline std::string_view text(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace facet::fuzz
