// JSON Web Tokens (RFC 7519): which key of a set verifies a token, and whether its claims are accepted.
//
// Pure: `now` is passed in; no sockets, no logs.
#ifndef GATEWAY_DATAPLANE_AUTH_JWT_H_
#define GATEWAY_DATAPLANE_AUTH_JWT_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/jwk.h"
#include "common/base/time.h"

namespace gateway::dataplane {

struct JwtRules {
  std::string issuer;                  // required `iss`; empty: any
  std::vector<std::string> audiences;  // `aud` equals or contains one of these; empty: any
  // Each claim equals this value, or has it among its elements (a list, or a text with spaces such as `scope`).
  std::vector<std::pair<std::string, std::string>> require;
  std::vector<JwsAlgorithm> algorithms;  // empty: all accepted ones
  std::chrono::seconds leeway{60};       // how far clocks may differ, for exp, nbf and iat
  std::string groups_claim;              // empty: none
};

// The claims of a verified token: top-level ones that are a text, a number or a boolean (as JSON writes it), or a list
// of texts (joined by spaces). Others, and those with control characters, are omitted.
struct JwtClaims {
  std::vector<std::pair<std::string, std::string>> claims;  // sorted by name
  // From rules.groups_claim: the elements of a list or the words of a text; none has a comma or a control character.
  std::vector<std::string> groups;
  WallTime expires;  // rejected from then on: exp plus leeway

  // Empty if the token has no such claim.
  std::string_view Find(std::string_view name) const;
  size_t bytes() const;  // approximate size, for limits
};

enum class JwtRefusal : uint8_t {
  kNone,
  kMalformed,   // not a JWS, an algorithm that is not accepted, crit, or claims that are not a JSON object
  kUnknownKey,  // no key of the set has its kid or fits its algorithm; a newer set may
  kSignature,
  kExpired,
  kNotYetValid,  // nbf or iat is in the future
  kNoExpiry,     // a token that never expires cannot be revoked
  kIssuer,
  kAudience,
  kClaims,  // `require`
};
// "the token has expired": for logs and WWW-Authenticate; static.
std::string_view MessageOf(JwtRefusal refusal);

struct JwtVerdict {
  JwtRefusal refusal = JwtRefusal::kNone;
  JwtClaims claims;  // if it is accepted
};

inline constexpr size_t kJwtGroupsMax = 256;  // of a token; further ones are ignored

// Keys to try for a token without a kid, or with an unknown kid if there are keys without one.
inline constexpr size_t kJwtKeysTriedMax = 4;

// Parses `token`, verifies it with `keys` and checks its claims. Costs as much as VerifySignature. Thread-safe.
JwtVerdict VerifyJwt(std::string_view token, const JwkSet& keys, const JwtRules& rules, WallTime now);

// The unverified issuer in `token`: it selects the keys to verify with, nothing else. An empty text if there is none;
// nullopt if it is not a token.
std::optional<std::string> ClaimedIssuer(std::string_view token);

// The part about claims, for a payload whose signature is valid.
JwtVerdict CheckJwtClaims(std::string_view payload, const JwtRules& rules, WallTime now);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_AUTH_JWT_H_
