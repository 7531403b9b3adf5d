#include "dataplane/config/config_metrics.h"

#include <utility>

#include "prometheus/client_metric.h"
#include "prometheus/metric_type.h"

namespace gateway::dataplane {
namespace {

prometheus::MetricFamily Metric(const char* name, const char* help, prometheus::MetricType type, double value) {
  prometheus::MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  family.metric.resize(1);
  family.metric[0].gauge.value = value;
  family.metric[0].counter.value = value;
  return family;
}

}  // namespace

void ConfigMetrics::SetServed(const Served& served) {
  absl::MutexLock lock(&mutex_);
  values_.served = served;
}

void ConfigMetrics::SetLacksKeys(bool lacks_keys) {
  absl::MutexLock lock(&mutex_);
  values_.served.lacks_keys = lacks_keys;
}

void ConfigMetrics::SetConnected(bool connected) {
  absl::MutexLock lock(&mutex_);
  values_.connected = connected;
}

void ConfigMetrics::SetDrained(bool drained) {
  absl::MutexLock lock(&mutex_);
  values_.drained = drained;
}

void ConfigMetrics::CountAttempt() {
  absl::MutexLock lock(&mutex_);
  ++values_.attempts;
}

void ConfigMetrics::CountApplied(UpdateKind kind, std::chrono::nanoseconds time) {
  absl::MutexLock lock(&mutex_);
  ++Of(values_, kind).applied;
  values_.last_applied = std::chrono::system_clock::now();
  values_.last_apply_time = time;
}

void ConfigMetrics::CountRejected(UpdateKind kind) {
  absl::MutexLock lock(&mutex_);
  ++Of(values_, kind).rejected;
}

ConfigMetrics::Served ConfigMetrics::served() const {
  absl::MutexLock lock(&mutex_);
  return values_.served;
}

bool ConfigMetrics::connected() const {
  absl::MutexLock lock(&mutex_);
  return values_.connected;
}

std::vector<prometheus::MetricFamily> ConfigMetrics::Families(uint64_t cache_write_errors) const {
  using prometheus::MetricType;
  Values values;
  {
    absl::MutexLock lock(&mutex_);
    values = values_;
  }
  std::vector<prometheus::MetricFamily> families;
  const auto add = [&families](const char* name, const char* help, MetricType type, double value) {
    families.push_back(Metric(name, help, type, value));
  };
  add("gateway_config_revision", "The revision that every worker serves.", MetricType::Gauge,
      static_cast<double>(values.served.revision));
  add("gateway_config_endpoints_version", "The version of the endpoints that every worker serves.", MetricType::Gauge,
      static_cast<double>(values.served.endpoints_version));
  add("gateway_config_connected", "1 while there is a stream from a control plane.", MetricType::Gauge,
      values.connected ? 1 : 0);
  add("gateway_config_ready", "1 once a policy is served.", MetricType::Gauge, values.served.ready ? 1 : 0);
  add("gateway_drained", "1 while an operator has drained this data plane.", MetricType::Gauge, values.drained ? 1 : 0);
  add("gateway_config_stream_attempts_total", "Tries to connect to a control plane.", MetricType::Counter,
      static_cast<double>(values.attempts));
  add("gateway_config_last_applied_timestamp_seconds", "When the newest update was served by every worker; 0: never.",
      MetricType::Gauge, std::chrono::duration<double>(values.last_applied.time_since_epoch()).count());
  add("gateway_config_last_apply_seconds", "From the last chunk of the newest update to the last worker.",
      MetricType::Gauge, std::chrono::duration<double>(values.last_apply_time).count());
  add("gateway_config_cache_write_errors_total", "Writes of the disk cache that failed.", MetricType::Counter,
      static_cast<double>(cache_write_errors));

  prometheus::MetricFamily updates;
  updates.name = "gateway_config_updates_total";
  updates.help = "Updates received in full, by kind and result.";
  updates.type = MetricType::Counter;
  const auto count = [&updates](const char* kind, const char* result, uint64_t value) {
    prometheus::ClientMetric metric;
    metric.label = {{"kind", kind}, {"result", result}};
    metric.counter.value = static_cast<double>(value);
    updates.metric.push_back(std::move(metric));
  };
  count("policy", "applied", values.policy.applied);
  count("policy", "rejected", values.policy.rejected);
  count("endpoints", "applied", values.endpoints.applied);
  count("endpoints", "rejected", values.endpoints.rejected);
  families.push_back(std::move(updates));
  return families;
}

}  // namespace gateway::dataplane
