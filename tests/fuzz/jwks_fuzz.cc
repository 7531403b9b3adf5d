// A published key set of any bytes.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "common/base/jwk.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace gateway;
  const std::string_view text(reinterpret_cast<const char*>(bytes), size);
  const absl::StatusOr<JwkSet> strict = ParseJwks(text, BadJwk::kRefuse);
  const absl::StatusOr<JwkSet> loose = ParseJwks(text, BadJwk::kSkip);
  if (strict.ok() && (!loose.ok() || loose->keys.size() != strict->keys.size())) std::abort();
  if (!loose.ok()) return 0;
  if (loose->keys.empty() || loose->keys.size() > JwkSet::kKeysMax) std::abort();
  for (const Jwk& key : loose->keys) {
    if (key.key == nullptr) std::abort();
    for (int i = 0; i < 10; ++i) {
      if (VerifySignature(key, static_cast<JwsAlgorithm>(i), "input", text.substr(0, 64))) std::abort();
    }
  }
  return 0;
}
