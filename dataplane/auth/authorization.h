// The Authorization field (RFC 9110, section 11.6.2) as the methods that are served here use it.
#ifndef GATEWAY_DATAPLANE_AUTH_AUTHORIZATION_H_
#define GATEWAY_DATAPLANE_AUTH_AUTHORIZATION_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace gateway::dataplane {

enum class AuthScheme : uint8_t { kOther, kBasic, kBearer };

struct Authorization {
  AuthScheme scheme = AuthScheme::kOther;
  std::string_view credentials;  // a view into the value, of any characters; may be empty
};

// The scheme's case does not matter.
Authorization ParseAuthorization(std::string_view value);

// RFC 7617.
struct BasicCredentials {
  static constexpr size_t kTextBytesMax = 4096;  // base64: a longer one is not a password
  std::string username;
  std::string password;
};
// Nothing if it is not base64, has no colon, or holds a control character.
std::optional<BasicCredentials> ParseBasicCredentials(std::string_view token68);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_AUTH_AUTHORIZATION_H_
