#include "tensor/hash.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <array>

#include "tensor/check.h"

namespace facet {
namespace {

std::string digest(std::span<const std::byte> bytes, const char* kind) {
  Hasher hasher(kind);
  hasher.add(bytes);
  return hasher.hex();
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
  std::array<unsigned char, EVP_MAX_MD_SIZE> value{};
  unsigned size = 0;
  FACET_INTERNAL_CHECK(EVP_DigestFinal_ex(of(context_), value.data(), &size) == 1);
  std::string text;
  for (unsigned i = 0; i < size; ++i) text += fmt::format("{:02x}", value[i]);
  return text;
}

std::string sha256(std::span<const std::byte> bytes) {
  return digest(bytes, "SHA256");
}
std::string sha256(std::string_view text) {
  return sha256(std::as_bytes(std::span(text)));
}
std::string md5(std::string_view text) {
  return digest(std::as_bytes(std::span(text)), "MD5");
}

}  // namespace facet
