// Hashes of passwords as PHC strings (github.com/P-H-C/phc-string-format): scrypt (RFC 7914) and argon2id (RFC 9106).
//
//   $scrypt$ln=15,r=8,p=3$SALT$HASH           base64 without padding
//   $argon2id$v=19$m=19456,t=2,p=1$SALT$HASH
#ifndef GATEWAY_COMMON_BASE_PASSWORD_H_
#define GATEWAY_COMMON_BASE_PASSWORD_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace gateway {

struct PasswordHash {
  // What one check may cost a data plane: an operator's error must not be able to stop it.
  static constexpr uint64_t kMemoryBytesMax = 256ull << 20;
  // Bytes of memory written: 1 GiB takes about a second of one core.
  static constexpr uint64_t kWorkBytesMax = 1ull << 30;
  static constexpr size_t kSaltBytesMin = 8, kSaltBytesMax = 64;
  static constexpr size_t kHashBytesMin = 16, kHashBytesMax = 64;
  static constexpr size_t kTextBytesMax = 512;

  enum class Method : uint8_t { kScrypt, kArgon2id };
  Method method = Method::kScrypt;
  // scrypt: N = 2^log2_cost, block size r = 8 unless said, parallelism.
  uint32_t log2_cost = 15;
  uint32_t block_size = 8;
  uint32_t parallelism = 3;  // of both
  // argon2id.
  uint32_t memory_kib = 19456;
  uint32_t passes = 2;
  std::string salt;  // raw bytes
  std::string hash;

  // Takes apart what `phc` says, with the bounds above checked. InvalidArgument says what is wrong, and never repeats
  // the salt or the hash.
  static absl::StatusOr<PasswordHash> Parse(std::string_view phc);
  std::string ToText() const;
};

// Whether `phc` is a hash that requests can be checked against.
absl::Status CheckPasswordHash(std::string_view phc);

// Whether `password` is the one that was hashed. Takes 10 ms to 1 s and up to kMemoryBytesMax: never on a worker. The
// hashes are compared in constant time. An error: out of memory. Thread-safe.
absl::StatusOr<bool> VerifyPassword(const PasswordHash& hash, std::string_view password);

// The PHC string of `password` with `parameters`, whose salt is replaced by 16 random bytes if it is empty.
absl::StatusOr<std::string> HashPassword(std::string_view password, PasswordHash parameters = {});

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_PASSWORD_H_
