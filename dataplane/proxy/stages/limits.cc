#include "dataplane/proxy/stages/limits.h"

#include <vector>

#include "common/base/text.h"
#include "dataplane/http/http1/head.h"
#include "dataplane/limits/limit_key.h"

namespace gateway::dataplane {
namespace {

// What a client is told that is refused because nobody can count.
constexpr std::chrono::seconds kDenyTime{1};

bool IsShadow(const RateLimitPolicy& policy) { return policy.mode == v1::RateLimit::SHADOW; }
bool IsInRedis(const RateLimitPolicy& policy) { return policy.scope == v1::RateLimit::REDIS; }

void AppendLimitKey(const RateLimitPolicy& limit, const LimitKeys& by, std::string* keys) {
  const size_t from = keys->size();
  bool names_header = false;
  for (const LimitKey& part : limit.keys) {
    switch (part.kind) {
      case LimitKey::Kind::kClientIp:
        AppendKeyAddress(by.request.client_address, keys);
        break;
      case LimitKey::Kind::kPath:
        AppendKeyPart(by.request.path, keys);
        break;
      case LimitKey::Kind::kHeader:
        // Each of them, since which one the service goes by is not known. Who sends none is in the bucket of those.
        for (const FieldView& field : by.request.head.fields) {
          if (!http1::EqualsIgnoreCase(field.name, part.name)) continue;
          keys->push_back('\1');
          AppendKeyPart(field.value, keys);
        }
        keys->push_back('\0');
        names_header = true;
        break;
      case LimitKey::Kind::kHost:
        AppendKeyPart(by.request.host, keys);
        break;
      case LimitKey::Kind::kRoute: {
        const RoutePolicy* const route = by.target.match.route;
        AppendKeyPart(route != nullptr ? std::string_view(route->name) : std::string_view(), keys);
        break;
      }
      case LimitKey::Kind::kService: {
        const BoundService* const service = by.target.service;
        AppendKeyPart(service != nullptr ? std::string_view(service->runtime->name) : std::string_view(), keys);
        break;
      }
      case LimitKey::Kind::kConsumer:
        AppendKeyPart(by.caller.name, keys);
        break;
      case LimitKey::Kind::kClaim:
        AppendKeyPart(by.caller.ClaimOf(part.name), keys);
        break;
    }
  }
  // A header may hold a secret, which Redis has no need to know.
  const bool hidden = names_header && IsInRedis(limit);
  BoundKey(keys, from, hidden ? 0 : kLimitKeyBytesMax);
}

}  // namespace

LimitCheck::LimitCheck(const ServingState& state, std::span<const uint32_t> limits, const LimitKeys& keys,
                       std::string* scratch, LimitTally* tally)
    : tally_(*tally) {
  bool in_redis = false;
  for (const uint32_t index : limits) in_redis = in_redis || IsInRedis(*state.limits[index].policy);
  std::string& text = in_redis ? own_keys_ : *scratch;
  text.clear();
  absl::InlinedVector<size_t, kInline> ends;
  for (const uint32_t index : limits) {
    AppendLimitKey(*state.limits[index].policy, keys, &text);
    ends.push_back(text.size());
  }
  size_t begin = 0;
  for (size_t i = 0; i < limits.size(); ++i) {
    const BoundLimit& limit = state.limits[limits[i]];
    const std::string_view key = std::string_view(text).substr(begin, ends[i] - begin);
    begin = ends[i];
    (IsInRedis(*limit.policy) ? there_ : here_).push_back({&limit, key});
  }
}

Refusal LimitCheck::AdmitHere(TimePoint now) { return Count(here_, now) ? Refusal{} : Refuse(now); }

bool LimitCheck::Count(const List& limits, TimePoint now) {
  absl::InlinedVector<RateLimiter::Check, kInline> checks;
  absl::InlinedVector<const RateLimitPolicy*, kInline> policies;  // of `checks`
  for (const Each& each : limits) {
    const RateLimitPolicy& policy = *each.limit->policy;
    if (each.limit->leases == nullptr) {
      checks.push_back({each.limit->limiter.get(), each.key, IsShadow(policy), {}});
      policies.push_back(&policy);
      continue;
    }
    const RateLimitDecision decision = each.limit->leases->Admit(each.key, now);
    each.limit->limiter->Note(decision.allowed, IsShadow(policy));
    Note(policy, decision);
    if (decision.allowed) leased_.push_back(each);
    if (!decision.allowed && !IsShadow(policy)) return false;
  }
  if (checks.empty()) return true;
  const bool allowed = RateLimiter::AdmitTogether({checks.data(), checks.size()}, now);
  for (size_t i = 0; i < checks.size(); ++i) {
    Note(*policies[i], checks[i].decision);
    if (allowed && checks[i].decision.allowed && asks_redis()) counted_.push_back(checks[i]);
  }
  return allowed;
}

void LimitCheck::Note(const RateLimitPolicy& limit, const RateLimitDecision& decision) {
  if (IsShadow(limit)) {
    if (!decision.allowed) tally_.shadow_refusals.push_back(&limit);
    return;
  }
  if (tally_.policy != nullptr && !IsTighter(decision, tally_.decision)) return;
  tally_.policy = &limit;
  tally_.decision = decision;
}

Refusal LimitCheck::Refuse(TimePoint counted_at) {
  for (const RateLimiter::Check& check : counted_) check.limiter->Refund(check.key, counted_at);
  for (const Each& each : leased_) each.limit->leases->Refund(each.key);
  return {.reason = Reason::kRateLimited,
          .policy = {"RateLimit", tally_.policy->name},
          .retry_after = tally_.decision.reset};
}

Task<Refusal> LimitCheck::AdmitInRedis(RedisStore* redis, TimePoint now) {
  std::vector<RedisLimit> asked;
  for (const Each& each : there_) {
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
    for (size_t i = 0; i < there_.size(); ++i) {
      const RateLimitDecision& decision = asked[i].decision;
      Note(*there_[i].limit->policy, decision);
      if (allowed || !decision.allowed) there_[i].limit->limiter->Note(decision.allowed, asked[i].shadow);
    }
  } else {
    List by_share;
    for (const Each& each : there_) {
      const RateLimitPolicy& policy = *each.limit->policy;
      if (policy.on_unavailable == v1::RateLimit::LAST_SHARE) {
        by_share.push_back(each);
        continue;
      }
      const bool denied = policy.on_unavailable == v1::RateLimit::DENY;
      each.limit->limiter->Note(!denied, IsShadow(policy));
      if (!denied) continue;
      Note(policy, {false, policy.requests, 0, kDenyTime});
      allowed = allowed && IsShadow(policy);
    }
    allowed = allowed && Count(by_share, now);
  }
  co_return allowed ? Refusal{} : Refuse(now);
}

}  // namespace gateway::dataplane
