// Metrics of the request path: plain counters, sharded by worker, summed only when somebody scrapes.
//
// A worker writes its own shard with relaxed stores (one writer, so no read-modify-write), 7 ns a request; the
// scraper's thread reads all of them. Series are registered when a state is bound, never by a request, so no client can
// make one.
#ifndef GATEWAY_DATAPLANE_TELEMETRY_METRICS_H_
#define GATEWAY_DATAPLANE_TELEMETRY_METRICS_H_

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/latency_buckets.h"
#include "dataplane/http/reason.h"
#include "prometheus/collectable.h"

namespace gateway::dataplane {

enum class Method : uint8_t { kGet, kHead, kPost, kPut, kDelete, kPatch, kOptions, kOther };
inline constexpr int kMethodCount = 8;
Method MethodOf(std::string_view method);
std::string_view MethodName(Method method);  // "OTHER" for the rest

// Gauges and counters of one worker beside the requests. Written by the worker only, with Add.
enum class WorkerGauge : uint8_t {
  kClientConnections,  // gauge
  kClientConnectionsTotal,
  kUpstreamConnections,  // gauge: open, idle ones included
  kUpstreamIdle,         // gauge
  kUpstreamConnectsTotal,
  kUpstreamReusesTotal,
  kInFlight,       // gauge: exchanges
  kBytesReceived,  // from clients, bodies and heads
  kBytesSent,      // to clients
  kBufferBytes,    // gauge: relay buffers in use
  kAcceptErrorsTotal,
  kBadRequestsTotal,  // refused before a route was looked for
  kUpgraded,          // gauge: connections that have changed their protocol
  kUpgradedTotal,
  kConnectionsRefusedTotal,  // by max_connections or max_connections_per_address
  kConnectionsGaveWayTotal,  // that nobody used, closed to make room for new ones
  kRetriesTotal,             // on a fresh connection after a stale one, on another endpoint, or by a Retry policy
  kRetriesOverBudgetTotal,   // that a Retry policy would have made
  kMirroredTotal,            // copies that were begun
  kMirrorsFailedTotal,       // of these, those that no answer came to: no connection, a reset, a time-out
  kMirrorsDroppedTotal,      // copies that were not sent: too many at once, or a body too long
  kSplicedBytesTotal,        // of bodies, from socket to socket without a copy
  kCount,
};

class WorkerShard;

// The slot of a name in the registry. It stays the name's for as long as a copy of this exists: whoever counts on it
// holds one. Converts to the number that WorkerShard::Record takes.
class MetricId {
 public:
  MetricId() = default;  // the first one: unknown
  MetricId(uint32_t value, std::shared_ptr<const void> use) : value_(value), use_(std::move(use)) {}
  operator uint32_t() const { return value_; }  // NOLINT(google-explicit-constructor)
  friend bool operator==(const MetricId& a, const MetricId& b) { return a.value_ == b.value_; }

 private:
  uint32_t value_ = 0;
  std::shared_ptr<const void> use_;
};

// Names of series and the shards. Register* is called on the configuration thread; Collect on the scraper's;
// WorkerShard's methods on the worker that owns it. Bounded: past kSeriesMax new series share the series
// {service="other", path="other"}. Names that nobody holds any more are dropped after a while, and their slots are used
// again; one that returns before that goes on counting.
class MetricsRegistry : public prometheus::Collectable {
 public:
  static constexpr uint32_t kSeriesMax = 100'000;
  static constexpr uint32_t kServicesMax = 20'000;
  static constexpr uint32_t kWatchedRoutesMax = 4'096;  // of several revisions
  static constexpr uint32_t kWatchedSidesMax = 8'192;   // of several versions of their Routes
  // Registered from the start.
  static constexpr uint32_t kUnknownService = 0;  // {service="unknown"}
  static constexpr uint32_t kBuiltinService = 1;  // {service="gateway"}: /health, /test-rate-limit
  static constexpr uint32_t kNoRouteSeries = 0;   // {service="unknown", path="unmatched"}
  static constexpr uint32_t kHealthSeries = 1;    // {service="gateway", path="/health"}
  static constexpr uint32_t kTestRateLimitSeries = 2;
  static constexpr uint32_t kMetricsSeries = 3;  // {service="gateway", path="/metrics"}

