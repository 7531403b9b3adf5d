#include "common/auth/jwt.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "common/base/strict_json.h"
#include "common/base/text.h"

namespace gateway {
namespace {

using nlohmann::json;

constexpr size_t kClaimBytesMax = 4096;

bool IsPrintable(std::string_view text) {
  return std::none_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) < 0x20 || c == 0x7f; });
}

// A claim as text; nothing for null, objects, and lists of anything but texts.
std::optional<std::string> TextOf(const json& claim) {
  std::string text;
  if (claim.is_string()) {
    text = claim.get<std::string>();
  } else if (claim.is_boolean() || claim.is_number()) {
    text = claim.dump();
  } else if (claim.is_array()) {
    for (const json& element : claim) {
      if (!element.is_string()) return std::nullopt;
      Append(&text, text.empty() ? "" : " ", element.get_ref<const std::string&>());
    }
  } else {
    return std::nullopt;
  }
  if (text.size() > kClaimBytesMax || !IsPrintable(text)) return std::nullopt;
  return text;
}

bool HasElement(const json& claim, std::string_view wanted) {
  if (claim.is_array()) {
    return std::any_of(claim.begin(), claim.end(), [wanted](const json& element) {
      if (element.is_string()) return element.get_ref<const std::string&>() == wanted;
      return (element.is_number() || element.is_boolean()) && element.dump() == wanted;
    });
  }
  if (claim.is_boolean() || claim.is_number()) return claim.dump() == wanted;
  if (!claim.is_string()) return false;
  const std::string& text = claim.get_ref<const std::string&>();
  if (text == wanted) return true;
  if (wanted.find(' ') != std::string_view::npos) return false;
  for (std::string_view rest = text; !rest.empty();) {
    const size_t space = std::min(rest.find(' '), rest.size());
    if (rest.substr(0, space) == wanted && space > 0) return true;
    rest.remove_prefix(std::min(space + 1, rest.size()));
  }
  return false;
}

// A NumericDate (RFC 7519, section 2: seconds, perhaps with a fraction); nothing if it is present and invalid.
std::optional<double> NumericDate(const json& claim) {
  if (!claim.is_number()) return std::nullopt;
  const double seconds = claim.get<double>();
  // Far enough for everybody, and near enough for a clock that counts nanoseconds in 64 bits.
  return std::isfinite(seconds) && std::abs(seconds) < 9e9 ? std::optional(seconds) : std::nullopt;
}

double SecondsOf(WallTime time) { return std::chrono::duration<double>(time.time_since_epoch()).count(); }

std::vector<std::string> GroupsOf(const json& claim) {
  std::vector<std::string> groups;
  const auto add = [&groups](std::string_view group) {
    if (group.empty() || group.size() > kClaimBytesMax || !IsPrintable(group)) return;
    // They are told to services with commas between them.
    if (group.find(',') == std::string_view::npos && groups.size() < kJwtGroupsMax) groups.emplace_back(group);
  };
  if (claim.is_array()) {
    for (const json& element : claim) {
      if (element.is_string()) add(element.get_ref<const std::string&>());
    }
  } else if (claim.is_string()) {
    for (std::string_view rest = claim.get_ref<const std::string&>(); !rest.empty();) {
      const size_t space = std::min(rest.find(' '), rest.size());
      add(rest.substr(0, space));
      rest.remove_prefix(std::min(space + 1, rest.size()));
    }
  }
  return groups;
}

JwtVerdict Refused(JwtRefusal refusal) { return {refusal, {}}; }

}  // namespace

std::string_view JwtClaims::Find(std::string_view name) const {
  const auto found = std::lower_bound(claims.begin(), claims.end(), name,
                                      [](const auto& claim, std::string_view wanted) { return claim.first < wanted; });
  return found != claims.end() && found->first == name ? std::string_view(found->second) : std::string_view();
}

size_t JwtClaims::bytes() const {
  size_t bytes = sizeof *this;
  for (const std::string& group : groups) bytes += sizeof(std::string) + group.size();
  for (const auto& [name, value] : claims) bytes += sizeof(claims[0]) + name.size() + value.size();
  return bytes;
}

std::string_view MessageOf(JwtRefusal refusal) {
  switch (refusal) {
    case JwtRefusal::kNone:
      return "";
    case JwtRefusal::kMalformed:
      return "the token is malformed";
    case JwtRefusal::kUnknownKey:
      return "the token is signed by an unknown key";
    case JwtRefusal::kSignature:
      return "the token's signature is wrong";
    case JwtRefusal::kExpired:
      return "the token has expired";
    case JwtRefusal::kNotYetValid:
      return "the token is not valid yet";
    case JwtRefusal::kNoExpiry:
      return "the token never expires";
    case JwtRefusal::kIssuer:
      return "the token is of another issuer";
    case JwtRefusal::kAudience:
      return "the token is for another audience";
    case JwtRefusal::kClaims:
      return "the token lacks a claim that is required";
  }
  return "";
}

