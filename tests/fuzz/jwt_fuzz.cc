// A token of any bytes: parsed without a fault, and never accepted without a valid signature.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "common/auth/jwt.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace gateway;
  // RFC 8037, A.4. Its private key is public, but no fuzzer finds a signature.
  static const JwkSet keys =
      *ParseJwks(R"({"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]})");
  const std::string token(reinterpret_cast<const char*>(bytes), size);
  const WallTime now{std::chrono::seconds(1'800'000'000)};
  if (VerifyJwt(token, keys, {}, now).refusal == JwtRefusal::kNone) std::abort();
  (void)CompactJws::Parse(token);

  // The same bytes as claims.
  JwtRules rules;
  rules.audiences = {"a"};
  rules.require = {{"scope", "b"}};
  const JwtVerdict strict = CheckJwtClaims(token, rules, now);
  const JwtVerdict loose = CheckJwtClaims(token, {}, now);
  if (strict.refusal == JwtRefusal::kNone && loose.refusal != JwtRefusal::kNone) std::abort();
  if (loose.refusal == JwtRefusal::kNone) {
    if (loose.claims.expires <= now) std::abort();
    for (const auto& [name, value] : loose.claims.claims) {
      if (value.find('\n') != std::string::npos || value.find('\r') != std::string::npos) std::abort();
      if (loose.claims.Find(name) != value) std::abort();
    }
  }
  return 0;
}
