// SHA-256, plain and keyed, of short texts: what is kept of API keys, what caches of credentials are keyed by.
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

// Of 64 hexadecimal digits of either case; else nothing.
std::optional<Digest> ParseHexDigest(std::string_view hex);

// HMAC-SHA-256 (RFC 2104) under one key. Immutable and thread-safe; allocates nothing.
//
// Without the key, which each process generates, a cache keyed by it can be neither turned back into credentials nor
// filled with colliding keys.
class KeyedDigest {
 public:
  static KeyedDigest Random();
  explicit KeyedDigest(std::string_view key);

  // Of the parts, each preceded by its length: {"ab", "c"} and {"a", "bc"} differ.
  Digest Of(std::initializer_list<std::string_view> parts) const;
  // Of the bytes as they are, as RFC 4231 has it.
  Digest OfBytes(std::string_view bytes) const;

 private:
  // The compression function's state behind the padded key.
  struct Midstate {
    uint32_t words[8];
  };
  Midstate inner_, outer_;
};

// For maps keyed by digests: its bytes are as good as random already.
struct DigestHash {
  size_t operator()(const Digest& digest) const {
    size_t hash;
    std::memcpy(&hash, digest.data(), sizeof hash);
    return hash;
  }
};

// In a time that depends on the lengths only.
bool EqualInConstantTime(std::string_view a, std::string_view b);

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_DIGEST_H_
