#include "tensor/file_types.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace facet {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little-endian");

constexpr FileType kTypes[] = {
    {"F64", 64, DType::f64},   {"I64", 64, DType::i64}, {"U64", 64, DType::i64},
    {"F32", 32, DType::f32},   {"I32", 32, DType::i32}, {"U32", 32, DType::i64},
    {"BF16", 16, DType::bf16}, {"F16", 16, DType::f32}, {"I16", 16, DType::i32},
    {"U16", 16, DType::i32},   {"U8", 8, DType::u8},    {"I8", 8, DType::i32},
    {"BOOL", 8, DType::u8},    {"C128", 128, {}},       {"C64", 64, {}},
    {"F8_E5M2", 8, {}},        {"F8_E4M3", 8, {}},      {"F8_E8M0", 8, {}},
    {"F8_E4M3FNUZ", 8, {}},    {"F8_E5M2FNUZ", 8, {}},  {"F6_E2M3", 6, {}},
    {"F6_E3M2", 6, {}},        {"F4", 4, {}},
};

// IEEE half precision.
float from_half(uint16_t bits) {
  const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const float sign = bits & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31)
    return fraction ? std::numeric_limits<float>::quiet_NaN()
                    : sign * std::numeric_limits<float>::infinity();
  const float magnitude = exponent ? std::ldexp(static_cast<float>(fraction + 1024), exponent - 25)
                                   : std::ldexp(static_cast<float>(fraction), -24);
  return sign * magnitude;
}

template <typename From, typename To, typename Convert>
void widen(std::span<const std::byte> bytes, Tensor& out, Convert convert) {
  To* to = out.data<To>();
  for (size_t i = 0; i < bytes.size() / sizeof(From); ++i) {
    From value;
    std::memcpy(&value, bytes.data() + i * sizeof(From), sizeof(From));
    to[i] = convert(value);
  }
}

}  // namespace

const FileType* find_file_type(std::string_view name) {
  for (const FileType& type : kTypes)
    if (name == type.name) return &type;
  return nullptr;
}

const FileType& file_type_of(DType dtype) {
  for (const FileType& type : kTypes)
    if (type.dtype == dtype && type.bytes() == size_of(dtype)) return type;
  throw InternalError("a type that cannot be written");
}

Tensor decode(const FileType& file_type, std::span<const std::byte> bytes, const Shape& shape) {
  const std::string_view type = file_type.name;
  if (!file_type.dtype) throw FileError("elements of type {} are not supported", type);
  Tensor out = Tensor::empty(shape, *file_type.dtype);
  const auto same = [](auto v) { return v; };
  if (type == "F16")
    widen<uint16_t, float>(bytes, out, from_half);
  else if (type == "I8")
    widen<int8_t, int32_t>(bytes, out, same);
  else if (type == "I16")
    widen<int16_t, int32_t>(bytes, out, same);
  else if (type == "U16")
    widen<uint16_t, int32_t>(bytes, out, same);
  else if (type == "U32")
    widen<uint32_t, int64_t>(bytes, out, same);
  else if (type == "U64")
    widen<uint64_t, int64_t>(bytes, out, [](uint64_t v) {
      if (v > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
        throw FileError("{} does not fit i64", v);
      return static_cast<int64_t>(v);
    });
  else if (!bytes.empty())
    std::memcpy(out.raw(), bytes.data(), bytes.size());
  return out;
}

}  // namespace facet
