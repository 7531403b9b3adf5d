// What a worker serves from: a snapshot of policy bound to endpoints and to the state that outlives both.
//
// Bind (on the configuration thread) makes a new immutable ServingState whenever policy or endpoints change; every
// worker holds the newest, and every exchange keeps the one that it started with. State that survives a swap (cursors,
// breakers, limiters, endpoints with their connections) is kept in RuntimeState under stable names and shared by
// successive ServingStates.
#ifndef GATEWAY_DATAPLANE_STATE_SERVING_STATE_H_
#define GATEWAY_DATAPLANE_STATE_SERVING_STATE_H_

#include <sys/socket.h>

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
#include "common/policy/snapshot.h"
#include "dataplane/auth/auth.h"
#include "dataplane/limits/lease_bucket.h"
#include "dataplane/limits/rate_limiter.h"
#include "dataplane/net/tls/client_context.h"
#include "dataplane/policy/bulkhead.h"
#include "dataplane/policy/circuit_breaker.h"
#include "dataplane/policy/endpoint_balancer.h"
#include "dataplane/policy/outlier_ejector.h"
#include "dataplane/policy/retry_budget.h"
#include "dataplane/telemetry/metrics.h"
#include "gateway/v1/config_stream.pb.h"

namespace gateway::dataplane {

// One address that requests are sent to, for as long as any state names it. Shared by all services that name it.
struct Endpoint {
  std::string name;  // "10.0.0.7:8080", for logs
  sockaddr_storage address{};
  socklen_t address_length = 0;
  uint64_t id = 0;  // unique for the life of the process: the key of the workers' connection pools
  std::shared_ptr<tls::EndpointTls> tls;  // null: cleartext
  UpstreamProtocol protocol = UpstreamProtocol::kHttp1;
  // The newest bind that named it; a worker closes the idle connections of those that fell behind.
  std::atomic<uint64_t> bound_generation{0};
  // Until when none of its connections is kept for reuse: it has said something that nobody asked for, so what comes
  // first on a kept connection need not be the answer (steady clock, nanoseconds).
  std::atomic<int64_t> distrusted_until{0};
};

// Survives a change of the service's policy and of its endpoints. One for each Service, and one for each service of
// Consul that a consul_service route leads to (a Service of the same name is another).
struct ServiceRuntime {
  std::string name;
  std::atomic<uint64_t> cursor{0};
  MetricId metrics_service;
  RetryBudget retry_budget;
  std::shared_ptr<Bulkhead> bulkhead;  // the configuration thread's; null: there never was one
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

// What a session's cookie names an endpoint by: a digest under a key of the fleet's, so that a session holds at every
// data plane of a control plane and after a restart, and the cookie tells nobody an address.
struct SessionTable {
  std::vector<std::string> values;                                                  // by index into the endpoints
  absl::flat_hash_map<std::string, uint32_t, StringHash, std::equal_to<>> indices;  // by value
};

// A service ready for requests. Where nothing about it changed, successive states share it.
struct BoundService {
  const ServicePolicy* policy = nullptr;  // in the snapshot
  std::shared_ptr<ServiceRuntime> runtime;
  std::shared_ptr<CircuitBreaker> breaker;  // null: none; survives a change of its settings
  std::shared_ptr<Bulkhead> bulkhead;       // null: none; the same
  Discovery discovery = Discovery::kKnown;
  std::vector<std::shared_ptr<Endpoint>> endpoints;  // the serving ones
  // Over `endpoints`, with what this service remembers of each; null where there are none.
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
  // Counts for this data plane: always with scope data_plane; with another while that scope is not to be had
  // (last_share). Its statistics are those of the limit, whoever decides.
  std::shared_ptr<RateLimiter> limiter;
  std::shared_ptr<LeaseTable> leases;  // of scope fleet: it decides in place of `limiter`; else null
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

// What operators have set for endpoints: v1::EndpointOverride, by its service and the endpoint's EndpointName.
struct OverrideTable {
  struct Override {
    v1::EndpointOverride::ActionCase action = v1::EndpointOverride::ACTION_NOT_SET;
    uint32_t weight = 0;
  };
  absl::flat_hash_map<std::pair<std::string, std::string>, Override> by_endpoint;
};

// Everything that Consul said, as the data plane has it, and what operators say of it.
struct EndpointTable {
  std::string epoch;
  uint64_t version = 0;
  bool catalog_known = false;
  absl::flat_hash_map<std::string, v1::EndpointSet> sets;  // by KeyOfSet
  OverrideTable overrides;
};
// "datacenter/service"; the agent's own datacenter is "".
std::string KeyOfSet(std::string_view datacenter, std::string_view service);

// Owns what survives a swap, and the threads that look after endpoints: one that checks them actively, one that looks
// up host names; each begins with the first one that there is. Lives on the configuration thread (Bind); what it hands
// out is shared.
class RuntimeState {
 public:
  // How long a Bind waits, in all, for the first answers on hosts that were never asked for: with them it is whole at
  // once. All others are looked up in the background.
  static constexpr std::chrono::milliseconds kHostWait{500};

