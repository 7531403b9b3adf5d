// How many requests a service gets: its bulkhead and its circuit breaker.
#ifndef GATEWAY_DATAPLANE_PROXY_STAGES_ADMISSION_H_
#define GATEWAY_DATAPLANE_PROXY_STAGES_ADMISSION_H_

#include <optional>

#include "dataplane/http/stream.h"
#include "dataplane/net/cancellable_timer.h"
#include "dataplane/net/event_loop.h"
#include "dataplane/net/task.h"
#include "dataplane/policy/bulkhead.h"
#include "dataplane/policy/circuit_breaker.h"
#include "dataplane/proxy/refusal.h"
#include "dataplane/state/serving_state.h"

namespace gateway::dataplane {

// A request's place in the bulkhead and its permit of the breaker. Both are given back when it is destroyed.
struct Admission {
  Bulkhead::Place place;
  CircuitBreaker::Permit permit;
};

// Waits until `deadline`, or until `timer` is cancelled: also by the client, if it resets its connection.
Task<void> AwaitTimer(http::DownstreamStream* stream, CancellableTimer* timer, TimePoint deadline);

// Why a wait that was cancelled is over: the worker or the client no longer waits for the service.
inline Reason ReasonOfAbandoned(bool cut_short, bool client_gone) {
  return cut_short && !client_gone ? Reason::kDraining : Reason::kClientClosed;
}

// Takes a place, and waits for one at most until `until`. kClientClosed: there is no client to respond to.
// REQUIRES: the service has a bulkhead. `cut_short`: ExchangeResources::cut_short.
Task<std::optional<Refusal>> EnterBulkhead(const BoundService& service, http::DownstreamStream* stream, EventLoop* loop,
                                           TimePoint until, const bool* cut_short, Bulkhead::Place* place);

// REQUIRES: the service has a breaker.
std::optional<Refusal> AcquirePermit(const BoundService& service, TimePoint now, CircuitBreaker::Permit* permit);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_STAGES_ADMISSION_H_