  struct Options {
    // How long a name that nobody holds stays: scrapers shall see its last values (metrics.keep_removed_for).
    std::chrono::milliseconds keep_removed_for = std::chrono::minutes(10);
    std::function<std::chrono::steady_clock::time_point()> clock = std::chrono::steady_clock::now;
  };
  MetricsRegistry(int workers, Options options);
  explicit MetricsRegistry(int workers) : MetricsRegistry(workers, Options()) {}
  ~MetricsRegistry() override;

  // The same name gives the same id until it is dropped.
  MetricId RegisterService(std::string_view service);
  MetricId RegisterSeries(std::string_view service, std::string_view path);
  // A route whose requests are counted for the control plane, on one revision of policy. Not watched past
  // kWatchedRoutesMax.
  MetricId RegisterWatchedRoute(std::string_view route, uint64_t revision);
  // The same for the requests to `service`, a side of its split, on one version of the Route. Not watched past
  // kWatchedSidesMax. No scraper sees it: it is dropped kSidesKept after its last user.
  MetricId RegisterWatchedSide(std::string_view route, uint64_t version, std::string_view service);
  static constexpr std::chrono::seconds kSidesKept{30};
  struct WatchedFigures {
    uint64_t requests = 0;
    uint64_t errors = 0;
    std::array<uint64_t, kLatencyBuckets> latency{};
  };
  // Of a registered route, of all workers. Any thread.
  WatchedFigures FiguresOf(const MetricId& watched_route) const;
  WatchedFigures FiguresOfSide(const MetricId& watched_side) const;
  // Requests of a registered service since its slot is its own, of all workers. Any thread.
  uint64_t RequestsOf(const MetricId& service) const;
  // Takes note of what nobody holds any more, and drops what nobody has held for `keep_removed_for`. Done by each
  // Collect as well.
  void DropRemoved();

  WorkerShard* shard(int worker);

  // Further families (configuration, breakers, limits, build info, process), asked for at each scrape, on the scraper's
  // thread.
  void AddSource(std::function<std::vector<prometheus::MetricFamily>()> source);

  std::vector<prometheus::MetricFamily> Collect() const override;

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

class WorkerShard {
 public:
  // One finished request. `series` and `service` are ids of the registry. `reason` kNone: the service (or a built-in)
  // answered; with `status` below 500 that is a success.
  void Record(uint32_t service, uint32_t series, Method method, int status, Reason reason,
              std::chrono::nanoseconds duration);
  // The same request, of a watched route (kNotWatched: of another one).
  static constexpr uint32_t kNotWatched = 0;
  void RecordWatched(uint32_t watched_route, int status, Reason reason, std::chrono::nanoseconds duration);
  void RecordWatchedSide(uint32_t watched_side, int status, Reason reason, std::chrono::nanoseconds duration);
  // A call of gRPC that ended with this code, beside Record.
  void RecordCall(uint32_t service, int code);
  void Add(WorkerGauge gauge, int64_t delta);
  int64_t Get(WorkerGauge gauge) const;
  // Where the worker's pools count by themselves; as long-lived as the shard.
  std::atomic<int64_t>* Cell(WorkerGauge gauge);

 private:
  friend class MetricsRegistry;
  friend struct MetricsRegistry::Impl;
  WorkerShard();
  ~WorkerShard();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// build info, process CPU, memory, descriptors, start time: the standard process_* families and gateway_build_info.
std::vector<prometheus::MetricFamily> ProcessFamilies(std::string_view component);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_TELEMETRY_METRICS_H_
