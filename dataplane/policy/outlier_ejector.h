// Takes endpoints that fail real requests out of a service for a while.
//
// Consecutive failures find an endpoint that is broken; the success rate finds one that is worse than its peers. The
// time out doubles with each time and is forgiven as time passes without one (Envoy's outlier detection has the same
// three parts).
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
#include "dataplane/policy/endpoint_state.h"

namespace gateway::dataplane {

// Of one service, over all workers. Thread-safe; never reads a clock. Survives new sets and new settings.
class OutlierEjector {
 public:
  struct Options {
    uint32_t consecutive_failures = 5;          // of any kind; 0: never
    uint32_t consecutive_gateway_failures = 0;  // 0: never
    // Of the success rate: an endpoint is out that is more than `stdev_factor` standard deviations below the mean of
    // those with at least `volume_min` requests in the interval, if there are at least `hosts_min` of these.
    // 0: never.
    double stdev_factor = 0;
    uint32_t hosts_min = 5;
    uint32_t volume_min = 100;
    std::chrono::nanoseconds interval = std::chrono::seconds(10);
    std::chrono::nanoseconds base_time = std::chrono::seconds(30);  // doubled each time, up to max_time
    std::chrono::nanoseconds max_time = std::chrono::seconds(300);
    // Of the endpoints that may be out at once. One always may, unless it is the only one.
    uint32_t max_percent = 50;
    friend bool operator==(const Options&, const Options&) = default;
  };
  enum class Result : uint8_t {
    kSuccess,
    kFailure,         // 500, or another 5xx that the service means itself
    kGatewayFailure,  // no connection, a reset, a timeout, 502, 503, 504
  };
  enum class Cause : uint8_t { kFailures, kGatewayFailures, kSuccessRate };

  explicit OutlierEjector(const Options& options) { Reconfigure(options); }

  // Those who are out stay out until their time is over.
  void Reconfigure(const Options& options);

  struct Member {
    std::string name;
    std::shared_ptr<EndpointState> state;
  };
  // The endpoints of now. What is known of those that stay, stays.
  void SetMembers(const std::vector<Member>& members);

  // One request's end. A success costs two relaxed loads while nothing fails and no success rate is asked for.
  void Report(EndpointState* endpoint, Result result, TimePoint now);

  // Lets those in whose time is over, forgives, and compares success rates at an interval's end. To be called again at
  // the time returned, or sooner.
  TimePoint Tick(TimePoint now);

  // Lets everybody in: ejection is no longer asked for.
  void ReleaseAll(TimePoint now);

  struct Row {
    std::string endpoint;
    Cause cause = Cause::kFailures;
    uint32_t count = 0;  // of the failures in a row; of the success rate, its percent
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
    uint32_t times = 0;  // not yet forgiven
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
  TimePoint interval_ends_ ABSL_GUARDED_BY(mutex_){};  // the first Tick begins one
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_POLICY_OUTLIER_EJECTOR_H_
