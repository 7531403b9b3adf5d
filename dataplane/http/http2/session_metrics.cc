#include "dataplane/http/http2/session_metrics.h"

#include <string>
#include <string_view>

#include "prometheus/client_metric.h"
#include "prometheus/metric_type.h"

namespace gateway::dataplane::http2 {
namespace {

using prometheus::MetricFamily;
using prometheus::MetricType;

struct CounterInfo {
  const char* name;
  MetricType type;
  const char* help;
};

constexpr std::array<CounterInfo, static_cast<size_t>(SessionCounter::kCount)> kCounters = {{
    {"gateway_http2_connections", MetricType::Gauge, "Open HTTP/2 connections of clients."},
    {"gateway_http2_connections_total", MetricType::Counter, "HTTP/2 connections of clients."},
    {"gateway_http2_streams", MetricType::Gauge, "HTTP/2 streams of clients, open or still being served."},
    {"gateway_http2_streams_total", MetricType::Counter, "HTTP/2 streams that clients opened."},
    {"gateway_http2_streams_refused_total", MetricType::Counter,
     "HTTP/2 streams refused beyond max_concurrent_streams."},
    {"gateway_http2_resets_received_total", MetricType::Counter, "HTTP/2 streams that clients reset."},
    {"gateway_http2_resets_sent_total", MetricType::Counter, "HTTP/2 streams of clients that the gateway reset."},
    {"gateway_http2_invalid_frames_total", MetricType::Counter, "Invalid HTTP/2 frames from clients."},
    {"gateway_http2_timeouts_total", MetricType::Counter,
     "HTTP/2 connections closed because SETTINGS, the end of a header list or a PING's answer did not come."},
}};

constexpr std::array<CounterInfo, static_cast<size_t>(ClientCounter::kCount)> kClientCounters = {{
    {"gateway_http2_upstream_connections", MetricType::Gauge, "Open HTTP/2 connections to endpoints."},
    {"gateway_http2_upstream_connections_total", MetricType::Counter, "HTTP/2 connections to endpoints."},
    {"gateway_http2_upstream_streams", MetricType::Gauge, "HTTP/2 streams to endpoints that a request holds."},
    {"gateway_http2_upstream_streams_total", MetricType::Counter, "HTTP/2 streams opened to endpoints."},
    {"gateway_http2_upstream_streams_refused_total", MetricType::Counter,
     "HTTP/2 streams that an endpoint has not processed, as it said: REFUSED_STREAM, or behind its GOAWAY."},
    {"gateway_http2_upstream_goaways_total", MetricType::Counter, "GOAWAY frames from endpoints."},
    {"gateway_http2_upstream_resets_received_total", MetricType::Counter, "HTTP/2 streams that endpoints reset."},
    {"gateway_http2_upstream_resets_sent_total", MetricType::Counter,
     "HTTP/2 streams to endpoints that the gateway reset."},
    {"gateway_http2_upstream_invalid_frames_total", MetricType::Counter, "Invalid HTTP/2 frames from endpoints."},
    {"gateway_http2_upstream_timeouts_total", MetricType::Counter,
     "HTTP/2 connections to endpoints closed because SETTINGS, the end of a header list or a PING's answer did not "
     "come."},
}};

constexpr std::array<std::string_view, kAbuseCount> kAbuseKinds = {
    "rapid_reset",   "invalid_frames", "refused_streams", "settings",     "ping",        "priority",
    "window_update", "empty_data",     "unknown_frames",  "continuation", "header_list", "control_queue"};

void AddValue(MetricFamily* family, double value) {
  prometheus::ClientMetric& metric = family->metric.emplace_back();
  (family->type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
}

template <typename Counter, size_t kSize>
std::vector<MetricFamily> Families(std::span<const SideMetrics<Counter>* const> workers,
                                   const std::array<CounterInfo, kSize>& counters, const char* abuse_name,
                                   const char* abuse_help) {
  std::vector<MetricFamily> families;
  for (size_t i = 0; i < kSize; ++i) {
    MetricFamily& family = families.emplace_back();
    family.name = counters[i].name;
    family.help = counters[i].help;
    family.type = counters[i].type;
    int64_t sum = 0;
    for (const SideMetrics<Counter>* each : workers) sum += each->Get(static_cast<Counter>(i));
    AddValue(&family, static_cast<double>(sum));
  }
  MetricFamily& abuse = families.emplace_back();
  abuse.name = abuse_name;
  abuse.help = abuse_help;
  abuse.type = MetricType::Counter;
  for (size_t i = 0; i < kAbuseCount; ++i) {
    int64_t sum = 0;
    for (const SideMetrics<Counter>* each : workers) sum += each->Get(static_cast<Abuse>(i));
    AddValue(&abuse, static_cast<double>(sum));
    abuse.metric.back().label.push_back({"kind", std::string(kAbuseKinds[i])});
  }
  return families;
}

}  // namespace

std::string_view NameOf(Abuse kind) {
  return kind == Abuse::kNone ? std::string_view("none") : kAbuseKinds[static_cast<size_t>(kind)];
}

std::vector<MetricFamily> SessionFamilies(std::span<const SessionMetrics* const> workers) {
  return Families(workers, kCounters, "gateway_http2_abuse_total",
                  "HTTP/2 connections of clients closed with ENHANCE_YOUR_CALM, by what there was too much of.");
}

std::vector<MetricFamily> ClientFamilies(std::span<const ClientMetrics* const> workers) {
  return Families(workers, kClientCounters, "gateway_http2_upstream_abuse_total",
                  "HTTP/2 connections to endpoints closed with ENHANCE_YOUR_CALM, by what there was too much of.");
}

}  // namespace gateway::dataplane::http2
