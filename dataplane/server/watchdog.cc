#include "dataplane/server/watchdog.h"

#include <algorithm>
#include <string>
#include <utility>

namespace gateway::dataplane {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

Watchdog::Watchdog(size_t workers, std::chrono::milliseconds timeout, std::chrono::milliseconds interval)
    : timeout_(timeout), step_max_(2 * interval), workers_(workers) {}

std::vector<Watchdog::Change> Watchdog::Check(TimePoint now, const std::vector<TimePoint>& turns) {
  std::vector<Change> changes;
  const std::chrono::nanoseconds step =
      checked_ == TimePoint{} ? step_max_.zero() : std::clamp<std::chrono::nanoseconds>(now - checked_, {}, step_max_);
  checked_ = now;
  for (size_t i = 0; i < workers_.size(); ++i) {
    Worker& worker = workers_[i];
    const auto change = [&](bool stalled) {
      worker.stalled.store(stalled, std::memory_order_relaxed);
      changes.push_back({i, stalled, std::chrono::duration_cast<std::chrono::milliseconds>(worker.standing)});
    };
    if (worker.turn != turns[i]) {
      worker.turn = turns[i];
      if (worker.stalled.load(std::memory_order_relaxed)) change(false);
      worker.standing = {};
      continue;
    }
    worker.standing += step;
    if (worker.standing < timeout_ || worker.stalled.load(std::memory_order_relaxed)) continue;
    stalls_.fetch_add(1, std::memory_order_relaxed);
    change(true);
  }
  return changes;
}

bool Watchdog::AllStalled() const {
  return !workers_.empty() && std::all_of(workers_.begin(), workers_.end(), [](const Worker& each) {
    return each.stalled.load(std::memory_order_relaxed);
  });
}

std::vector<MetricFamily> Watchdog::Families() const {
  MetricFamily stalled{"gateway_worker_stalled",
                       "1 while a worker has not turned its loop for server.watchdog_timeout.",
                       MetricType::Gauge,
                       {}};
  for (size_t i = 0; i < workers_.size(); ++i) {
    ClientMetric metric;
    metric.label = {{"worker", std::to_string(i)}};
    metric.gauge.value = workers_[i].stalled.load(std::memory_order_relaxed) ? 1 : 0;
    stalled.metric.push_back(std::move(metric));
  }
  MetricFamily stalls{"gateway_worker_stalls_total", "How often a worker stalled.", MetricType::Counter, {}};
  stalls.metric.emplace_back();
  stalls.metric[0].counter.value = static_cast<double>(stalls_.load(std::memory_order_relaxed));
  return {std::move(stalled), std::move(stalls)};
}

}  // namespace gateway::dataplane