  struct Options {
    std::string zone = {};  // this data plane's own
    std::function<TimePoint()> clock = std::chrono::steady_clock::now;
    // For tests, in place of the look-ups: the addresses of a host, or null.
    std::function<std::shared_ptr<const std::vector<std::string>>(const std::string& host)> find_host = {};
    KeyFetcher::Options keys = {};
  };
  RuntimeState(MetricsRegistry* metrics, Options options);
  explicit RuntimeState(MetricsRegistry* metrics) : RuntimeState(metrics, Options()) {}
  ~RuntimeState();

  // Called (on a thread of the state's own) when hosts have other addresses than the last Bind found: it is time for
  // another one.
  void OnHostsChanged(std::function<void()> call);

  // A new state of `snapshot` and `table`. Runtimes, breakers, limiters and endpoints with the names that they had are
  // the ones that they were; those that nothing names any more are dropped (their in-flight users keep them).
  // `snapshot` may be null: then there are no routes.
  std::shared_ptr<const ServingState> Bind(std::shared_ptr<const Snapshot> snapshot, const EndpointTable& table,
                                           bool has_policy);

  // For metrics: what is alive now, one row a name (of breakers of the same service: the worst state, and sums).
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
    std::shared_ptr<const LeaseTable> leases;  // of scope fleet, else null
    bool redis = false;                        // of scope redis
  };
  std::vector<LimitRow> Limits() const;
  // The limits of scope fleet in use, by name. Thread-safe.
  std::vector<std::pair<std::string, std::shared_ptr<LeaseTable>>> Leases() const;
  // What their tables know of the control plane. Never null.
  const std::shared_ptr<LeaseLink>& lease_link() const;
  struct BulkheadRow {
    std::string service;
    Bulkhead::View view;
  };
  std::vector<BulkheadRow> Bulkheads() const;

  // The endpoints that get no requests though their service has them, and why: "active check failed: connection
  // refused", "ejected: 5 failures in a row, 28s left". By service and endpoint. Thread-safe.
  struct ExclusionRow {
    std::string service;
    std::string endpoint;
    Exclusion by = Exclusion::kUnhealthy;
    std::string reason;
  };
  std::vector<ExclusionRow> Exclusions(TimePoint now) const;
  // Endpoints that are named by a host's name: what the name is now. Those without an address first, then by service
  // and address. Thread-safe.
  struct HostRow {
    std::string service;
    std::string address;                 // "host.example:8080"
    std::vector<std::string> endpoints;  // "10.0.0.7:8080"
  };
  std::vector<HostRow> Hosts() const;
  // One row for each service that has checks or ejection. Thread-safe.
  struct HealthRow {
    std::string service;
    size_t unhealthy = 0, ejected = 0;  // endpoints
    uint64_t ejections = 0;
    uint64_t checks_passed = 0, checks_failed = 0;
    bool panicking = false;  // too few are usable: exclusions are ignored
  };
  std::vector<HealthRow> Health() const;
  // Requests so far of each service that has its endpoints from Consul; several rows may be of one key. Thread-safe.
  struct TrafficRow {
    std::string datacenter, service;  // in Consul
    uint64_t requests = 0;
  };
  std::vector<TrafficRow> Traffic() const;
  std::vector<std::shared_ptr<const AuthRuntime>> Auths() const;  // sorted by name

  // Keys of issuers. Thread-safe. Stop it before the workers that wait for it are destroyed.
  KeyFetcher& keys() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_STATE_SERVING_STATE_H_
