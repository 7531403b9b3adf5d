// The limits of a request: what each counts it by, and what they decide together.
#ifndef GATEWAY_DATAPLANE_PROXY_STAGES_LIMITS_H_
#define GATEWAY_DATAPLANE_PROXY_STAGES_LIMITS_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "dataplane/limits/rate_limiter.h"
#include "dataplane/limits/redis_store.h"
#include "dataplane/net/task.h"
#include "dataplane/proxy/request_context.h"
#include "dataplane/state/serving_state.h"

namespace gateway::dataplane {

// What limits count by.
struct LimitKeys {
  const RequestContext& request;
  const Target& target;
  const Caller& caller;
};

// One stage's limits (those that need no identity, or those that do), checked together: a request that one of them
// refuses is counted by none. Those of this data plane are decided under their locks, those in Redis by one script. Where
// a stage has both, a request is counted here first and given back if Redis refuses it: so it never costs anything there.
//
// Lives in one request's coroutine.
class LimitCheck {
 public:
  // `tally` and the state outlive it. `scratch`: for keys, while nothing is awaited.
  LimitCheck(const ServingState& state, std::span<const uint32_t> limits, const LimitKeys& keys, std::string* scratch,
             LimitTally* tally);

  // Asks the limits that are counted here. Then AdmitInRedis, where asks_redis().
  Refusal AdmitHere(TimePoint now);
  bool asks_redis() const { return !there_.empty(); }
  // `redis` may be null: their on_unavailable holds. `now` is that of AdmitHere.
  Task<Refusal> AdmitInRedis(RedisStore* redis, TimePoint now);

 private:
  static constexpr size_t kInline = 4;  // limits, without an allocation
  struct Each {
    const BoundLimit* limit;
    std::string_view key;
  };
  using List = absl::InlinedVector<Each, kInline>;

  bool Count(const List& limits, TimePoint now);  // false: refused
  void Note(const RateLimitPolicy& limit, const RateLimitDecision& decision);
  Refusal Refuse(TimePoint counted_at);

  std::string own_keys_;  // where something is awaited
  List here_;
  List there_;
  // Counted by this request, for a refund.
  absl::InlinedVector<RateLimiter::Check, kInline> counted_;
  absl::InlinedVector<Each, 2> leased_;
  LimitTally& tally_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_STAGES_LIMITS_H_
