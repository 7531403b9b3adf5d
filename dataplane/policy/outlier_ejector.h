// Excludes endpoints that fail real requests from a service for a while.
//
// Consecutive failures find a broken endpoint; the success rate finds one that is worse than its peers. Ejection times
// double with each ejection and are reset as time passes without one (Envoy's outlier detection has the same three
// parts).
#ifndef GATEWAY_DATAPLANE_POLICY_OUTLIER_EJECTOR_H_
#define GATEWAY_DATAPLANE_POLICY_OUTLIER_EJECTOR_H_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "common/base/time.h"
#include "dataplane/policy/endpoint_state.h"

namespace gateway::dataplane {

// For one service, over all workers. Thread-safe; never reads a clock. Survives new sets and new settings.
class OutlierEjector {
 public:
  struct Options {
    uint32_t consecutive_failures = 5;          // of any kind; 0: never
    uint32_t consecutive_gateway_failures = 0;  // 0: never
    // For the success rate: ejects endpoints more than `stdev_factor` standard deviations below the mean of
    // those with at least `volume_min` requests in the interval, if there are at least `hosts_min` of these. 0:
    // never.
    double stdev_factor = 0;
    uint32_t hosts_min = 5;
    uint32_t volume_min = 100;
    std::chrono::nanoseconds interval = std::chrono::seconds(10);
    std::chrono::nanoseconds base_time = std::chrono::seconds(30);  // doubled each time, up to max_time
    std::chrono::nanoseconds max_time = std::chrono::seconds(300);
    // Of the endpoints, how many may be ejected at once. One always may, unless it is the only one.
    uint32_t max_percent = 50;
    friend bool operator==(const Options&, const Options&) = default;
  };
  enum class Result : uint8_t {
    kSuccess,
    kFailure,         // 500, or another 5xx from the service itself
    kGatewayFailure,  // no connection, a reset, a timeout, 502, 503, 504
  };
  enum class Cause : uint8_t { kFailures, kGatewayFailures, kSuccessRate };

  explicit OutlierEjector(const Options& options) { Reconfigure(options); }

  // Ejected endpoints stay ejected until their time is over.
  void Reconfigure(const Options& options);

  struct Member {
    std::string name;
    std::shared_ptr<EndpointState> state;
  };
  // Sets the current endpoints. What is known about those that stay is kept.
  void SetMembers(const std::vector<Member>& members);

  // Reports one request. A success costs two relaxed loads while nothing fails and no success rate is configured.
  void Report(EndpointState* endpoint, Result result, TimePoint now);

  // Returns endpoints whose time is over, resets old ejections, and compares success rates at the end of an interval.
  // Must be called again at the returned time, or sooner.
  TimePoint Tick(TimePoint now);

  // Returns all endpoints, when ejection is no longer configured.
  void ReleaseAll(TimePoint now);

  struct Row {
    std::string endpoint;
    Cause cause = Cause::kFailures;
    uint32_t count = 0;  // failures in a row, or the success rate in percent
    TimePoint until;
  };
  std::vector<Row> Ejected() const;
  uint64_t ejections() const { return ejections_.load(std::memory_order_relaxed); }

 private:
  struct Record {
    std::string name;
    std::shared_ptr<EndpointState> state;
    bool ejected = false;
    Cause cause = Cause::kFailures;
    uint32_t count = 0;
    uint32_t times = 0;  // not reset yet
    TimePoint until{};
  };
  void Eject(EndpointState* endpoint, Cause cause, uint32_t count, TimePoint now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CompareRates(TimePoint now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Copies of the options, for Report.
  std::atomic<uint32_t> failures_max_{0};
  std::atomic<uint32_t> gateway_failures_max_{0};
  std::atomic<bool> rates_{false};
  std::atomic<uint64_t> ejections_{0};

  mutable absl::Mutex mutex_;
  Options options_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<const EndpointState*, Record> records_ ABSL_GUARDED_BY(mutex_);
  size_t ejected_ ABSL_GUARDED_BY(mutex_) = 0;
  TimePoint interval_ends_ ABSL_GUARDED_BY(mutex_){};  // the first Tick starts one
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_POLICY_OUTLIER_EJECTOR_H_
