// What a worker serves from: a snapshot of policy, bound to endpoints and to state that outlives both.
//
// Bind (on the configuration thread) makes a new immutable ServingState whenever policy or endpoints change. Every
// worker holds the newest, and every exchange keeps the one that it started with. State that survives a swap (cursors,
// breakers, limiters, endpoints with their connections) is in RuntimeState under stable names, shared by successive
// ServingStates.
#ifndef GATEWAY_DATAPLANE_STATE_SERVING_STATE_H_
#define GATEWAY_DATAPLANE_STATE_SERVING_STATE_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/hash/hash.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/time.h"
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
#include "gateway/v1/config_stream.pb.h"

namespace gateway::dataplane {

// Survives a change of the service's policy and of its endpoints. One for each Service, and one for each service in
// Consul that a consul_service route leads to (separate from a Service of the same name).
struct ServiceRuntime {
  std::string name;
  std::atomic<uint64_t> cursor{0};
  MetricId metrics_service;
  RetryBudget retry_budget;
  std::shared_ptr<Bulkhead> bulkhead;  // the configuration thread's; null: never used
};

enum class Discovery : uint8_t {
  kKnown,
  kUnknownService,  // Consul's catalog does not list it: 404
  kUnavailable,     // never read: 503 discovery_unavailable
};

// Debian's Abseil has its own string_view, so its maps do not look up std::string_view by themselves.
struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const {
    return absl::Hash<absl::string_view>()(absl::string_view(text.data(), text.size()));
  }
};

// How session cookies identify endpoints: by a digest with a key of the fleet, so that a session works at every data
// plane of a control plane and after a restart, and the cookie reveals no address.
struct SessionTable {
  std::vector<std::string> values;                                                  // by index into the endpoints
  absl::flat_hash_map<std::string, uint32_t, StringHash, std::equal_to<>> indices;  // by value
};

// A service ready for requests. Successive states share it while it does not change.
struct BoundService {
  const ServicePolicy* policy = nullptr;  // in the snapshot
  std::shared_ptr<ServiceRuntime> runtime;
  std::shared_ptr<CircuitBreaker> breaker;  // null: none; survives a change of its settings
  std::shared_ptr<Bulkhead> bulkhead;       // null: none; the same
  Discovery discovery = Discovery::kKnown;
  std::vector<std::shared_ptr<Endpoint>> endpoints;  // the serving ones
  // Over `endpoints`, with the state that this service keeps for each; null if there are none.
  std::shared_ptr<const EndpointBalancer> balancer;
  std::shared_ptr<OutlierEjector> ejector;       // null: none
  std::shared_ptr<const SessionTable> sessions;  // null: no session cookie
};

struct BoundRoute {
  const RoutePolicy* policy = nullptr;
  const BoundAuth* auth = nullptr;  // in ServingState::auths; null: none
  // Series of api_requests_total for (service, this route's pattern), one for each split target; with redirect or
  // respond one, of service "gateway".
  std::vector<MetricId> series;
  // With consul_service: of requests that name none of `dynamic`, {service="unknown", path=this route's pattern}.
  MetricId unknown_series;
  // Whether one of its limits is counted in Redis, of those before authentication and of those behind it.
  bool limits_ask_redis = false;
  bool identity_limits_ask_redis = false;
  // With consul_service: by name in Consul. Has the services that Consul lists and the route allows.
  struct Dynamic {
    std::shared_ptr<const BoundService> service;
    MetricId series;
  };
  absl::flat_hash_map<std::string, Dynamic, StringHash, std::equal_to<>> dynamic;
};

LimitAlgorithm AlgorithmOf(v1::RateLimit::Algorithm algorithm);

struct BoundLimit {
  const RateLimitPolicy* policy = nullptr;
  // Counts for this data plane: with scope data_plane always, with other scopes while they are unavailable
  // (last_share). Its statistics are those of the limit.
  std::shared_ptr<RateLimiter> limiter;
  std::shared_ptr<LeaseTable> leases;  // for scope fleet: decides instead of `limiter`; otherwise null
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
  bool asks_redis = false;                                    // a limit is counted in Redis
  std::vector<std::shared_ptr<const BoundAuth>> auths;        // by Snapshot::auths() index
  IdentityFields identity_fields;
};

