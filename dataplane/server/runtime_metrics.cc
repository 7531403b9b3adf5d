#include "dataplane/server/runtime_metrics.h"

#include <array>
#include <string>
#include <utility>

namespace gateway::dataplane {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

void AddRow(MetricFamily* family, std::vector<ClientMetric::Label> labels, double value) {
  ClientMetric metric;
  metric.label = std::move(labels);
  if (family->type == MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  family->metric.push_back(std::move(metric));
}

void AddRow(MetricFamily* family, std::string label, std::string name, double value) {
  std::vector<ClientMetric::Label> labels;
  if (!label.empty()) labels.push_back({std::move(label), std::move(name)});
  AddRow(family, std::move(labels), value);
}

}  // namespace

std::vector<MetricFamily> RuntimeFamilies(const RuntimeState& runtime, const AccessLog* log) {
  MetricFamily state{"gateway_breaker_state", "0 closed, 1 open, 2 half-open", MetricType::Gauge, {}};
  MetricFamily in_flight{"gateway_breaker_in_flight", "Requests that a breaker has let through", MetricType::Gauge, {}};
  MetricFamily opened{"gateway_breaker_opened_total", "How often a breaker opened", MetricType::Counter, {}};
  for (const RuntimeState::BreakerRow& row : runtime.Breakers(std::chrono::steady_clock::now())) {
    AddRow(&state, "service", row.service, static_cast<double>(row.view.state));
    AddRow(&in_flight, "service", row.service, row.view.in_flight);
    AddRow(&opened, "service", row.service, static_cast<double>(row.view.opened));
  }
  MetricFamily keys{"gateway_rate_limit_keys", "Buckets of a limit that are remembered", MetricType::Gauge, {}};
  MetricFamily evicted{
      "gateway_rate_limit_evicted_total", "Recovered buckets that were dropped", MetricType::Counter, {}};
  MetricFamily overflowed{
      "gateway_rate_limit_overflowed_total", "Requests counted in a limit's overflow bucket", MetricType::Counter, {}};
  MetricFamily limited{"gateway_rate_limit_requests_total",
                       "Decisions of limits: allowed, refused, or would have refused (a shadow). When several are "
                       "checked together and one of them refuses, the others count nothing",
                       MetricType::Counter,
                       {}};
  const auto add_result = [&limited](const std::string& limit, const char* result, uint64_t count) {
    ClientMetric metric;
    metric.label = {{"limit", limit}, {"result", result}};
    metric.counter.value = static_cast<double>(count);
    limited.metric.push_back(std::move(metric));
  };
  for (const RuntimeState::LimitRow& row : runtime.Limits()) {
    add_result(row.name, "allowed", row.stats.allowed);
    add_result(row.name, "refused", row.stats.refused);
    add_result(row.name, "shadow_refused", row.stats.shadow_refused);
    AddRow(&keys, "limit", row.name, static_cast<double>(row.stats.keys));
    AddRow(&evicted, "limit", row.name, static_cast<double>(row.stats.evicted));
    AddRow(&overflowed, "limit", row.name, static_cast<double>(row.stats.overflowed));
  }
  MetricFamily excluded{"gateway_endpoint_excluded",
                        "Endpoints that get no requests though their service has them",
                        MetricType::Gauge,
                        {}};
  MetricFamily ejections{
      "gateway_outlier_ejections_total", "How often an endpoint was taken out", MetricType::Counter, {}};
  MetricFamily checks{"gateway_health_checks_total", "Active checks made", MetricType::Counter, {}};
  MetricFamily panic{"gateway_service_panic",
                     "1 while too few endpoints are usable and exclusions are ignored",
                     MetricType::Gauge,
                     {}};
  for (const RuntimeState::HealthRow& row : runtime.Health()) {
    AddRow(&excluded, {{"service", row.service}, {"reason", "unhealthy"}}, static_cast<double>(row.unhealthy));
    AddRow(&excluded, {{"service", row.service}, {"reason", "ejected"}}, static_cast<double>(row.ejected));
    AddRow(&ejections, "service", row.service, static_cast<double>(row.ejections));
    AddRow(&checks, {{"service", row.service}, {"result", "passed"}}, static_cast<double>(row.checks_passed));
    AddRow(&checks, {{"service", row.service}, {"result", "failed"}}, static_cast<double>(row.checks_failed));
    AddRow(&panic, "service", row.service, row.panicking ? 1 : 0);
  }
  std::vector<MetricFamily> families = {
      std::move(state),      std::move(in_flight), std::move(opened),    std::move(keys),   std::move(evicted),
      std::move(overflowed), std::move(excluded),  std::move(ejections), std::move(checks), std::move(panic)};
  MetricFamily in_use{
      "gateway_service_in_use", "Connections of a service with limits that are in use", MetricType::Gauge, {}};
  MetricFamily pending{
      "gateway_service_pending", "Requests that wait for a connection of their service", MetricType::Gauge, {}};
  MetricFamily refused{
      "gateway_service_refused_total", "Requests beyond the limits of their service", MetricType::Counter, {}};
  for (const RuntimeState::BulkheadRow& row : runtime.Bulkheads()) {
    AddRow(&in_use, "service", row.service, row.view.in_use);
    AddRow(&pending, "service", row.service, row.view.pending);
    AddRow(&refused, "service", row.service, static_cast<double>(row.view.refused));
  }
  families.push_back(std::move(limited));
  families.push_back(std::move(in_use));
  families.push_back(std::move(pending));
  families.push_back(std::move(refused));
  MetricFamily auths{"gateway_auth_total", "Requests on routes with an Auth, by how it ended", MetricType::Counter, {}};
  constexpr std::array<const char*, kAuthResultCount> kResults = {"allowed", "unauthenticated", "forbidden",
                                                                  "overloaded", "throttled"};
  for (const auto& auth : runtime.Auths()) {
    for (size_t i = 0; i < kAuthResultCount; ++i) {
      ClientMetric metric;
      metric.label = {{"auth", auth->name()}, {"result", kResults[i]}};
      metric.counter.value = static_cast<double>(auth->Sum(static_cast<AuthResult>(i)));
      auths.metric.push_back(std::move(metric));
    }
  }
  MetricFamily fetches{"gateway_jwks_fetches_total", "Fetches of a key set", MetricType::Counter, {}};
  MetricFamily ages{"gateway_jwks_age_seconds", "Since the newest good fetch of a key set", MetricType::Gauge, {}};
  for (const KeyFetcher::Row& row : runtime.keys().Rows()) {
    for (const bool failed : {false, true}) {
      ClientMetric metric;
      metric.label = {{"url", row.url}, {"result", failed ? "failure" : "success"}};
      metric.counter.value = static_cast<double>(failed ? row.failures : row.fetches - row.failures);
      fetches.metric.push_back(std::move(metric));
    }
    if (row.has_keys) AddRow(&ages, "url", row.url, row.age_seconds);
  }
  for (MetricFamily* family : {&auths, &fetches, &ages}) {
    if (!family->metric.empty()) families.push_back(std::move(*family));
  }
  if (log != nullptr) {
    MetricFamily dropped{"gateway_access_log_dropped_lines_total",
                         "Lines that were lost to a slow reader or an error",
                         MetricType::Counter,
                         {}};
    MetricFamily errors{
        "gateway_access_log_write_errors_total", "Failed writes of the access log", MetricType::Counter, {}};
    AddRow(&dropped, "", "", static_cast<double>(log->dropped_lines()));
    AddRow(&errors, "", "", static_cast<double>(log->write_errors()));
    families.push_back(std::move(dropped));
    families.push_back(std::move(errors));
  }
  return families;
}

std::vector<MetricFamily> PasswordFamilies(const PasswordPool& passwords) {
  const PasswordPool::Stats stats = passwords.stats();
  if (stats.checks + stats.remembered + stats.overloaded + stats.throttled == 0) return {};
  MetricFamily checks{"gateway_password_checks_total",
                      "Passwords: checked against their hash, found in the cache, rejected because the queue was full, "
                      "or rejected because too many of the same client's were wrong (throttled)",
                      MetricType::Counter,
                      {}};
  AddRow(&checks, "result", "checked", static_cast<double>(stats.checks));
  AddRow(&checks, "result", "remembered", static_cast<double>(stats.remembered));
  AddRow(&checks, "result", "overloaded", static_cast<double>(stats.overloaded));
  AddRow(&checks, "result", "throttled", static_cast<double>(stats.throttled));
  MetricFamily queued{"gateway_password_checks_queued", "Passwords that wait to be checked", MetricType::Gauge, {}};
  AddRow(&queued, "", "", static_cast<double>(stats.queued));
  return {std::move(checks), std::move(queued)};
}

}  // namespace gateway::dataplane
