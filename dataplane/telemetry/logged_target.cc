#include "dataplane/telemetry/logged_target.h"

#include <algorithm>
#include <array>

#include "common/base/text.h"

namespace gateway::dataplane {
namespace {

// Query parameters that carry credentials by themselves: OAuth, OpenID Connect, signed URLs of AWS, Google and Azure,
// sessions, passwords. Lower case.
constexpr std::string_view kSecretNames[] = {
    "access_token",
    "refresh_token",
    "id_token",
    "token",
    "auth_token",
    "api_key",
    "apikey",
    "api-key",
    "password",
    "passwd",
    "pwd",
    "client_secret",
    "secret",
    "jwt",
    "sig",
    "signature",
    "code",
    "state",
    "assertion",
    "client_assertion",
    "code_verifier",
    "device_code",
    "samlresponse",
    "samlrequest",
    "session",
    "session_id",
    "sessionid",
    "phpsessid",
    "jsessionid",
    "auth",
    "authorization",
    "bearer",
    "credential",
    "credentials",
    "otp",
    "x-amz-signature",
    "x-amz-security-token",
    "x-amz-credential",
    "awsaccesskeyid",
    "x-goog-signature",
    "x-goog-credential",
    "googleaccessid",
};
// Of a name with what is around its brackets. What is longer has no configured name.
constexpr size_t kNameBytesMax = 128;

// The number that a hexadecimal digit stands for; -1: it is not one.
int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char lower = static_cast<char>(c | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// `name` as it stands in the target: services decode it ("acce%73s_token") before they look at it, and so does this.
bool IsSecretName(std::string_view name, const std::vector<std::string>& more) {
  std::array<char, kNameBytesMax> decoded;
  size_t size = 0;
  for (size_t at = 0; at < name.size(); ++at) {
    if (size == decoded.size()) return false;
    char c = name[at];
    if (c == '%' && at + 2 < name.size() && HexValue(name[at + 1]) >= 0 && HexValue(name[at + 2]) >= 0) {
      c = static_cast<char>(HexValue(name[at + 1]) * 16 + HexValue(name[at + 2]));
      at += 2;
    }
    decoded[size++] = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  }
  const std::string_view whole(decoded.data(), size);
  const auto is_secret = [&more](std::string_view decoded_name) {
    return std::find(std::begin(kSecretNames), std::end(kSecretNames), decoded_name) != std::end(kSecretNames) ||
           std::find(more.begin(), more.end(), decoded_name) != more.end();
  };
  if (is_secret(whole)) return true;
  if (size <= 2 || whole.back() != ']') return false;
  // The last part of a name as PHP and Rails nest them.
  return is_secret(whole.substr(whole.rfind('[') + 1, size - whole.rfind('[') - 2));
}

}  // namespace

std::string_view LoggedTarget(std::string_view target, const std::vector<std::string>& more, std::string* room) {
  if (!target.starts_with('/')) {
    if (const size_t scheme = target.find("://"); scheme != std::string_view::npos) {
      const size_t end = target.find_first_of("/?#", scheme + 3);
      target = end == std::string_view::npos ? std::string_view("/") : target.substr(end);
    }
  }
  const size_t question = target.find('?');
  if (question == std::string_view::npos) return target;
  room->clear();
  size_t copied = 0;
  for (size_t at = question + 1; at < target.size();) {
    const size_t end = std::min(target.find_first_of("&;", at), target.size());  // some services part at both
    const std::string_view pair = target.substr(at, end - at);
    const size_t equals = pair.find('=');
    if (equals != std::string_view::npos && IsSecretName(pair.substr(0, equals), more)) {
      Append(room, target.substr(copied, at + equals + 1 - copied), "***");
      copied = end;
    }
    at = end + 1;
  }
  if (copied == 0) return target;
  room->append(target.substr(copied));
  return *room;
}

}  // namespace gateway::dataplane