// The endpoints from Consul, as the data plane has them.
struct EndpointTable {
  std::string epoch;
  uint64_t version = 0;
  bool catalog_known = false;
  absl::flat_hash_map<std::string, v1::EndpointSet> sets;  // by KeyOfSet
};
// "datacenter/service"; the agent's own datacenter is "".
std::string KeyOfSet(std::string_view datacenter, std::string_view service);

// Owns what survives a swap, and two threads: one checks endpoints actively, one resolves host names;
// each starts when it is first needed. Lives on the configuration thread (Bind); its results are
// shared.
class RuntimeState {
 public:
  // How long a Bind waits, in total, for the first results of new hosts, so that it is complete at once. All others are
  // resolved in the background.
  static constexpr std::chrono::milliseconds kHostWait{500};

  struct Options {
    std::string zone = {};  // this data plane's own
    std::function<TimePoint()> clock = std::chrono::steady_clock::now;
    // For tests, instead of lookups: the addresses of a host, or null.
    std::function<std::shared_ptr<const std::vector<std::string>>(const std::string& host)> find_host = {};
    KeyFetcher::Options keys = {};
  };
  RuntimeState(MetricsRegistry* metrics, Options options);
  explicit RuntimeState(MetricsRegistry* metrics) : RuntimeState(metrics, Options()) {}
  ~RuntimeState();

  // Called (on the state's own thread) when hosts have different addresses than in the last Bind: it is time for
  // another one.
  void OnHostsChanged(std::function<void()> call);

  // A new state of `snapshot` and `table`. Runtimes, breakers, limiters and endpoints are kept by name; those that are
  // no longer named are dropped (requests in flight keep them alive). `snapshot` may be null: then there are no
  // routes.
  std::shared_ptr<const ServingState> Bind(std::shared_ptr<const Snapshot> snapshot, const EndpointTable& table,
                                           bool has_policy);

  // For metrics: what exists now, one row for each name (for breakers of the same service: the worst state, and sums).
  // Thread-safe.
  struct BreakerRow {
    std::string service;
    std::string breaker;  // the policy's name
    CircuitBreaker::View view;
    std::chrono::milliseconds next_probe{0};  // from now; the soonest of the service's breakers
  };
  std::vector<BreakerRow> Breakers(TimePoint now) const;
  struct LimitRow {
    std::string name;
    RateLimiter::Stats stats;
    std::shared_ptr<const LeaseTable> leases;  // for scope fleet, otherwise null
    bool redis = false;                        // for scope redis
  };
  std::vector<LimitRow> Limits() const;
  // The limits of scope fleet in use, by name. Thread-safe.
  std::vector<std::pair<std::string, std::shared_ptr<LeaseTable>>> Leases() const;
  // What the tables know about the control plane. Never null.
  const std::shared_ptr<LeaseLink>& lease_link() const;
  struct BulkheadRow {
    std::string service;
    Bulkhead::View view;
  };
  std::vector<BulkheadRow> Bulkheads() const;

  // Excluded endpoints and the reasons: "active check failed: connection refused", "ejected: 5 failures in a row, 28s
  // left". By service and endpoint. Thread-safe.
  struct ExclusionRow {
    std::string service;
    std::string endpoint;
    Exclusion by = Exclusion::kUnhealthy;
    std::string reason;
  };
  std::vector<ExclusionRow> Exclusions(TimePoint now) const;
  // Endpoints with host names, and their current addresses. Those without an address first, then by service and
  // address. Thread-safe.
  struct HostRow {
    std::string service;
    std::string address;                 // "host.example:8080"
    std::vector<std::string> endpoints;  // "10.0.0.7:8080"
  };
  std::vector<HostRow> Hosts() const;
  // One row for each service with checks or ejection. Thread-safe.
  struct HealthRow {
    std::string service;
    size_t unhealthy = 0, ejected = 0;  // endpoints
    uint64_t ejections = 0;
    uint64_t checks_passed = 0, checks_failed = 0;
    bool panicking = false;  // too few are usable, so exclusions are ignored
  };
  std::vector<HealthRow> Health() const;
  std::vector<std::shared_ptr<const AuthRuntime>> Auths() const;  // sorted by name

  // Issuers' keys. Thread-safe. Stop it before the workers that wait for it are destroyed.
  KeyFetcher& keys() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_STATE_SERVING_STATE_H_
