// Limits of a snapshot, bound to the counters that outlive it.
#ifndef GATEWAY_DATAPLANE_STATE_LIMIT_BINDING_H_
#define GATEWAY_DATAPLANE_STATE_LIMIT_BINDING_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/time.h"
#include "common/policy/policy.h"
#include "dataplane/limits/lease_bucket.h"
#include "dataplane/limits/rate_limiter.h"
#include "dataplane/state/kept.h"
#include "dataplane/state/serving_state.h"

namespace gateway::dataplane {

// Keeps one limiter for each RateLimit, and one lease table for each of scope fleet. The configuration thread's.
class LimitBinder {
 public:
  LimitBinder(std::function<TimePoint()> clock, std::shared_ptr<LeaseLink> link);

  // A limiter whose settings changed keeps its keys.
  BoundLimit Bind(const RateLimitPolicy& policy, uint64_t generation);
  void DropOlder(uint64_t generation);

  struct Limiter {
    std::string name;
    std::shared_ptr<RateLimiter> limiter;
    bool redis;  // scope
  };
  // By name.
  std::vector<Limiter> limiters() const;
  std::vector<std::pair<std::string, std::shared_ptr<LeaseTable>>> leases() const;

 private:
  struct KeptLimiter {
    RateLimitPolicy policy;
    std::shared_ptr<RateLimiter> limiter;
  };
  struct KeptLeases {
    RateLimitPolicy policy;
    std::shared_ptr<LeaseTable> table;
  };
  std::shared_ptr<RateLimiter> GetOrCreateLimiter(const RateLimitPolicy& policy, uint64_t generation);
  // Null: not of scope fleet, or disabled.
  std::shared_ptr<LeaseTable> GetOrCreateLeases(const RateLimitPolicy& policy, uint64_t generation);

  const std::function<TimePoint()> clock_;
  const std::chrono::nanoseconds wall_offset_;  // of the wall clock against `clock`, when this was made
  const std::shared_ptr<LeaseLink> link_;
  KeptMap<KeptLimiter> limiters_;
  KeptMap<KeptLeases> leases_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_STATE_LIMIT_BINDING_H_
