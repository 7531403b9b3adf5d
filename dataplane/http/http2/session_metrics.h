// What HTTP/2 connections of clients count: gateway_http2_* in the metrics.
#ifndef GATEWAY_DATAPLANE_HTTP_HTTP2_SESSION_METRICS_H_
#define GATEWAY_DATAPLANE_HTTP_HTTP2_SESSION_METRICS_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "dataplane/http/http2/abuse_guard.h"
#include "prometheus/metric_family.h"

namespace gateway::dataplane::http2 {

enum class SessionCounter : uint8_t {
  kConnections,  // gauge
  kConnectionsTotal,
  kStreams,  // gauge: open, or still being served
  kStreamsTotal,
  kStreamsRefusedTotal,
  kResetsReceivedTotal,
  kResetsSentTotal,
  kInvalidFramesTotal,
  kTimeoutsTotal,
  kCount,
};

// Of one worker: written on its thread alone, read by whoever scrapes.
class SessionMetrics {
 public:
  void Add(SessionCounter counter, int64_t delta) { Add(counters_[static_cast<size_t>(counter)], delta); }
  void CountAbuse(Abuse kind) { Add(abuse_[static_cast<size_t>(kind)], 1); }
  int64_t Get(SessionCounter counter) const {
    return counters_[static_cast<size_t>(counter)].load(std::memory_order_relaxed);
  }
  int64_t Get(Abuse kind) const { return abuse_[static_cast<size_t>(kind)].load(std::memory_order_relaxed); }

 private:
  // One writer, so an increment needs no locked instruction.
  static void Add(std::atomic<int64_t>& value, int64_t delta) {
    value.store(value.load(std::memory_order_relaxed) + delta, std::memory_order_relaxed);
  }
  std::array<std::atomic<int64_t>, static_cast<size_t>(SessionCounter::kCount)> counters_{};
  std::array<std::atomic<int64_t>, kAbuseCount> abuse_{};
};

std::string_view NameOf(Abuse kind);  // "rapid_reset"

// The families gateway_http2_*, summed over workers.
std::vector<prometheus::MetricFamily> SessionFamilies(std::span<const SessionMetrics* const> workers);

}  // namespace gateway::dataplane::http2

#endif  // GATEWAY_DATAPLANE_HTTP_HTTP2_SESSION_METRICS_H_
