// The limits of a request: what each counts it by, and what they decide together.
//
// A stage's limits (those that need no identity, then those that do) are checked together: a request that one of them
// refuses is counted by none. Limits of this data plane are decided under their locks (RateLimiter::AdmitTogether),
// those in Redis by one script. Where a stage has both, a request is counted here first and given back if Redis refuses
// it: so it never costs anything there.
#include <string>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "common/base/text.h"
#include "dataplane/http/http1/head.h"
#include "dataplane/limits/limit_key.h"
#include "dataplane/proxy/exchange.h"

namespace gateway::dataplane {
namespace {

constexpr size_t kLimitsInline = 4;  // of a stage, without an allocation
// What a client is told that is refused because nobody can count.
constexpr std::chrono::seconds kDenyTime{1};

using Checks = absl::InlinedVector<RateLimiter::Check, kLimitsInline>;

bool IsShadow(const RateLimitPolicy& policy) { return policy.mode == v1::RateLimit::SHADOW; }

}  // namespace

void Exchange::AppendLimitKey(const RateLimitPolicy& limit, std::string* keys) const {
  const size_t from = keys->size();
  bool names_header = false;
  for (const LimitKey& part : limit.keys) {
    switch (part.kind) {
      case LimitKey::Kind::kClientIp:
        AppendKeyAddress(request_.client_address, keys);
        break;
      case LimitKey::Kind::kPath:
        AppendKeyPart(request_.path, keys);
        break;
      case LimitKey::Kind::kHeader:
        // Each of them, since which one the service goes by is not known. Who sends none is in the bucket of those.
        for (const FieldView& field : request_.head.fields) {
          if (!http1::EqualsIgnoreCase(field.name, part.name)) continue;
          keys->push_back('\1');
          AppendKeyPart(field.value, keys);
        }
        keys->push_back('\0');
        names_header = true;
        break;
      case LimitKey::Kind::kHost:
        AppendKeyPart(request_.host, keys);
        break;
      case LimitKey::Kind::kRoute:
        AppendKeyPart(target_.match.route != nullptr ? std::string_view(target_.match.route->name) : std::string_view(), keys);
        break;
      case LimitKey::Kind::kService:
        AppendKeyPart(target_.service != nullptr ? std::string_view(target_.service->runtime->name) : std::string_view(), keys);
        break;
      case LimitKey::Kind::kConsumer:
        AppendKeyPart(caller_.name, keys);
        break;
      case LimitKey::Kind::kClaim:
        AppendKeyPart(ClaimOf(part.name), keys);
        break;
    }
  }
  // A header may hold a secret, which Redis has no need to know.
  const bool hidden = names_header && limit.scope == v1::RateLimit::REDIS;
  BoundKey(keys, from, hidden ? 0 : kLimitKeyBytesMax);
}

void Exchange::NoteLimit(const RateLimitPolicy& limit, const RateLimitDecision& decision) {
  if (IsShadow(limit)) {
    if (!decision.allowed) limits_.shadow_refusals.push_back(&limit);
    return;
  }
  if (limits_.policy != nullptr && !IsTighter(decision, limits_.decision)) return;
  limits_.policy = &limit;
  limits_.decision = decision;
}

Reason Exchange::AdmitByLimits(std::span<const uint32_t> limits) {
  if (limits.empty()) return Reason::kNone;
  const ServingState& state = **state_;
  std::string& keys = worker_->scratch();
  keys.clear();
  absl::InlinedVector<size_t, kLimitsInline> ends;
  for (const uint32_t index : limits) {
    AppendLimitKey(*state.limits[index].policy, &keys);
    ends.push_back(keys.size());
  }
  Checks checks;
  absl::InlinedVector<const RateLimitPolicy*, kLimitsInline> policies;  // of `checks`
  Leases leased;
  bool allowed = true;
  size_t begin = 0;
  for (size_t i = 0; i < limits.size(); ++i) {
    const BoundLimit& limit = state.limits[limits[i]];
    const std::string_view key = std::string_view(keys).substr(begin, ends[i] - begin);
    begin = ends[i];
    if (limit.leases != nullptr) {
      allowed = AdmitByLease(limit, key, &leased) && allowed;
      continue;
    }
    checks.push_back({limit.limiter.get(), key, IsShadow(*limit.policy), {}});
    policies.push_back(limit.policy);
  }
  if (allowed && !checks.empty()) {
    allowed = RateLimiter::AdmitTogether({checks.data(), checks.size()}, loop().now());
    for (size_t i = 0; i < checks.size(); ++i) NoteLimit(*policies[i], checks[i].decision);
  }
  if (allowed) return Reason::kNone;
  for (const auto& [table, key] : leased) table->Refund(key);
  outcome_.policy = Concat("RateLimit/", limits_.policy->name);
  return Reason::kRateLimited;
}

// False: refused. What was let through is noted in `leased`, for a refund.
bool Exchange::AdmitByLease(const BoundLimit& limit, std::string_view key, Leases* leased) {
  const RateLimitDecision decision = limit.leases->Admit(key, loop().now());
  const bool shadow = IsShadow(*limit.policy);
  limit.limiter->Note(decision.allowed, shadow);
  NoteLimit(*limit.policy, decision);
  if (decision.allowed) leased->emplace_back(limit.leases.get(), key);
  return decision.allowed || shadow;
}

Task<Reason> Exchange::AdmitWithRedis(std::span<const uint32_t> limits) {
  const ServingState& state = **state_;
  struct Each {
    const BoundLimit* limit;
    std::string key;
  };
  std::vector<Each> here, there;
  for (const uint32_t index : limits) {
    const BoundLimit& limit = state.limits[index];
    Each& each = (limit.policy->scope == v1::RateLimit::REDIS ? there : here).emplace_back(Each{&limit, {}});
    AppendLimitKey(*limit.policy, &each.key);
  }
  const TimePoint counted_at = loop().now();
  Checks counted;  // in this data plane, and by this request
  Leases leased;
  // Counts `some` here. False: refused.
  const auto count_here = [&](const std::vector<Each>& some) {
    Checks checks;
    std::vector<const RateLimitPolicy*> policies;  // of `checks`
    for (const Each& each : some) {
      if (each.limit->leases != nullptr) {
        if (!AdmitByLease(*each.limit, each.key, &leased)) return false;
        continue;
      }
      checks.push_back({each.limit->limiter.get(), each.key, IsShadow(*each.limit->policy), {}});
      policies.push_back(each.limit->policy);
    }
    if (checks.empty()) return true;
    const bool allowed = RateLimiter::AdmitTogether({checks.data(), checks.size()}, loop().now());
    for (size_t i = 0; i < checks.size(); ++i) {
      NoteLimit(*policies[i], checks[i].decision);
      if (allowed && checks[i].decision.allowed) counted.push_back(checks[i]);
    }
    return allowed;
  };
  const auto refuse = [&] {
    for (const RateLimiter::Check& check : counted) check.limiter->Refund(check.key, counted_at);
    for (const auto& [table, key] : leased) table->Refund(key);
    outcome_.policy = Concat("RateLimit/", limits_.policy->name);
    return Reason::kRateLimited;
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
  if (worker_->redis() != nullptr) {
    RedisStore::Call call(worker_->redis(), asked);
    decided = co_await call;
  }
  bool allowed = true;
  if (decided) {
    for (const RedisLimit& each : asked) allowed = allowed && (each.decision.allowed || each.shadow);
    for (size_t i = 0; i < there.size(); ++i) {
      const RateLimitDecision& decision = asked[i].decision;
      NoteLimit(*there[i].limit->policy, decision);
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
      NoteLimit(policy, {false, policy.requests, 0, kDenyTime});
      allowed = allowed && IsShadow(policy);
    }
    allowed = allowed && count_here(by_share);
  }
  if (!allowed) co_return refuse();
  co_return Reason::kNone;
}

void Exchange::AppendLimitFields(std::string* fields) const {
  Append(fields, "RateLimit-Limit: ", limits_.decision.limit, "\r\nRateLimit-Remaining: ", limits_.decision.remaining,
         "\r\nRateLimit-Reset: ", CeilSeconds(limits_.decision.reset), "\r\n");
}

}  // namespace gateway::dataplane
