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
     "HTTP/2 streams rejected above max_concurrent_streams."},
    {"gateway_http2_resets_received_total", MetricType::Counter, "HTTP/2 streams that clients reset."},
    {"gateway_http2_resets_sent_total", MetricType::Counter, "HTTP/2 streams of clients that the gateway reset."},
    {"gateway_http2_invalid_frames_total", MetricType::Counter, "Invalid HTTP/2 frames from clients."},
    {"gateway_http2_timeouts_total", MetricType::Counter,
     "HTTP/2 connections closed because SETTINGS, the end of a header list or the response to a PING did not arrive."},
}};

constexpr std::array<std::string_view, kAbuseCount> kAbuseKinds = {
    "rapid_reset",   "invalid_frames", "refused_streams", "settings",     "ping",        "priority",
    "window_update", "empty_data",     "unknown_frames",  "continuation", "header_list", "control_queue"};

void AddValue(MetricFamily* family, double value) {
  prometheus::ClientMetric& metric = family->metric.emplace_back();
  (family->type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
}

}  // namespace

std::string_view NameOf(Abuse kind) {
  return kind == Abuse::kNone ? std::string_view("none") : kAbuseKinds[static_cast<size_t>(kind)];
}

std::vector<MetricFamily> SessionFamilies(std::span<const SessionMetrics* const> workers) {
  std::vector<MetricFamily> families;
  for (size_t i = 0; i < kCounters.size(); ++i) {
    MetricFamily& family = families.emplace_back();
    family.name = kCounters[i].name;
    family.help = kCounters[i].help;
    family.type = kCounters[i].type;
    int64_t sum = 0;
    for (const SessionMetrics* each : workers) sum += each->Get(static_cast<SessionCounter>(i));
    AddValue(&family, static_cast<double>(sum));
  }
  MetricFamily& abuse = families.emplace_back();
  abuse.name = "gateway_http2_abuse_total";
  abuse.help = "HTTP/2 connections of clients closed with ENHANCE_YOUR_CALM, by what there was too much of.";
  abuse.type = MetricType::Counter;
  for (size_t i = 0; i < kAbuseCount; ++i) {
    int64_t sum = 0;
    for (const SessionMetrics* each : workers) sum += each->Get(static_cast<Abuse>(i));
    AddValue(&abuse, static_cast<double>(sum));
    abuse.metric.back().label.push_back({"kind", std::string(kAbuseKinds[i])});
  }
  return families;
}

}  // namespace gateway::dataplane::http2
