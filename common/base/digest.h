// SHA-256, plain and keyed, of short texts: for stored API keys, and for the keys of credential caches.
#ifndef GATEWAY_COMMON_BASE_DIGEST_H_
#define GATEWAY_COMMON_BASE_DIGEST_H_

#include <array>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

namespace gateway {

using Digest = std::array<uint8_t, 32>;

// FIPS 180-4. Allocates nothing.
Digest Sha256(std::string_view text);

// In lower case: 64 characters.
std::string Hex(const Digest& digest);

// From 64 hexadecimal digits of either case; otherwise empty.
std::optional<Digest> ParseHexDigest(std::string_view hex);

// HMAC-SHA-256 (RFC 2104) under one key. Immutable and thread-safe; allocates nothing.
//
// A cache with such keys cannot be read back into credentials, and cannot be filled with colliding keys without the
// secret, which each process generates.
class KeyedDigest {
 public:
  static KeyedDigest Random();
  explicit KeyedDigest(std::string_view key);

  // Of the parts, each with its length in front: {"ab", "c"} and {"a", "bc"} differ.
  Digest Of(std::initializer_list<std::string_view> parts) const;
  // Of the plain bytes (RFC 4231).
  Digest OfBytes(std::string_view bytes) const;

 private:
  // The compression function's state after the padded key.
  struct Midstate {
    uint32_t words[8];
  };
  Midstate inner_, outer_;
};

// For maps with digests as keys: the bytes are already as good as random.
struct DigestHash {
  size_t operator()(const Digest& digest) const {
    size_t hash;
    std::memcpy(&hash, digest.data(), sizeof hash);
    return hash;
  }
};

// Takes a time that depends only on the lengths.
bool EqualInConstantTime(std::string_view a, std::string_view b);

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_DIGEST_H_
