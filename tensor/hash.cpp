#include "tensor/hash.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <array>

#include "tensor/check.h"

namespace facet {
namespace {

using Value = std::array<unsigned char, EVP_MAX_MD_SIZE>;

std::string hex_of(const Value& value, unsigned size) {
  std::string text;
  for (unsigned i = 0; i < size; ++i) text += fmt::format("{:02x}", value[i]);
  return text;
}

std::string digest(std::string_view bytes, const EVP_MD* kind) {
  Value value{};
  unsigned size = 0;
  FACET_INTERNAL_CHECK(EVP_Digest(bytes.data(), bytes.size(), value.data(), &size, kind, nullptr) ==
                       1);
  return hex_of(value, size);
}

EVP_MD_CTX* of(const std::shared_ptr<void>& context) {
  return static_cast<EVP_MD_CTX*>(context.get());
}

}  // namespace

Hasher::Hasher(const char* kind)
    : context_(EVP_MD_CTX_new(), [](void* p) { EVP_MD_CTX_free(static_cast<EVP_MD_CTX*>(p)); }) {
  FACET_INTERNAL_CHECK(EVP_DigestInit_ex(of(context_), EVP_get_digestbyname(kind), nullptr) == 1);
}

void Hasher::add(std::span<const std::byte> bytes) {
  FACET_INTERNAL_CHECK(EVP_DigestUpdate(of(context_), bytes.data(), bytes.size()) == 1);
}

std::string Hasher::hex() {
  Value value{};
  unsigned size = 0;
  FACET_INTERNAL_CHECK(EVP_DigestFinal_ex(of(context_), value.data(), &size) == 1);
  return hex_of(value, size);
}

std::string sha256(std::span<const std::byte> bytes) {
  return sha256(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}
std::string sha256(std::string_view text) {
  return digest(text, EVP_sha256());
}
std::string md5(std::string_view text) {
  return digest(text, EVP_md5());
}

}  // namespace facet
