#include "dataplane/state/limit_binding.h"

#include <algorithm>

namespace gateway::dataplane {

LimitBinder::LimitBinder(std::function<TimePoint()> clock, std::shared_ptr<LeaseLink> link)
    : clock_(std::move(clock)),
      wall_offset_(std::chrono::system_clock::now().time_since_epoch() - clock_().time_since_epoch()),
      link_(std::move(link)) {}

BoundLimit LimitBinder::Bind(const RateLimitPolicy& policy, uint64_t generation) {
  return {&policy, GetOrCreateLimiter(policy, generation), GetOrCreateLeases(policy, generation)};
}

std::shared_ptr<RateLimiter> LimitBinder::GetOrCreateLimiter(const RateLimitPolicy& policy, uint64_t generation) {
  Kept<KeptLimiter>& kept = limiters_[policy.name];
  kept.generation = generation;
  RateLimiter::Options options;
  options.requests = policy.requests;
  options.window = policy.window;
  options.burst = policy.burst;
  options.wall_offset = wall_offset_;
  options.algorithm = AlgorithmOf(policy.algorithm);
  if (kept.value.limiter == nullptr) {
    kept.value.limiter = std::make_shared<RateLimiter>(options);
  } else if (kept.value.policy.requests != policy.requests || kept.value.policy.window != policy.window ||
             kept.value.policy.burst != policy.burst || kept.value.policy.algorithm != policy.algorithm) {
    kept.value.limiter->Reconfigure(options, clock_());
  }
  kept.value.policy = policy;
  return kept.value.limiter;
}

std::shared_ptr<LeaseTable> LimitBinder::GetOrCreateLeases(const RateLimitPolicy& policy, uint64_t generation) {
  if (policy.scope != v1::RateLimit::FLEET || policy.mode == v1::RateLimit::DISABLED) return nullptr;
  Kept<KeptLeases>& kept = leases_[policy.name];
  kept.generation = generation;
  LeaseTable::Options options;
  options.limit.requests = policy.requests;
  options.limit.window = policy.window;
  options.limit.burst = policy.burst;
  if (policy.algorithm == v1::RateLimit::TOKEN_BUCKET) options.limit.algorithm = FleetAlgorithm::kTokenBucket;
  if (policy.algorithm == v1::RateLimit::FIXED_WINDOW) options.limit.algorithm = FleetAlgorithm::kFixedWindow;
  switch (policy.on_unavailable) {
    case v1::RateLimit::ALLOW:
      options.on_unavailable = LeaseTable::OnUnavailable::kAllow;
      break;
    case v1::RateLimit::DENY:
      options.on_unavailable = LeaseTable::OnUnavailable::kDeny;
      break;
    default:
      options.on_unavailable = LeaseTable::OnUnavailable::kLastShare;
  }
  if (kept.value.table == nullptr) {
    kept.value.table = std::make_shared<LeaseTable>(options, link_, clock_());
  } else if (!(kept.value.policy == policy)) {
    kept.value.table->Reconfigure(options, clock_());
  }
  kept.value.policy = policy;
  return kept.value.table;
}

void LimitBinder::DropOlder(uint64_t generation) {
  dataplane::DropOlder(limiters_, generation);
  dataplane::DropOlder(leases_, generation);
}

std::vector<LimitBinder::Limiter> LimitBinder::limiters() const {
  std::vector<Limiter> all;
  for (const auto& [name, kept] : limiters_) {
    all.push_back({name, kept.value.limiter, kept.value.policy.scope == v1::RateLimit::REDIS});
  }
  std::ranges::sort(all, {}, &Limiter::name);
  return all;
}

std::vector<std::pair<std::string, std::shared_ptr<LeaseTable>>> LimitBinder::leases() const {
  std::vector<std::pair<std::string, std::shared_ptr<LeaseTable>>> all;
  for (const auto& [name, kept] : leases_) all.emplace_back(name, kept.value.table);
  std::ranges::sort(all, {}, [](const auto& row) -> const std::string& { return row.first; });
  return all;
}

}  // namespace gateway::dataplane