JwtVerdict CheckJwtClaims(std::string_view payload, const JwtRules& rules, WallTime now) {
  const absl::StatusOr<json> claims = ParseJsonObject(payload);
  if (!claims.ok()) return Refused(JwtRefusal::kMalformed);
  const double seconds = SecondsOf(now);
  const auto leeway = static_cast<double>(rules.leeway.count());

  const auto exp = claims->find("exp");
  if (exp == claims->end()) return Refused(JwtRefusal::kNoExpiry);
  const std::optional<double> expires = NumericDate(*exp);
  if (!expires) return Refused(JwtRefusal::kMalformed);
  if (seconds >= *expires + leeway) return Refused(JwtRefusal::kExpired);
  for (const char* name : {"nbf", "iat"}) {
    const auto claim = claims->find(name);
    if (claim == claims->end()) continue;
    const std::optional<double> begins = NumericDate(*claim);
    if (!begins) return Refused(JwtRefusal::kMalformed);
    if (seconds + leeway < *begins) return Refused(JwtRefusal::kNotYetValid);
  }
  if (!rules.issuer.empty()) {
    const std::string* issuer = FindString(*claims, "iss");
    if (issuer == nullptr || *issuer != rules.issuer) return Refused(JwtRefusal::kIssuer);
  }
  if (!rules.audiences.empty()) {
    const auto aud = claims->find("aud");
    // (A text is one audience, spaces and all: only lists have several.)
    const bool meant = aud != claims->end() &&
                       std::any_of(rules.audiences.begin(), rules.audiences.end(), [&](const std::string& audience) {
                         return aud->is_array() ? HasElement(*aud, audience) : *aud == audience;
                       });
    if (!meant) return Refused(JwtRefusal::kAudience);
  }
  for (const auto& [name, value] : rules.require) {
    const auto claim = claims->find(name);
    if (claim == claims->end() || !HasElement(*claim, value)) return Refused(JwtRefusal::kClaims);
  }

  JwtVerdict verdict;
  for (const auto& [name, claim] : claims->items()) {  // in the order of their names
    if (std::optional<std::string> text = TextOf(claim)) verdict.claims.claims.emplace_back(name, *std::move(text));
  }
  if (!rules.groups_claim.empty()) {
    if (const auto claim = claims->find(rules.groups_claim); claim != claims->end()) {
      verdict.claims.groups = GroupsOf(*claim);
    }
  }
  verdict.claims.expires =
      WallTime(std::chrono::duration_cast<WallTime::duration>(std::chrono::duration<double>(*expires + leeway)));
  return verdict;
}

std::optional<std::string> ClaimedIssuer(std::string_view token) {
  const absl::StatusOr<CompactJws> jws = CompactJws::Parse(token);
  if (!jws.ok()) return std::nullopt;
  const absl::StatusOr<json> claims = ParseJsonObject(jws->payload);
  if (!claims.ok()) return std::nullopt;
  const std::string* issuer = FindString(*claims, "iss");
  return issuer == nullptr ? std::string() : *issuer;
}

JwtVerdict VerifyJwt(std::string_view token, const JwkSet& keys, const JwtRules& rules, WallTime now) {
  const absl::StatusOr<CompactJws> jws = CompactJws::Parse(token);
  if (!jws.ok()) return Refused(JwtRefusal::kMalformed);
  if (!rules.algorithms.empty() &&
      std::find(rules.algorithms.begin(), rules.algorithms.end(), jws->algorithm) == rules.algorithms.end()) {
    return Refused(JwtRefusal::kMalformed);
  }
  const auto names = [&jws](const Jwk& key) { return key.kid == jws->kid && key.Fits(jws->algorithm); };
  const bool named = !jws->kid.empty() && std::any_of(keys.keys.begin(), keys.keys.end(), names);
  bool good = false;
  size_t tried = 0;
  for (const Jwk& key : keys.keys) {
    if (named ? !names(key) : !key.Fits(jws->algorithm) || (!jws->kid.empty() && !key.kid.empty())) continue;
    if (++tried > kJwtKeysTriedMax) break;
    good = VerifySignature(key, jws->algorithm, jws->signing_input, jws->signature);
    if (good) break;
  }
  if (tried == 0) return Refused(JwtRefusal::kUnknownKey);
  if (!good) return Refused(JwtRefusal::kSignature);
  return CheckJwtClaims(jws->payload, rules, now);
}

}  // namespace gateway
