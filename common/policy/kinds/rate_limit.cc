#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "common/base/quote.h"
#include "common/base/text.h"
#include "common/base/units.h"
#include "common/policy/kinds/auth.h"
#include "common/policy/kinds/kinds.h"
#include "common/policy/policy_texts.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {
namespace {

// Headers in which proxies pass the client's address; `name` is in lower case.
bool NamesClientAddress(std::string_view name) {
  static constexpr std::array<std::string_view, 9> kNames = {
      "x-forwarded-for", "forwarded",        "x-real-ip",           "x-client-ip",     "true-client-ip",
      "client-ip",       "cf-connecting-ip", "x-cluster-client-ip", "fastly-client-ip"};
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

// InvalidArgument says which keys there are.
absl::StatusOr<LimitKey> ParseLimitKey(std::string_view text) {
  using Kind = LimitKey::Kind;
  static constexpr std::array<std::pair<std::string_view, Kind>, 6> kWords = {{{"client_ip", Kind::kClientIp},
                                                                               {"path", Kind::kPath},
                                                                               {"host", Kind::kHost},
                                                                               {"route", Kind::kRoute},
                                                                               {"service", Kind::kService},
                                                                               {"consumer", Kind::kConsumer}}};
  for (const auto& [word, kind] : kWords) {
    if (text == word) return LimitKey{.kind = kind, .name = {}};
  }
  if (text.starts_with("header:")) {
    const std::string name = absl::AsciiStrToLower(std::string(text.substr(7)));
    if (!IsToken(name)) {
      return absl::InvalidArgumentError(
          fmt::format("{} names no header; expected header:X-Tenant", QuoteForMessage(text)));
    }
    return LimitKey{.kind = Kind::kHeader, .name = name};
  }
  if (text.starts_with("claim:")) {
    if (text.size() == 6 || text.size() > 128) {
      return absl::InvalidArgumentError(fmt::format("{} names no claim; expected claim:sub", QuoteForMessage(text)));
    }
    return LimitKey{.kind = Kind::kClaim, .name = std::string(text.substr(6))};
  }
  const std::string near = NearestName(text, {"client_ip", "path", "host", "route", "service", "consumer"});
  return absl::InvalidArgumentError(
      fmt::format("{} is not a key; {}", QuoteForMessage(text),
                  near.empty() ? "expected client_ip, path, header:NAME, host, route, service, consumer or claim:NAME"
                               : fmt::format("did you mean {}?", QuoteForMessage(near))));
}

void CheckRateLimit(const Report& report, const v1::RateLimit& limit) {
  for (int i = 0; i < limit.key_size(); ++i) {
    const absl::StatusOr<LimitKey> key = ParseLimitKey(limit.key(i));
    if (key.ok() && key->kind == LimitKey::Kind::kHeader) CheckRead(report, At("key", i), key->name);
    if (!key.ok()) {
      report.AddIfBad(At("key", i), key.status());
    } else if (std::find(limit.key().begin(), limit.key().begin() + i, limit.key(i)) != limit.key().begin() + i) {
      report.Add(At("key", i), fmt::format("{} comes twice", QuoteForMessage(limit.key(i))));
    }
  }
  CheckEnum(report, "algorithm", limit.algorithm(), v1::RateLimit::Algorithm_IsValid);
  CheckEnum(report, "scope", limit.scope(), v1::RateLimit::Scope_IsValid);
  CheckEnum(report, "mode", limit.mode(), v1::RateLimit::Mode_IsValid);
  CheckEnum(report, "on_unavailable", limit.on_unavailable(), v1::RateLimit::OnUnavailable_IsValid);
  if (limit.limit().has_burst() && limit.algorithm() != v1::RateLimit::TOKEN_BUCKET) {
    report.Add("limit.burst", "means something with algorithm: token_bucket only");
  }
}

void CompileRateLimits(Compilation* compilation) {
  const Documents<v1::RateLimit> limits = compilation->All<v1::RateLimit>();
  for (size_t i = 0; i < limits.size(); ++i) {
    const v1::RateLimit& limit = limits[i];
    if (limit.mode() == v1::RateLimit::DISABLED) continue;
    if (limit.name() == kDefaultName)
      compilation->builtin_rate_limit = static_cast<int>(compilation->rate_limits.size());
    RateLimitPolicy& policy = compilation->rate_limits.emplace_back();
    policy.name = limit.name();
    for (const std::string& key : limit.key()) policy.keys.push_back(ParseLimitKey(key).value());
    policy.needs_identity =
        std::any_of(policy.keys.begin(), policy.keys.end(), [](const LimitKey& key) { return key.NeedsIdentity(); });
    policy.requests = limit.limit().requests();
    policy.window = ToMillis(limit.limit().window());
    policy.burst = limit.limit().has_burst() ? limit.limit().burst() : policy.requests;
    if (limit.algorithm() != v1::RateLimit::ALGORITHM_UNSPECIFIED) policy.algorithm = limit.algorithm();
    if (limit.scope() != v1::RateLimit::SCOPE_UNSPECIFIED) policy.scope = limit.scope();
    if (limit.on_unavailable() != v1::RateLimit::ON_UNAVAILABLE_UNSPECIFIED) {
      policy.on_unavailable = limit.on_unavailable();
      if (policy.scope == v1::RateLimit::DATA_PLANE) {
        compilation->warnings.push_back(
            fmt::format("RateLimit/{}: on_unavailable has no effect with scope: data_plane", limit.name()));
      }
    }
    for (const LimitKey& key : policy.keys) {
      if (key.kind != LimitKey::Kind::kHeader) continue;
      if (HoldsCredentials(compilation->All<v1::Auth>(), key.name)) {
        compilation->warnings.push_back(fmt::format(
            "RateLimit/{}: any client can invent values of {}, and so be in another bucket with each request; "
            "consumer counts by whom an Auth has found",
            limit.name(), key.name));
      }
      if (!NamesClientAddress(key.name)) continue;
      compilation->warnings.push_back(
          fmt::format("RateLimit/{}: any client can write {} as it likes, and so be in another bucket with each "
                      "request; client_ip "
                      "takes the address from it for server.trusted_proxies",
                      limit.name(), key.name));
    }
    policy.mode = limit.mode() == v1::RateLimit::SHADOW ? v1::RateLimit::SHADOW : v1::RateLimit::ENFORCE;
  }
}

}  // namespace

Kind RateLimitKind() {
  return {
      .number = v1::Resource::kRateLimit,
      .short_names = {"rl", "limit"},
      .labels = [](const v1::Resource& resource) -> const Labels& { return resource.rate_limit().labels(); },
      .check = [](const Report& report,
                  const v1::Resource& resource) { CheckRateLimit(report, resource.rate_limit()); },
      .compile = &CompileRateLimits,
  };
}

}  // namespace gateway
