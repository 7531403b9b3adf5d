// JSON Web Tokens (RFC 7519): which key of a set verifies one, and whether what it claims lets it in.
//
// Pure: `now` is passed in; no sockets, no logs.
#ifndef GATEWAY_COMMON_AUTH_JWT_H_
#define GATEWAY_COMMON_AUTH_JWT_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/jwk.h"

namespace gateway {

using WallTime = std::chrono::system_clock::time_point;

struct JwtRules {
  std::string issuer;                  // `iss` is this; empty: not looked at
  std::vector<std::string> audiences;  // `aud` is, or has, one of these; empty: not looked at
  // Each claim is, or has among its elements (of a list, or of a text with spaces such as `scope`), this value.
  std::vector<std::pair<std::string, std::string>> require;
  std::vector<JwsAlgorithm> algorithms;  // empty: all that are accepted
  std::chrono::seconds leeway{60};       // how far two clocks may differ: exp, nbf, iat
  std::string groups_claim;              // empty: none
};

// What a verified token says. Claims are top-level ones that are a text, a number or a boolean (as JSON writes it), or
// a list of texts (joined by spaces); others, and those with control characters, are left out.
struct JwtClaims {
  std::vector<std::pair<std::string, std::string>> claims;  // sorted by name
  // Of rules.groups_claim: the elements of a list, or the words of a text; none with a comma or a control character.
  std::vector<std::string> groups;
  WallTime expires;  // from then on it is refused: exp and the leeway

  // Empty where the token has no such claim.
  std::string_view Find(std::string_view name) const;
  size_t bytes() const;  // about what it holds, for bounds
};

enum class JwtRefusal : uint8_t {
  kNone,
  kMalformed,   // no JWS, an algorithm that is not accepted, crit, claims that are no JSON object
  kUnknownKey,  // no key of the set has its kid, or fits its algorithm: a newer set may
  kSignature,
  kExpired,
  kNotYetValid,  // nbf or iat is ahead
  kNoExpiry,     // a token that never ends can't be taken back
  kIssuer,
  kAudience,
  kClaims,  // `require`
};
// "the token has expired": for logs and WWW-Authenticate; static.
std::string_view MessageOf(JwtRefusal refusal);

struct JwtVerdict {
  JwtRefusal refusal = JwtRefusal::kNone;
  JwtClaims claims;  // without a refusal
};

inline constexpr size_t kJwtGroupsMax = 256;  // of a token; more are left out

// Keys that are tried for a token without a kid, or whose kid no key has while keys without one are there.
inline constexpr size_t kJwtKeysTriedMax = 4;

// Takes `token` apart, verifies it by `keys` and checks its claims. Costs what VerifySignature does. Thread-safe.
JwtVerdict VerifyJwt(std::string_view token, const JwkSet& keys, const JwtRules& rules, WallTime now);

// The issuer that `token` names. It is not verified: it only says where to get the keys. Empty
// where it says nothing; nothing where it is no token.
std::optional<std::string> ClaimedIssuer(std::string_view token);

// The claims' part of it, of a payload whose signature is good.
JwtVerdict CheckJwtClaims(std::string_view payload, const JwtRules& rules, WallTime now);

}  // namespace gateway

#endif  // GATEWAY_COMMON_AUTH_JWT_H_
