// Whether an attempt is made again, as the service's Retry says.
#ifndef GATEWAY_DATAPLANE_PROXY_RETRY_H_
#define GATEWAY_DATAPLANE_PROXY_RETRY_H_

#include <chrono>
#include <cstdint>

#include "absl/random/random.h"
#include "common/policy/policy.h"
#include "dataplane/policy/circuit_breaker.h"
#include "dataplane/policy/retry_budget.h"
#include "dataplane/proxy/grpc_call.h"
#include "dataplane/proxy/request_context.h"
#include "dataplane/state/serving_state.h"

namespace gateway::dataplane {

// How an attempt ended, for a retry.
struct FailedAttempt {
  Reason reason = Reason::kNone;  // kNone: the endpoint responded, with `status`
  int status = 0;
  bool connected = true;                // false: no connection was established
  std::chrono::nanoseconds latency{0};  // to the response's header
};

// One request's. Never reads a clock.
class Retries {
 public:
  // `policy`: null for a request that is not retried; outlives this.
  explicit Retries(const RetryPolicy* policy) : policy_(policy) {}

  const RetryPolicy* policy() const { return policy_; }
  uint32_t made() const { return made_; }
  bool left() const { return policy_ != nullptr && made_ < policy_->attempts; }
  // Before the retry that was granted last.
  std::chrono::milliseconds delay() const { return delay_; }

  // Whether a condition names the attempt's end by its status, or, without a response, by that of the gateway's own.
  // REQUIRES: a policy.
  bool IsStatusWanted(const FailedAttempt& attempt, const GrpcCall& call) const;

  struct Input {
    const GrpcCall& call;
    const RequestBody& body;
    const BoundService& service;
    TimePoint now;
    TimePoint until;  // the next attempt begins before that
    bool client_gone;
    absl::InsecureBitGen* random;
    WorkerShard* metrics;
    CircuitBreaker::Permit* permit;
  };
  // Grants a retry if a condition names how the attempt ended, the body can be sent again, there is time, and breaker
  // and budget allow it. Then the budget is charged, and `permit` is the next attempt's.
  bool Grant(const FailedAttempt& attempt, const Input& in);

 private:
  bool IsWanted(const FailedAttempt& attempt, const GrpcCall& call) const;

  const RetryPolicy* const policy_;
  uint32_t made_ = 0;
  std::chrono::milliseconds delay_{0};
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_RETRY_H_
