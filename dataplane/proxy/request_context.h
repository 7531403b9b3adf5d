// What an exchange knows of its request, in the groups in which stages need it. All of it belongs to one exchange;
// views point into the stream's header, the snapshot, or the storage beside them.
#ifndef GATEWAY_DATAPLANE_PROXY_REQUEST_CONTEXT_H_
#define GATEWAY_DATAPLANE_PROXY_REQUEST_CONTEXT_H_

#include <netinet/in.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/container/inlined_vector.h"
#include "common/policy/route/path.h"
#include "common/policy/snapshot.h"
#include "dataplane/auth/auth.h"
#include "dataplane/http/stream.h"
#include "dataplane/limits/rate_limiter.h"
#include "dataplane/net/buffer_pool.h"
#include "dataplane/policy/cors.h"
#include "dataplane/policy/transform.h"
#include "dataplane/proxy/exchange_resources.h"
#include "dataplane/proxy/grpc_call.h"
#include "dataplane/proxy/refusal.h"
#include "dataplane/proxy/relay.h"
#include "dataplane/state/state_ref.h"

namespace gateway::dataplane {

// Who sent it and what for, before policy is asked.
struct RequestFacts {
  TimePoint started{};
  std::string_view request_id;
  std::string_view client_ip;
  in6_addr client_address{};
  std::string_view host;   // lower case, no port
  std::string_view path;   // normalized
  bool upgrading = false;  // it asks for WebSocket, and its route allows that

  char request_id_storage[RequestIds::kBytes];
  char host_storage[kNormalHostBytesMax];
  std::string client_ip_storage;  // if it is not the peer's
  std::string path_storage;       // if the path was not in normal form
  std::string header_storage;     // what is left of a header whose buffer was given back
};

// Where it goes.
struct Target {
  RouteMatch match;
  const BoundRoute* route = nullptr;
  const BoundService* service = nullptr;
  std::shared_ptr<const BoundService> dynamic;  // keeps `service`, if a name in the path chose it
  uint32_t series = MetricsRegistry::kNoRouteSeries;
  uint32_t service_metrics = MetricsRegistry::kUnknownService;
  uint32_t watched_side = WorkerShard::kNotWatched;  // of a split whose sides the control plane has counted
  std::string rewritten;                             // the path, if the route rewrites it by regex
  std::optional<Preflight> preflight;                // it is one, and its route has a Cors

  const RoutePolicy& policy() const { return *match.route; }  // REQUIRES: a route matched
};

// Who sends it, as authentication found.
struct Caller {
  std::string_view consumer;                   // empty: not authenticated
  const ConsumerPolicy* policy = nullptr;      // null: no Consumer of the snapshot
  std::shared_ptr<const VerifiedToken> token;  // null: no token
  JwtRefusal token_refusal = JwtRefusal::kNone;

  // Of a verified token; empty if it has none.
  std::string_view ClaimOf(std::string_view name) const {
    return token == nullptr ? std::string_view() : token->claims.Find(name);
  }
};

// What its rate limits decided.
struct LimitTally {
  // Of the limits that are enforced, the tightest so far (null: no limit yet), and its decision.
  const RateLimitPolicy* tightest = nullptr;
  RateLimitDecision decision;
  absl::InlinedVector<const RateLimitPolicy*, 2> shadow_refusals;  // of limits that only would have
};

// Its body, as far as it has come.
struct RequestBody {
  std::string_view buffered;            // of it, in memory
  std::span<const FieldView> trailers;  // behind it, if it came whole with the header
  Buffer storage;                       // of `buffered`, if the stream does not hold it
  uint64_t bytes = 0;                   // so far, without framing
  bool complete = false;                // all of it was read
  bool replayable = false;              // all of it is in `buffered`, and can be sent again
  // Of a body that flows as it comes: all that has passed is in `storage`, or nothing has. Another attempt begins with
  // that, and the rest follows.
  bool keeps = false;
  bool flow_begun = false;                // a part of it was read as it came; unless kept, it is lost
  bool continue_awaited = false;          // the client waits for a 100 before it sends it
  RelayEnd upload = RelayEnd::kComplete;  // how its way to the endpoint ended, in this attempt
  TimePoint complete_at{};                // all of it had come from the client; until then, its header
  const char* detail = "";                // why it is invalid
};

// The copy for mirrors.
struct MirrorCopy {
  bool pending = false;  // copies are still to be sent, of `body`
  std::string body;
};

// When the exchange ends at the latest.
struct Deadline {
  TimePoint at = TimePoint::max();
  bool by_client = false;  // it is the call's grpc-timeout; else the route's max_duration

  static constexpr const char* kMaxDurationDetail = "max_duration is over";
  static constexpr const char* kGrpcTimeoutDetail = "grpc-timeout is over";
  bool IsOver(TimePoint now) const { return now >= at; }
  const char* detail() const { return by_client ? kGrpcTimeoutDetail : kMaxDurationDetail; }
};

// What became of it: for the log and the metrics.
struct Result {
  Stage refused_by = Stage::kNone;
  Refusal refusal;  // reason kNone: a service or the route responded; it may have a policy and a detail nevertheless
  int status = 0;
  bool response_started = false;
  bool length_announced = false;  // of the response
  bool aborted = false;
  http::End end = http::End::kComplete;
  uint32_t attempts = 0;                           // also those that could not connect
  std::shared_ptr<Endpoint> endpoint;              // of the last one
  std::chrono::nanoseconds upstream_duration{-1};  // of the last one, to its response's header
};

struct RequestContext {
  RequestContext(LocalState* newest, http::DownstreamStream* client)
      : stream(*client), header(client->request()), state(newest) {
    facts.started = client->started();
  }

  http::DownstreamStream& stream;
  http::Request& header;
  const StateRef state;
  RequestFacts facts;
  GrpcCall call;
  Target target;
  Caller caller;
  LimitTally limits;
  RequestBody body;
  MirrorCopy mirror;
  Deadline deadline;
  Result result;
};

// Whether the client used https, as far as a trusted peer says so, else as its connection does.
bool IsHttps(const http::Request& request, const http::ConnectionInfo& connection);

// What ${...} in policy's texts stands for. REQUIRES: a route matched.
TextValues ValuesOf(const RequestContext& context);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_REQUEST_CONTEXT_H_
