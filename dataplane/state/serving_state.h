// What a worker serves from: a snapshot of policy bound to endpoints and to the state that outlives both.
//
// RuntimeState::Bind makes a new immutable ServingState whenever policy or endpoints change; every worker holds the
// newest, and every exchange keeps the one that it started with. State that survives a swap (cursors, breakers,
// limiters, endpoints with their connections) is shared by successive ServingStates.
#ifndef GATEWAY_DATAPLANE_STATE_SERVING_STATE_H_
#define GATEWAY_DATAPLANE_STATE_SERVING_STATE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/hash/hash.h"
#include "absl/strings/string_view.h"
#include "common/policy/snapshot.h"
#include "dataplane/auth/auth.h"
#include "dataplane/limits/lease_bucket.h"
#include "dataplane/limits/rate_limiter.h"
#include "dataplane/policy/bulkhead.h"
#include "dataplane/policy/circuit_breaker.h"
#include "dataplane/policy/endpoint_balancer.h"
#include "dataplane/policy/outlier_ejector.h"
#include "dataplane/policy/retry_budget.h"
#include "dataplane/telemetry/metrics.h"
#include "dataplane/upstream/endpoint.h"

namespace gateway::dataplane {

// Survives a change of the service's policy and of its endpoints. One for each Service, and one for each service of
// Consul that a consul_service route leads to (a Service of the same name is another).
struct ServiceRuntime {
  std::string name;
  std::atomic<uint64_t> cursor{0};
  MetricId metrics_service;
  RetryBudget retry_budget;
  std::shared_ptr<Bulkhead> bulkhead;  // the configuration thread's; null: it never had one
};

enum class Discovery : uint8_t {
  kKnown,
  kUnknownService,  // Consul's catalog does not list it: 404
  kUnavailable,     // never read: 503 discovery_unavailable
};

// Debian's Abseil has a string_view of its own, so its maps do not look up std::string_view by themselves.
struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const {
    return absl::Hash<absl::string_view>()(absl::string_view(text.data(), text.size()));
  }
};

// What a session's cookie names an endpoint by: a digest under a key of the fleet, so that a session holds at every
// data plane of a control plane and after a restart, and the cookie discloses no address.
struct SessionTable {
  std::vector<std::string> values;                                                  // by index into the endpoints
  absl::flat_hash_map<std::string, uint32_t, StringHash, std::equal_to<>> indices;  // by value
};

// A service ready for requests. If nothing about it changed, successive states share it.
struct BoundService {
  const ServicePolicy* policy = nullptr;  // in the snapshot
  std::shared_ptr<ServiceRuntime> runtime;
  std::shared_ptr<CircuitBreaker> breaker;  // may be null; survives a change of its settings
  std::shared_ptr<Bulkhead> bulkhead;       // may be null; the same
  Discovery discovery = Discovery::kKnown;
  std::vector<std::shared_ptr<Endpoint>> endpoints;  // the serving ones
  // Over `endpoints`, with what this service remembers of each; null if there are none.
  std::shared_ptr<const EndpointBalancer> balancer;
  std::shared_ptr<OutlierEjector> ejector;       // may be null
  std::shared_ptr<const SessionTable> sessions;  // null: without a session cookie
};

struct BoundRoute {
  const RoutePolicy* policy = nullptr;
  const BoundAuth* auth = nullptr;  // in ServingState::auths; may be null
  // Series of api_requests_total for (service, this route's pattern), one for each split target; with redirect or
  // respond one, of service "gateway".
  std::vector<MetricId> series;
  // With consul_service: of requests for a name not in `dynamic`, {service="unknown", path=this route's pattern}.
  MetricId unknown_series;
  MetricId watched;  // WorkerShard::kNotWatched unless the control plane asks for its figures
  // By index into the policy's split, if the control plane asks for figures of its sides; else empty.
  std::vector<MetricId> watched_sides;
  uint64_t watched_version = 0;  // of the Route, that these are of
  // Whether one of its limits is counted in Redis, of those before authentication and of those after it.
  bool limits_ask_redis = false;
  bool identity_limits_ask_redis = false;
  // With consul_service: by the name in Consul. Holds what Consul lists and the route allows.
  struct Dynamic {
    std::shared_ptr<const BoundService> service;
    MetricId series;
  };
  absl::flat_hash_map<std::string, Dynamic, StringHash, std::equal_to<>> dynamic;
};

LimitAlgorithm AlgorithmOf(v1::RateLimit::Algorithm algorithm);

struct BoundLimit {
  const RateLimitPolicy* policy = nullptr;
  // Counts for this data plane: always with scope data_plane; with another scope while that is unavailable
  // (last_share). Its statistics are those of the limit, whatever decides.
  std::shared_ptr<RateLimiter> limiter;
  std::shared_ptr<LeaseTable> leases;  // of scope fleet: it decides instead of `limiter`; else null
};

struct ServingState {
  std::shared_ptr<const Snapshot> snapshot;  // never null; empty before the first policy
  uint64_t generation = 0;                   // of the bind
  uint64_t endpoints_version = 0;
  bool has_policy = false;  // a policy was ever received (or read from the cache or from files)
  bool catalog_known = false;
  std::vector<std::shared_ptr<const BoundService>> services;  // by Snapshot::services() index
  std::vector<BoundRoute> routes;                             // by RoutePolicy::index
  std::vector<BoundLimit> limits;                             // by Snapshot::rate_limits() index
  bool asks_redis = false;                                    // one of them is counted in Redis
  std::vector<std::shared_ptr<const BoundAuth>> auths;        // by Snapshot::auths() index
  IdentityFields identity_fields;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_STATE_SERVING_STATE_H_
