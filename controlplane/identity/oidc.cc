#include "controlplane/identity/oidc.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/notification.h"
#include "common/base/jwk.h"
#include "common/base/quote.h"
#include "common/base/strict_json.h"
#include "common/policy/resource.h"
#include "controlplane/identity/own_actors.h"
#include "controlplane/identity/rules.h"

namespace gateway::controlplane {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

constexpr char kKey[] = "control_plane.oidc";

std::string ConfigurationUrl(std::string_view issuer) {
  return absl::StrCat(absl::StripSuffix(absl::string_view(issuer.data(), issuer.size()), "/"),
                      "/.well-known/openid-configuration");
}

// The member that `path` names: by its whole name, or inside an object ("realm.groups"). Null: absent.
const json* FindClaim(const json& object, const std::string& path) {
  if (const auto claim = object.find(path); claim != object.end()) return &*claim;
  for (size_t dot = path.find('.'); dot != std::string::npos; dot = path.find('.', dot + 1)) {
    const auto inner = object.find(path.substr(0, dot));
    if (inner == object.end() || !inner->is_object()) continue;
    if (const json* claim = FindClaim(*inner, path.substr(dot + 1)); claim != nullptr) return claim;
  }
  return nullptr;
}

// Neither C0, DEL nor C1, which terminals act on. `text` is UTF-8.
bool HasControlCharacter(std::string_view text) {
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<uint8_t>(text[i]);
    if (byte < 0x20 || byte == 0x7f) return true;
    if (byte == 0xc2 && i + 1 < text.size() && static_cast<uint8_t>(text[i + 1]) < 0xa0) return true;
  }
  return false;
}

// The operator's name; empty: the claim is not a name for history and audit.
std::string NameOf(const json* claim) {
  if (claim == nullptr || !claim->is_string()) return "";
  const auto& name = claim->get_ref<const std::string&>();
  if (name.size() > Oidc::kNameBytesMax || HasControlCharacter(name) || absl::StripAsciiWhitespace(name) != name ||
      IsOwnActor(absl::AsciiStrToLower(name))) {
    return "";
  }
  return name;
}

// A string is one group, spaces and all. As many as a token of CompactJws::kTextBytesMax can have.
std::vector<std::string> GroupsOf(const json& claim) {
  std::vector<std::string> groups;
  if (claim.is_string()) groups.push_back(claim.get<std::string>());
  if (!claim.is_array()) return groups;
  for (const json& element : claim) {
    if (element.is_string()) groups.push_back(element.get<std::string>());
  }
  return groups;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Oidc>> Oidc::Open(const v1::OidcSection& section, OidcOptions options) {
  if (!section.ca().empty() && access(section.ca().c_str(), R_OK) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(kKey, ".ca: '", section.ca(), "' cannot be read: ", strerror(errno)));
  }
  std::map<std::string, Role> roles;
  for (int i = 0; i < section.roles_size(); ++i) {
    const v1::OidcRole& given = section.roles(i);
    Role role{.role = RoleNamed(given.role()), .scope = nullptr, .place = i};
    if (!given.only().empty() || !given.kinds().empty()) {
      auto scope = std::make_shared<Scope>();
      scope->only = {given.only().begin(), given.only().end()};
      for (int k = 0; k < given.kinds_size(); ++k) {
        const absl::StatusOr<std::string> kind = CanonicalKind(given.kinds(k));
        if (!kind.ok()) {
          return absl::InvalidArgumentError(
              absl::StrCat(kKey, ".roles[", i, "].kinds[", k, "]: ", kind.status().message()));
        }
        scope->kinds.insert(*kind);
      }
      role.scope = std::move(scope);
    }
    roles.emplace(given.group(), std::move(role));
  }
  return std::unique_ptr<Oidc>(new Oidc(section, std::move(roles), std::move(options)));
}

Oidc::Oidc(const v1::OidcSection& section, std::map<std::string, Role> roles, OidcOptions options)
    : issuer_(section.issuer()),
      name_claim_(section.name_claim()),
      groups_claim_(section.groups_claim()),
      fetch_options_{section.ca(), &stopping_},
      wait_(options.wait),
      roles_(std::move(roles)),
      fetcher_({.timeout = options.timeout,
                .pause = options.pause,
                .fetches_max = 1,
                .fetch = [this](const std::string& url, milliseconds timeout) { return Fetch(url, timeout); },
                .clock = std::move(options.clock)}),
      source_(fetcher_.Find(ConfigurationUrl(issuer_), kRefresh)) {
  rules_.issuer = issuer_;
  rules_.audiences = {section.audience()};
  rules_.leeway = kLeeway;
}

Oidc::~Oidc() { stopping_ = true; }

absl::StatusOr<std::string> Oidc::Fetch(const std::string& url, milliseconds timeout) const {
  const auto until = std::chrono::steady_clock::now() + timeout;
  const absl::StatusOr<std::string> text = FetchUrl(url, timeout, fetch_options_);
  if (!text.ok()) return text.status();
  const absl::StatusOr<json> configuration = ParseJsonObject(*text);
  if (!configuration.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the issuer's configuration cannot be read: ", configuration.status().message()));
  }
  // Else the keys of one issuer would verify tokens in the name of another (OpenID Connect Discovery, section 4.3).
  if (const std::string* named = FindString(*configuration, "issuer"); named == nullptr || *named != issuer_) {
    return absl::InvalidArgumentError(absl::StrCat("its configuration is that of the issuer ",
                                                   QuoteForMessage(named == nullptr ? "" : *named), ", not of ",
                                                   QuoteForMessage(issuer_)));
  }
  const std::string* keys = FindString(*configuration, "jwks_uri");
  if (keys == nullptr) return absl::InvalidArgumentError("its configuration has no jwks_uri");
  const auto left = std::chrono::ceil<milliseconds>(until - std::chrono::steady_clock::now());
  if (left.count() <= 0) return absl::UnavailableError("the issuer's configuration takes too long");
  absl::StatusOr<std::string> set = FetchUrl(*keys, left, fetch_options_);
  if (!set.ok()) return absl::Status(set.status().code(), absl::StrCat("jwks_uri: ", set.status().message()));
  return set;
}

