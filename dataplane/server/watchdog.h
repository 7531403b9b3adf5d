// Notices a worker whose loop is stalled.
#ifndef GATEWAY_DATAPLANE_SERVER_WATCHDOG_H_
#define GATEWAY_DATAPLANE_SERVER_WATCHDOG_H_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/base/time.h"
#include "prometheus/metric_family.h"

namespace gateway::dataplane {

// Compares when each worker last turned its loop with when it did so at the check before. Only the time between two
// checks counts, and of that at most twice what was asked for: when the whole process stood still (SIGSTOP, a suspended
// machine, no free processor), the watcher was late too, and no worker is to blame. Check is one thread's; the
// rest is thread-safe. Never reads a clock.
class Watchdog {
 public:
  // `interval`: about how often Check is called.
  Watchdog(size_t workers, std::chrono::milliseconds timeout, std::chrono::milliseconds interval);

  struct Change {
    size_t worker = 0;
    bool stalled = false;                   // false: it turns again
    std::chrono::milliseconds standing{0};  // how long it stood still, as far as it was watched
  };
  // `turns`: one of each worker, of its newest turn. What has changed since the last call; mostly nothing.
  std::vector<Change> Check(TimePoint now, const std::vector<TimePoint>& turns);

  // No worker serves. Takes no lock.
  bool AllStalled() const;

  // gateway_worker_stalled{worker}, gateway_worker_stalls_total.
  std::vector<prometheus::MetricFamily> Families() const;

 private:
  struct Worker {
    TimePoint turn{};
    std::chrono::nanoseconds standing{0};
    std::atomic<bool> stalled{false};
  };
  const std::chrono::nanoseconds timeout_;
  const std::chrono::nanoseconds step_max_;
  TimePoint checked_{};
  std::vector<Worker> workers_;
  std::atomic<uint64_t> stalls_{0};
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_SERVER_WATCHDOG_H_
