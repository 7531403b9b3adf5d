// The plain functions of libcrypto are used on purpose: EVP allocates and looks up its algorithm on each call, which
// costs more than hashing a key, and an EVP HMAC cannot be shared by threads.
#define OPENSSL_SUPPRESS_DEPRECATED
#include "common/base/digest.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

#include <cstdlib>

namespace gateway {
namespace {

constexpr size_t kBlockBytes = SHA256_CBLOCK;

Digest Finish(SHA256_CTX* context) {
  Digest digest;
  SHA256_Final(digest.data(), context);
  return digest;
}

int ValueOfHexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

Digest Sha256(std::string_view text) {
  SHA256_CTX context;
  SHA256_Init(&context);
  SHA256_Update(&context, text.data(), text.size());
  return Finish(&context);
}

std::string Hex(const Digest& digest) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  hex.reserve(2 * digest.size());
  for (const uint8_t byte : digest) {
    hex.push_back(kDigits[byte >> 4]);
    hex.push_back(kDigits[byte & 15]);
  }
  return hex;
}

std::optional<Digest> ParseHexDigest(std::string_view hex) {
  Digest digest;
  if (hex.size() != 2 * digest.size()) return std::nullopt;
  for (size_t i = 0; i < digest.size(); ++i) {
    const int high = ValueOfHexDigit(hex[2 * i]);
    const int low = ValueOfHexDigit(hex[2 * i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    digest[i] = static_cast<uint8_t>(high << 4 | low);
  }
  return digest;
}

KeyedDigest KeyedDigest::Random() {
  char key[32];
  // Without randomness nothing here could be kept secret, so do not run.
  if (RAND_bytes(reinterpret_cast<unsigned char*>(key), sizeof key) != 1) std::abort();
  KeyedDigest digest(std::string_view(key, sizeof key));
  OPENSSL_cleanse(key, sizeof key);
  return digest;
}

KeyedDigest::KeyedDigest(std::string_view key) {
  unsigned char block[kBlockBytes] = {};
  if (key.size() > kBlockBytes) {
    const Digest shorter = Sha256(key);
    std::memcpy(block, shorter.data(), shorter.size());
  } else {
    key.copy(reinterpret_cast<char*>(block), key.size());  // (memcpy must not get the null pointer of an empty string)
  }
  const auto state_behind = [&block](unsigned char pad) {
    unsigned char padded[kBlockBytes];
    for (size_t i = 0; i < kBlockBytes; ++i) padded[i] = block[i] ^ pad;
    SHA256_CTX context;
    SHA256_Init(&context);
    SHA256_Update(&context, padded, kBlockBytes);
    Midstate state;
    for (size_t i = 0; i < 8; ++i) state.words[i] = context.h[i];
    OPENSSL_cleanse(padded, sizeof padded);
    return state;
  };
  inner_ = state_behind(0x36);
  outer_ = state_behind(0x5c);
  OPENSSL_cleanse(block, sizeof block);
}

namespace {

SHA256_CTX ContextOf(const uint32_t (&words)[8]) {
  SHA256_CTX context;
  SHA256_Init(&context);
  for (size_t i = 0; i < 8; ++i) context.h[i] = words[i];
  context.Nl = kBlockBytes * 8;  // one block precedes it
  return context;
}

}  // namespace

Digest KeyedDigest::Of(std::initializer_list<std::string_view> parts) const {
  SHA256_CTX context = ContextOf(inner_.words);
  for (const std::string_view part : parts) {
    const uint64_t size = part.size();
    SHA256_Update(&context, &size, sizeof size);
    SHA256_Update(&context, part.data(), part.size());
  }
  const Digest inner = Finish(&context);
  context = ContextOf(outer_.words);
  SHA256_Update(&context, inner.data(), inner.size());
  return Finish(&context);
}

Digest KeyedDigest::OfBytes(std::string_view bytes) const {
  SHA256_CTX context = ContextOf(inner_.words);
  SHA256_Update(&context, bytes.data(), bytes.size());
  const Digest inner = Finish(&context);
  context = ContextOf(outer_.words);
  SHA256_Update(&context, inner.data(), inner.size());
  return Finish(&context);
}

bool EqualInConstantTime(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace gateway
