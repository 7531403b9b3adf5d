#include "dataplane/proxy/stages/limits.h"

#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "common/base/text.h"
#include "dataplane/http/http1/head.h"
#include "dataplane/limits/limit_key.h"

namespace gateway::dataplane {
namespace {

constexpr size_t kLimitsInline = 4;  // of a stage, without an allocation
// Retry-After of a request that is refused because Redis, which counts, is not available.
constexpr std::chrono::seconds kDenyTime{1};

using Checks = absl::InlinedVector<RateLimiter::Check, kLimitsInline>;
using Leases = absl::InlinedVector<std::pair<LeaseTable*, std::string_view>, 2>;

bool IsShadow(const RateLimitPolicy& policy) { return policy.mode == v1::RateLimit::SHADOW; }

void AppendLimitKey(const LimitInput& in, const RateLimitPolicy& limit, std::string* keys) {
  const size_t from = keys->size();
  bool names_header = false;
  for (const LimitKey& part : limit.keys) {
    switch (part.kind) {
      case LimitKey::Kind::kClientIp:
        AppendKeyAddress(in.facts.client_address, keys);
        break;
      case LimitKey::Kind::kPath:
        AppendKeyPart(in.facts.path, keys);
        break;
      case LimitKey::Kind::kHeader:
        // All of its fields, since it is unknown which one the service uses. Requests without one share a bucket.
        for (const FieldView& field : in.request.fields) {
          if (!http1::EqualsIgnoreCase(field.name, part.name)) continue;
          keys->push_back('\1');
          AppendKeyPart(field.value, keys);
        }
        keys->push_back('\0');
        names_header = true;
        break;
      case LimitKey::Kind::kHost:
        AppendKeyPart(in.facts.host, keys);
        break;
      case LimitKey::Kind::kRoute: {
        const RoutePolicy* const route = in.target.match.route;
        AppendKeyPart(route != nullptr ? std::string_view(route->name) : std::string_view(), keys);
        break;
      }
      case LimitKey::Kind::kService: {
        const BoundService* const service = in.target.service;
        AppendKeyPart(service != nullptr ? std::string_view(service->runtime->name) : std::string_view(), keys);
        break;
      }
      case LimitKey::Kind::kConsumer:
        AppendKeyPart(in.caller.consumer, keys);
        break;
      case LimitKey::Kind::kClaim:
        AppendKeyPart(in.caller.ClaimOf(part.name), keys);
        break;
    }
  }
  // A header may hold a secret, which Redis does not need to know.
  const bool hidden = names_header && limit.scope == v1::RateLimit::REDIS;
  BoundKey(keys, from, hidden ? 0 : kLimitKeyBytesMax);
}

void NoteLimit(const RateLimitPolicy& limit, const RateLimitDecision& decision, LimitTally* tally) {
  if (IsShadow(limit)) {
    if (!decision.allowed) tally->shadow_refusals.push_back(&limit);
    return;
  }
  if (tally->tightest != nullptr && !IsTighter(decision, tally->decision)) return;
  tally->tightest = &limit;
  tally->decision = decision;
}

Refusal RefusalOf(const LimitTally& tally) {
  return {.reason = Reason::kRateLimited,
          .policy = {"RateLimit", tally.tightest->name},
          .retry_after = tally.decision.reset};
}

// False: refused. What was let through is noted in `leased`, for a refund.
bool AdmitByLease(const LimitInput& in, const BoundLimit& limit, std::string_view key, Leases* leased,
                  LimitTally* tally) {
  const RateLimitDecision decision = limit.leases->Admit(key, in.loop.now(), ClientPrefix::Of(in.facts.client_address));
  const bool shadow = IsShadow(*limit.policy);
  limit.limiter->Note(decision.allowed, shadow);
  NoteLimit(*limit.policy, decision, tally);
  if (decision.allowed) leased->emplace_back(limit.leases.get(), key);
  return decision.allowed || shadow;
}

void RefundLeases(const LimitInput& in, const Leases& leased) {
  for (const auto& [table, key] : leased) table->Refund(key, ClientPrefix::Of(in.facts.client_address));
}

}  // namespace

std::optional<Refusal> AdmitByLimits(const LimitInput& in, std::span<const uint32_t> limits, std::string* scratch,
                                     LimitTally* tally) {
  if (limits.empty()) return std::nullopt;
  std::string& keys = *scratch;
  keys.clear();
  absl::InlinedVector<size_t, kLimitsInline> ends;
  for (const uint32_t index : limits) {
    AppendLimitKey(in, *in.state.limits[index].policy, &keys);
    ends.push_back(keys.size());
  }
  const ClientPrefix client = ClientPrefix::Of(in.facts.client_address);
  Checks checks;
  absl::InlinedVector<const RateLimitPolicy*, kLimitsInline> policies;  // of `checks`
  Leases leased;
  bool allowed = true;
  size_t begin = 0;
  for (size_t i = 0; i < limits.size(); ++i) {
    const BoundLimit& limit = in.state.limits[limits[i]];
    const std::string_view key = std::string_view(keys).substr(begin, ends[i] - begin);
    begin = ends[i];
    if (limit.leases != nullptr) {
      allowed = AdmitByLease(in, limit, key, &leased, tally) && allowed;
      continue;
    }
    checks.push_back({limit.limiter.get(), key, IsShadow(*limit.policy), client, {}});
    policies.push_back(limit.policy);
  }
  if (allowed && !checks.empty()) {
    allowed = RateLimiter::AdmitTogether({checks.data(), checks.size()}, in.loop.now());
    for (size_t i = 0; i < checks.size(); ++i) NoteLimit(*policies[i], checks[i].decision, tally);
  }
  if (allowed) return std::nullopt;
  RefundLeases(in, leased);
  return RefusalOf(*tally);
}

Task<std::optional<Refusal>> AdmitWithRedis(const LimitInput& in, std::span<const uint32_t> limits, RedisStore* redis,
                                            LimitTally* tally) {
  struct Each {
    const BoundLimit* limit;
    std::string key;
  };
  std::vector<Each> here, there;
  for (const uint32_t index : limits) {
    const BoundLimit& limit = in.state.limits[index];
    Each& each = (limit.policy->scope == v1::RateLimit::REDIS ? there : here).emplace_back(Each{&limit, {}});
    AppendLimitKey(in, *limit.policy, &each.key);
  }
  const ClientPrefix client = ClientPrefix::Of(in.facts.client_address);
  const TimePoint counted_at = in.loop.now();
  Checks counted;  // in this data plane, and by this request
  Leases leased;
  // Counts `some` here. False: refused.
  const auto count_here = [&](const std::vector<Each>& some) {
    Checks checks;
    std::vector<const RateLimitPolicy*> policies;  // of `checks`
    for (const Each& each : some) {
      if (each.limit->leases != nullptr) {
        if (!AdmitByLease(in, *each.limit, each.key, &leased, tally)) return false;
        continue;
      }
      checks.push_back({each.limit->limiter.get(), each.key, IsShadow(*each.limit->policy), client, {}});
      policies.push_back(each.limit->policy);
    }
    if (checks.empty()) return true;
    const bool allowed = RateLimiter::AdmitTogether({checks.data(), checks.size()}, in.loop.now());
    for (size_t i = 0; i < checks.size(); ++i) {
      NoteLimit(*policies[i], checks[i].decision, tally);
      if (allowed && checks[i].decision.allowed) counted.push_back(checks[i]);
    }
    return allowed;
  };
  const auto refuse = [&] {
    for (const RateLimiter::Check& check : counted) check.limiter->Refund(check.key, counted_at);
    RefundLeases(in, leased);
    return RefusalOf(*tally);
  };
  if (!count_here(here)) co_return refuse();

  std::vector<RedisLimit> asked;
  for (const Each& each : there) {
    const RateLimitPolicy& policy = *each.limit->policy;
    asked.push_back({AlgorithmOf(policy.algorithm),
                     policy.requests,
                     policy.window,
                     policy.burst,
                     IsShadow(policy),
                     policy.name,
                     each.key,
                     {}});
  }
  bool decided = false;
  if (redis != nullptr) {
    RedisStore::Call call(redis, asked);
    decided = co_await call;
  }
  bool allowed = true;
  if (decided) {
    for (const RedisLimit& each : asked) allowed = allowed && (each.decision.allowed || each.shadow);
    for (size_t i = 0; i < there.size(); ++i) {
      const RateLimitDecision& decision = asked[i].decision;
      NoteLimit(*there[i].limit->policy, decision, tally);
      if (allowed || !decision.allowed) there[i].limit->limiter->Note(decision.allowed, asked[i].shadow);
    }
  } else {
    std::vector<Each> by_share;
    for (Each& each : there) {
      const RateLimitPolicy& policy = *each.limit->policy;
      if (policy.on_unavailable == v1::RateLimit::LAST_SHARE) {
        by_share.push_back(std::move(each));
        continue;
      }
      const bool denied = policy.on_unavailable == v1::RateLimit::DENY;
      each.limit->limiter->Note(!denied, IsShadow(policy));
      if (!denied) continue;
      NoteLimit(policy, {false, policy.requests, 0, kDenyTime}, tally);
      allowed = allowed && IsShadow(policy);
    }
    allowed = allowed && count_here(by_share);
  }
  if (!allowed) co_return refuse();
  co_return std::nullopt;
}

void AppendLimitFields(const LimitTally& tally, std::string* fields) {
  Append(fields, "RateLimit-Limit: ", tally.decision.limit, "\r\nRateLimit-Remaining: ", tally.decision.remaining,
         "\r\nRateLimit-Reset: ", CeilSeconds(tally.decision.reset), "\r\n");
}

}  // namespace gateway::dataplane
