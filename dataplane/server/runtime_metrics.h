// Breakers, limits, the endpoints' health and the access log as metric families.
#ifndef GATEWAY_DATAPLANE_SERVER_RUNTIME_METRICS_H_
#define GATEWAY_DATAPLANE_SERVER_RUNTIME_METRICS_H_

#include <vector>

#include "dataplane/state/runtime_state.h"
#include "dataplane/telemetry/access_log.h"
#include "prometheus/metric_family.h"

namespace gateway::dataplane {

// gateway_breaker_*{service}, gateway_rate_limit_*{limit}, gateway_auth_total{auth,result}, gateway_jwks_*{url},
// gateway_endpoint_excluded{service,reason}, gateway_outlier_ejections_total{service},
// gateway_health_checks_total{service,result}, gateway_service_*{service}, gateway_access_log_*. `log` may be null.
// Thread-safe.
std::vector<prometheus::MetricFamily> RuntimeFamilies(const RuntimeState& runtime, const AccessLog* log);

// gateway_password_checks_total{result}, gateway_password_checks_queued; nothing while no password was ever checked.
// Thread-safe.
std::vector<prometheus::MetricFamily> PasswordFamilies(const PasswordPool& passwords);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_SERVER_RUNTIME_METRICS_H_
