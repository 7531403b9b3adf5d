// What outlives policy: breakers, limiters, endpoints and services under stable names, and the binds that use them.
#ifndef GATEWAY_DATAPLANE_STATE_RUNTIME_STATE_H_
#define GATEWAY_DATAPLANE_STATE_RUNTIME_STATE_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/time.h"
#include "common/policy/snapshot.h"
#include "dataplane/auth/auth.h"
#include "dataplane/limits/lease_bucket.h"
#include "dataplane/limits/rate_limiter.h"
#include "dataplane/policy/bulkhead.h"
#include "dataplane/policy/circuit_breaker.h"
#include "dataplane/policy/endpoint_state.h"
#include "dataplane/state/endpoint_table.h"
#include "dataplane/state/serving_state.h"
#include "dataplane/telemetry/metrics.h"

namespace gateway::dataplane {

// Owns what survives a swap, in the binders (endpoint_binding, service_binding, limit_binding, auth_binding), and the
// threads that look after endpoints: one for active checks, one that resolves host names; each starts when it is first
// needed. Bind belongs to the configuration thread; what it hands out is shared.
class RuntimeState {
 public:
  // How long a Bind waits, in all, for the first look-up of new host names, so that it is complete at once. All others
  // are looked up in the background.
  static constexpr std::chrono::milliseconds kHostWait{500};

  struct Options {
    std::string zone = {};  // this data plane's own
    std::function<TimePoint()> clock = std::chrono::steady_clock::now;
    // For tests, instead of the look-ups: the addresses of a host, or null.
    std::function<std::shared_ptr<const std::vector<std::string>>(const std::string& host)> find_host = {};
    KeyFetcher::Options keys = {};
  };
  RuntimeState(MetricsRegistry* metrics, Options options);
  explicit RuntimeState(MetricsRegistry* metrics) : RuntimeState(metrics, Options()) {}
  ~RuntimeState();

  // `call` is called (on a thread of the state's own) when hosts have other addresses than the last Bind found: it is
  // time for another one.
  void OnHostsChanged(std::function<void()> call);

  // A new state of `snapshot` and `table`. Runtimes, breakers, limiters and endpoints are kept by their names; those
  // that nothing names any more are dropped (their in-flight users keep them). `snapshot` may be null: then there are
  // no routes.
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
  // What their tables know about the control plane. Never null.
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
  // Endpoints that are host names: what they resolve to now. Those without an address first, then by service and
  // address. Thread-safe.
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
  // Of each watched route of the last Bind's snapshot, by name: its requests on that revision. For the thread that
  // binds.
  struct WatchedRow {
    std::string route;
    uint64_t revision = 0;
    MetricsRegistry::WatchedFigures figures;
  };
  std::vector<WatchedRow> WatchedRoutes() const;
  // Likewise of each side of those whose sides are watched: its requests on that version of the Route.
  struct SidesRow {
    std::string route;
    uint64_t version = 0;
    std::vector<std::pair<std::string, MetricsRegistry::WatchedFigures>> sides;  // by the name of the service
  };
  std::vector<SidesRow> WatchedSides() const;
  std::vector<std::shared_ptr<const AuthRuntime>> Auths() const;  // sorted by name

  // Keys of issuers. Thread-safe. Stop it before the workers that wait for it are destroyed.
  KeyFetcher& keys() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_STATE_RUNTIME_STATE_H_
