// What an exchange knows of its request, by topic. Stages (stages/) are functions that read some of these and fill others;
// the exchange owns them.
#ifndef GATEWAY_DATAPLANE_PROXY_REQUEST_CONTEXT_H_
#define GATEWAY_DATAPLANE_PROXY_REQUEST_CONTEXT_H_

#include <netinet/in.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/container/inlined_vector.h"
#include "common/policy/route/path.h"
#include "common/policy/snapshot.h"
#include "dataplane/http/stream.h"
#include "dataplane/net/buffer_pool.h"
#include "dataplane/policy/circuit_breaker.h"
#include "dataplane/policy/cors.h"
#include "dataplane/proxy/failure.h"
#include "dataplane/proxy/relay.h"
#include "dataplane/state/serving_state.h"
#include "dataplane/telemetry/metrics.h"

namespace gateway::dataplane {

// Whose decision a rejection was: "RateLimit/by-client". Views into policy.
struct PolicyName {
  std::string_view kind;  // empty: no policy's
  std::string_view name;
};

// Why a stage does not let a request through.
struct Refusal {
  Reason reason = Reason::kNone;
  const char* detail = "";  // a constant
  PolicyName policy{};
  std::chrono::milliseconds retry_after{0};  // 0: unknown
  explicit operator bool() const { return reason != Reason::kNone; }
};

// The request, and who sends it.
struct RequestContext {
  RequestContext(http::Request& request, TimePoint began) : head(request), started(began) {}

  http::Request& head;
  const TimePoint started;
  char id_storage[33];
  std::string_view id;
  std::string client_ip_storage;  // where it is not the peer's
  std::string_view client_ip;
  in6_addr client_address{};
  char host_storage[kNormalHostBytesMax];
  std::string_view host;               // lower case, no port
  std::string normal_storage;          // where the path was not in normal form
  std::string_view path;               // normalised
  std::string rewritten;               // where the route rewrites by regex
  std::optional<Preflight> preflight;  // and its route has a Cors
  std::string kept_storage;            // what is left of a head whose memory was given back
  bool upgrading = false;              // it asks for WebSocket, and its route allows that
  TimePoint complete_at;               // all of it had come from the client
  TimePoint ends_at = TimePoint::max();  // by the route's max_duration
};

// Where it goes.
struct Target {
  RouteMatch match;
  const BoundRoute* route = nullptr;
  const BoundService* service = nullptr;
  std::shared_ptr<const BoundService> dynamic;
  uint32_t series = MetricsRegistry::kNoRouteSeries;
  uint32_t service_metrics = MetricsRegistry::kUnknownService;
};

// Who was authenticated.
struct Caller {
  std::string_view name;                       // empty: nobody
  const ConsumerPolicy* consumer = nullptr;    // in the snapshot; null: nobody that it has
  std::shared_ptr<const VerifiedToken> token;  // null: none
  JwtRefusal token_refusal = JwtRefusal::kNone;

  // Of a verified token; empty: none.
  std::string_view ClaimOf(std::string_view claim) const {
    return token == nullptr ? std::string_view() : token->claims.Find(claim);
  }
};

// Of the limits that are enforced, the tightest so far (null: there was none), and what it said.
struct LimitTally {
  const RateLimitPolicy* policy = nullptr;
  RateLimitDecision decision;
  absl::InlinedVector<const RateLimitPolicy*, 2> shadow_refusals;  // of limits that only would have
};

// Places that it holds while it waits for its service.
struct Admission {
  CircuitBreaker::Permit permit;
  Bulkhead::Place place;
};

// Its body.
struct RequestBody {
  std::string_view buffered;  // what of it is here
  Buffer storage;             // where that is, if the stream does not have it
  std::string mirror_copy;
  uint64_t bytes = 0;             // of it, without framing, so far
  bool complete = false;          // all of it was read
  bool replayable = false;        // all of it is in `buffered`, and can be sent again
  bool mirrors = false;           // copies are still to be sent, of mirror_copy
  bool stop_upload = false;
  bool continue_awaited = false;  // the client waits for a 100 before it sends it
  bool upload_begun = false;      // something of it was read as it came, and is gone
  RelayEnd upload = RelayEnd::kComplete;
  const char* detail = "";        // what is wrong with it
};

// Attempts at endpoints. What is below `started` is of the attempt that is made now.
struct AttemptState {
  const RetryPolicy* retry = nullptr;  // null: an attempt that fails is not made again
  uint32_t retries = 0;                // made by it
  uint32_t count = 0;                  // of attempts, also of those that could not connect
  std::chrono::milliseconds retry_delay{0};
  absl::InlinedVector<uint32_t, 8> tried;  // as endpoint_index, of those that are not to be picked again
  std::shared_ptr<Endpoint> endpoint;
  uint32_t endpoint_index = 0;     // of `endpoint`, in the service's
  bool endpoint_reported = true;
  bool sets_session = false;       // the response brings a cookie
  InFlight in_flight;              // where the balancer counts
  TimePoint started;
  TimePoint head_sent;             // and what there was of the body
  TimePoint request_sent;          // all of it
  TimePoint heard;                 // of the endpoint, before the response's head was whole
  TimePoint head_read;             // the response's head
  bool has_response = false;       // its head was read
  std::chrono::nanoseconds head_latency{0};  // what the endpoint took for it
  std::chrono::nanoseconds upstream_duration{-1};
};

// How it ended, for log and metrics.
struct ExchangeOutcome {
  int status = 0;
  Reason reason = Reason::kNone;
  const char* detail = "";
  PolicyName policy{};                       // whose decision a rejection was
  std::chrono::milliseconds retry_after{0};  // of a rejection
  bool response_started = false;
  bool aborted = false;
  http::End end = http::End::kComplete;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_REQUEST_CONTEXT_H_
