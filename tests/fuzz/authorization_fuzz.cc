// An Authorization field of any bytes.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "common/base/base64.h"
#include "common/base/password.h"
#include "dataplane/auth/authorization.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace gateway;
  using namespace gateway::dataplane;
  const std::string_view value(reinterpret_cast<const char*>(bytes), size);
  const Authorization authorization = ParseAuthorization(value);
  if (!authorization.credentials.empty()) {
    if (authorization.scheme == AuthScheme::kOther) std::abort();
    if (authorization.credentials.data() < value.data() ||
        authorization.credentials.data() + authorization.credentials.size() > value.data() + value.size()) {
      std::abort();
    }
    if (const auto basic = ParseBasicCredentials(authorization.credentials)) {
      if (basic->username.find(':') != std::string::npos) std::abort();
    }
  }
  // In strict base64 each byte sequence has one encoding.
  if (const auto raw = DecodeBase64(Base64::kUrl, value)) {
    if (EncodeBase64(Base64::kUrl, *raw) != value) std::abort();
  }
  if (const auto hash = PasswordHash::Parse(value); hash.ok() && !CheckPasswordHash(hash->ToText()).ok()) std::abort();
  return 0;
}
