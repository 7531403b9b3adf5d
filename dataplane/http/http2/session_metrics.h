// What HTTP/2 connections count: gateway_http2_* in the metrics.
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

// Of clients' connections.
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

// Of connections to endpoints.
enum class ClientCounter : uint8_t {
  kConnections,  // gauge
  kConnectionsTotal,
  kStreams,  // gauge: that an exchange holds
  kStreamsTotal,
  kStreamsRefusedTotal,  // which the endpoint said it has not looked at
  kGoawaysTotal,
  kResetsReceivedTotal,
  kResetsSentTotal,
  kInvalidFramesTotal,
  kTimeoutsTotal,
  kCount,
};

// Of one worker and one side: written on its thread alone, read by the scraper.
template <typename Counter>
class SideMetrics {
 public:
  void Add(Counter counter, int64_t delta) { Add(counters_[static_cast<size_t>(counter)], delta); }
  void CountAbuse(Abuse kind) { Add(abuse_[static_cast<size_t>(kind)], 1); }
  int64_t Get(Counter counter) const { return counters_[static_cast<size_t>(counter)].load(std::memory_order_relaxed); }
  int64_t Get(Abuse kind) const { return abuse_[static_cast<size_t>(kind)].load(std::memory_order_relaxed); }

 private:
  // One writer, so an increment needs no locked instruction.
  static void Add(std::atomic<int64_t>& value, int64_t delta) {
    value.store(value.load(std::memory_order_relaxed) + delta, std::memory_order_relaxed);
  }
  std::array<std::atomic<int64_t>, static_cast<size_t>(Counter::kCount)> counters_{};
  std::array<std::atomic<int64_t>, kAbuseCount> abuse_{};
};
using SessionMetrics = SideMetrics<SessionCounter>;
using ClientMetrics = SideMetrics<ClientCounter>;

std::string_view NameOf(Abuse kind);  // "rapid_reset"

// The families gateway_http2_* of clients and gateway_http2_upstream_* of endpoints, summed over workers.
std::vector<prometheus::MetricFamily> SessionFamilies(std::span<const SessionMetrics* const> workers);
std::vector<prometheus::MetricFamily> ClientFamilies(std::span<const ClientMetrics* const> workers);

}  // namespace gateway::dataplane::http2

#endif  // GATEWAY_DATAPLANE_HTTP_HTTP2_SESSION_METRICS_H_
