// Public keys as JSON Web Keys (RFC 7517, 7518, 8037), and the signatures they verify (RFC 7515), by OpenSSL.
#ifndef GATEWAY_COMMON_BASE_JWK_H_
#define GATEWAY_COMMON_BASE_JWK_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct evp_pkey_st;

namespace gateway {

// Every accepted algorithm: no symmetric one, and not `none`.
enum class JwsAlgorithm : uint8_t { kRs256, kRs384, kRs512, kPs256, kPs384, kPs512, kEs256, kEs384, kEs512, kEdDsa };

// By its name in RFC 7518, section 3.1 ("RS256"), case-sensitive; nothing for any other.
std::optional<JwsAlgorithm> ParseJwsAlgorithm(std::string_view name);
std::string_view NameOf(JwsAlgorithm algorithm);

// One public key. Immutable; thread-safe.
struct Jwk {
  enum class Type : uint8_t { kRsa, kP256, kP384, kP521, kEd25519 };
  Type type = Type::kRsa;
  std::string kid;                        // may be empty
  std::optional<JwsAlgorithm> algorithm;  // the only one it is for, if it says so
  std::shared_ptr<evp_pkey_st> key;

  // Whether the key's type, and its own `alg`, fit: an RSA key never verifies ES256, a key of PS256 never RS256.
  bool Fits(JwsAlgorithm wanted) const;
};

struct JwkSet {
  static constexpr size_t kTextBytesMax = 256 * 1024;
  static constexpr size_t kKeysMax = 100;
  static constexpr size_t kRsaBitsMin = 2048, kRsaBitsMax = 8192;  // larger ones cost a worker too much
  static constexpr size_t kKidBytesMax = 256;

  std::vector<Jwk> keys;
  std::vector<std::string> skipped;  // why keys of the text are not among `keys`: "key 2: kty 'X' is unknown"
  std::vector<std::string> unsafe;   // likewise, of keys that every reader of the text could sign with
};

// Keys that only their owner can sign tokens with: a symmetric one (`oct`), or one with a private member, is never
// among them, since a published secret is lost. Keys for encryption and of unknown types and curves are skipped, as RFC
// 7517, section 5, has it. A text that is too large, or no usable key, is an error.
//
// What happens to a set with a key that is unsafe, too short or malformed: an operator's is rejected, so that it gets
// fixed; one that an issuer publishes loses only that key.
enum class BadJwk : uint8_t { kRefuse, kSkip };
absl::StatusOr<JwkSet> ParseJwks(std::string_view json, BadJwk bad = BadJwk::kRefuse);

// Whether an operator's set can be used.
absl::Status CheckJwks(std::string_view json);

// Whether `signature` (raw, as decoded: for ECDSA r || s) is `key`'s over `input`. False for a key that does not fit.
// 20 us (RSA, Ed25519, P-256) to 1 ms (P-521). Thread-safe.
bool VerifySignature(const Jwk& key, JwsAlgorithm algorithm, std::string_view input, std::string_view signature);

// A JWS in compact serialisation, taken apart but not verified. Views point into the token.
struct CompactJws {
  static constexpr size_t kTextBytesMax = 16 * 1024;
  JwsAlgorithm algorithm = JwsAlgorithm::kRs256;
  std::string kid, type;  // `kid` and `typ` of the header; empty: absent
  std::string payload;    // decoded
  std::string signature;  // decoded
  std::string_view signing_input;

  // InvalidArgument (fit for a log: it repeats nothing of the token) if it isn't one, its algorithm is not accepted,
  // or its header has `crit` (nothing that may be critical is understood here) or a name twice.
  static absl::StatusOr<CompactJws> Parse(std::string_view token);
};

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_JWK_H_
