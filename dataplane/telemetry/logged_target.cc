#include "dataplane/telemetry/logged_target.h"

#include <algorithm>

#include "common/base/text.h"
#include "dataplane/http/http1/head.h"

namespace gateway::dataplane {
namespace {

constexpr std::string_view kSecretNames[] = {
    "access_token", "refresh_token", "id_token", "token",         "auth_token", "api_key", "apikey", "api-key",
    "password",     "passwd",        "pwd",      "client_secret", "secret",     "jwt",     "sig",    "signature",
};

bool IsSecretName(std::string_view name) {
  return std::any_of(std::begin(kSecretNames), std::end(kSecretNames),
                     [name](std::string_view each) { return http1::EqualsIgnoreCase(each, name); });
}

}  // namespace

std::string_view LoggedTarget(std::string_view target, std::string* room) {
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
    const size_t end = std::min(target.find('&', at), target.size());
    const std::string_view pair = target.substr(at, end - at);
    const size_t equals = pair.find('=');
    if (equals != std::string_view::npos && IsSecretName(pair.substr(0, equals))) {
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
