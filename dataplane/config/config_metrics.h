// gateway_config_*: what the configuration thread did, for scrapers and for who waits for a configuration.
#ifndef GATEWAY_DATAPLANE_CONFIG_CONFIG_METRICS_H_
#define GATEWAY_DATAPLANE_CONFIG_CONFIG_METRICS_H_

#include <chrono>
#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "prometheus/metric_family.h"

namespace gateway::dataplane {

enum class UpdateKind : uint8_t { kPolicy, kEndpoints };

// Thread-safe. Written by the configuration thread.
class ConfigMetrics {
 public:
  // What every worker serves.
  struct Served {
    bool ready = false;       // a policy, and not only what is built in
    bool lacks_keys = false;  // private keys of certificates
    uint64_t revision = 0, endpoints_version = 0;
  };
  void SetServed(const Served& served);
  void SetLacksKeys(bool lacks_keys);
  void SetConnected(bool connected);
  void SetDrained(bool drained);
  void CountAttempt();
  // `time`: from the last chunk to the last worker.
  void CountApplied(UpdateKind kind, std::chrono::nanoseconds time);
  void CountRejected(UpdateKind kind);

  Served served() const;
  bool connected() const;
  // `cache_write_errors`: of the disk cache.
  std::vector<prometheus::MetricFamily> Families(uint64_t cache_write_errors) const;

 private:
  struct Updates {
    uint64_t applied = 0, rejected = 0;
  };
  struct Values {
    Served served;
    bool connected = false, drained = false;
    uint64_t attempts = 0;
    Updates policy, endpoints;
    std::chrono::system_clock::time_point last_applied{};
    std::chrono::nanoseconds last_apply_time{};
  };
  static Updates& Of(Values& values, UpdateKind kind) {
    return kind == UpdateKind::kPolicy ? values.policy : values.endpoints;
  }

  mutable absl::Mutex mutex_;
  Values values_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_CONFIG_CONFIG_METRICS_H_
