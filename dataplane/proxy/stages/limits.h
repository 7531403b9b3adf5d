// The limits of a request: what each counts it by, and what they decide together.
//
// A stage's limits (those that need no identity, then those that do) are checked together: a request that one of them
// refuses is counted by none. Limits of this data plane are decided under their locks (RateLimiter::AdmitTogether),
// those in Redis by one script. If a stage has both, a request is counted here first and given back if Redis refuses
// it: so it never costs anything there.
#ifndef GATEWAY_DATAPLANE_PROXY_STAGES_LIMITS_H_
#define GATEWAY_DATAPLANE_PROXY_STAGES_LIMITS_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "dataplane/http/message.h"
#include "dataplane/limits/redis_store.h"
#include "dataplane/net/event_loop.h"
#include "dataplane/net/task.h"
#include "dataplane/proxy/refusal.h"
#include "dataplane/proxy/request_context.h"
#include "dataplane/state/serving_state.h"

namespace gateway::dataplane {

// What limits count a request by. References outlive the stage.
struct LimitInput {
  const ServingState& state;
  const http::Request& request;
  const RequestFacts& facts;
  const Target& target;
  const Caller& caller;
  const EventLoop& loop;  // whose clock counts
};

// Counts the request by `limits`, indices into ServingState::limits, and notes their decisions in `tally`. None of them
// may be counted in Redis. `scratch` is overwritten.
std::optional<Refusal> AdmitByLimits(const LimitInput& in, std::span<const uint32_t> limits, std::string* scratch,
                                     LimitTally* tally);

// The same, if one of them is counted in Redis. `redis` may be null: then their on_unavailable decides, as when Redis
// does not respond in time.
Task<std::optional<Refusal>> AdmitWithRedis(const LimitInput& in, std::span<const uint32_t> limits, RedisStore* redis,
                                            LimitTally* tally);

// "RateLimit-Limit: 10\r\n...", of the tightest limit. REQUIRES: there is one.
void AppendLimitFields(const LimitTally& tally, std::string* fields);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_STAGES_LIMITS_H_
