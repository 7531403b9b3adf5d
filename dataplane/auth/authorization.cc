#include "dataplane/auth/authorization.h"

#include <algorithm>
#include <cstdint>

#include "common/base/base64.h"

namespace gateway::dataplane {
namespace {

bool EqualIgnoringCase(std::string_view text, std::string_view lower) {
  return text.size() == lower.size() && std::equal(text.begin(), text.end(), lower.begin(), [](char a, char b) {
           return (a >= 'A' && a <= 'Z' ? static_cast<char>(a + 32) : a) == b;
         });
}

}  // namespace

Authorization ParseAuthorization(std::string_view value) {
  Authorization authorization;
  const size_t space = value.find(' ');
  const std::string_view scheme = value.substr(0, space);
  if (EqualIgnoringCase(scheme, "basic")) authorization.scheme = AuthScheme::kBasic;
  if (EqualIgnoringCase(scheme, "bearer")) authorization.scheme = AuthScheme::kBearer;
  if (space == std::string_view::npos || authorization.scheme == AuthScheme::kOther) return authorization;
  value.remove_prefix(space);
  while (!value.empty() && value.front() == ' ') value.remove_prefix(1);
  while (!value.empty() && (value.back() == ' ' || value.back() == '\t')) value.remove_suffix(1);
  authorization.credentials = value;
  return authorization;
}

std::optional<BasicCredentials> ParseBasicCredentials(std::string_view token68) {
  if (token68.size() > BasicCredentials::kTextBytesMax) return std::nullopt;
  const std::optional<std::string> text = DecodeBase64(Base64::kStandard, token68);
  if (!text) return std::nullopt;
  const size_t colon = text->find(':');
  if (colon == std::string::npos) return std::nullopt;
  if (std::any_of(text->begin(), text->end(), [](char c) { return static_cast<uint8_t>(c) < 0x20 || c == 0x7f; })) {
    return std::nullopt;
  }
  return BasicCredentials{text->substr(0, colon), text->substr(colon + 1)};
}

}  // namespace gateway::dataplane