bool Oidc::LooksLikeToken(std::string_view credential) {
  return std::count(credential.begin(), credential.end(), '.') == 2;
}

absl::Status Oidc::AwaitNewerKeys(uint64_t seen) {
  const auto being_fetched = [this] {
    return absl::UnavailableError(absl::StrCat("the keys of ", issuer_, " are being fetched; try again"));
  };
  if (waiting_.exchange(true)) return being_fetched();
  const absl::Cleanup waited = [this] { waiting_ = false; };
  const auto fetched = std::make_shared<absl::Notification>();
  if (fetcher_.Refresh(*source_, seen, [fetched] { fetched->Notify(); }) != KeyFetcher::Refreshed::kUnderWay) {
    return absl::OkStatus();
  }
  return fetched->WaitForNotificationWithTimeout(absl::FromChrono(wait_)) ? absl::OkStatus() : being_fetched();
}

absl::Status Oidc::CheckKeysAge() const {
  const KeyFetcher::Row row = keys();
  if (!row.has_keys) {
    return absl::UnavailableError(
        absl::StrCat("the keys of ", issuer_, " cannot be fetched; the control plane's log has the reason"));
  }
  if (row.age_seconds > std::chrono::duration<double>(kKeysKept).count()) {
    return absl::UnavailableError(absl::StrCat("the keys of ", issuer_, " have not been fetched for ",
                                               kKeysKept.count(), " hours; they are no longer used"));
  }
  return absl::OkStatus();
}

absl::StatusOr<JwtVerdict> Oidc::Verify(std::string_view token, WallTime now) {
  const auto verify = [&](uint64_t* seen) -> JwtVerdict {
    *seen = source_->generation();
    const std::shared_ptr<const JwkSet> keys = source_->keys();
    if (keys == nullptr) return {JwtRefusal::kUnknownKey, {}};
    return VerifyJwt(token, *keys, rules_, now);
  };
  uint64_t seen = 0;
  JwtVerdict verdict = verify(&seen);
  if (verdict.refusal == JwtRefusal::kUnknownKey) {
    if (absl::Status s = AwaitNewerKeys(seen); !s.ok()) return s;
    verdict = verify(&seen);
  }
  if (absl::Status s = CheckKeysAge(); !s.ok()) return s;
  return verdict;
}

absl::Status Oidc::Identify(std::string_view token, absl::Time now, Caller* caller) {
  // Before the keys: a token of another issuer causes no fetch.
  const std::optional<std::string> claimed = ClaimedIssuer(token);
  if (!claimed) return absl::UnauthenticatedError(std::string(MessageOf(JwtRefusal::kMalformed)));
  if (*claimed != issuer_) return absl::UnauthenticatedError(std::string(MessageOf(JwtRefusal::kIssuer)));
  const absl::StatusOr<JwtVerdict> verdict = Verify(token, absl::ToChronoTime(now));
  if (!verdict.ok()) return verdict.status();
  if (verdict->refusal != JwtRefusal::kNone) {
    return absl::UnauthenticatedError(std::string(MessageOf(verdict->refusal)));
  }
  // The verifier keeps the top level of the claims only. It has parsed both before.
  const json claims = *ParseJsonObject(CompactJws::Parse(token)->payload);
  std::string name = NameOf(FindClaim(claims, name_claim_));
  if (name.empty()) {
    return absl::UnauthenticatedError(absl::StrCat(
        "the token's claim ", QuoteForMessage(name_claim_), " is not an operator's name: expected a string of 1 to ",
        kNameBytesMax, " bytes without control characters, and not a name of the control plane's own"));
  }
  caller->name = std::move(name);
  caller->expires_at = absl::FromChrono(verdict->claims.expires);
  return SetRole(claims, caller);
}

absl::Status Oidc::SetRole(const json& claims, Caller* caller) const {
  const json* claim = FindClaim(claims, groups_claim_);
  if (claim == nullptr) {
    return absl::PermissionDeniedError(absl::StrCat("the token of '", caller->name, "' has no claim ",
                                                    QuoteForMessage(groups_claim_), ", so no group gives it a role"));
  }
  // Of several editors the one that may do more, then the first in the file.
  const auto rank = [](const Role& role) { return std::tuple(role.role, role.scope == nullptr, -role.place); };
  const Role* best = nullptr;
  for (const std::string& group : GroupsOf(*claim)) {
    const auto found = roles_.find(group);
    if (found != roles_.end() && (best == nullptr || rank(found->second) > rank(*best))) best = &found->second;
  }
  if (best == nullptr) {
    return absl::PermissionDeniedError(absl::StrCat("'", caller->name,
                                                    "' is in no group with a role: no element of the token's claim ",
                                                    QuoteForMessage(groups_claim_), " is in ", kKey, ".roles"));
  }
  caller->role = best->role;
  caller->scope = best->scope;
  return absl::OkStatus();
}

}  // namespace gateway::controlplane
