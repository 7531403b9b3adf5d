// Services of a snapshot, bound to their endpoints, breakers, bulkheads, ejectors and health checks.
#ifndef GATEWAY_DATAPLANE_STATE_SERVICE_BINDING_H_
#define GATEWAY_DATAPLANE_STATE_SERVICE_BINDING_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/time.h"
#include "common/policy/snapshot.h"
#include "dataplane/policy/circuit_breaker.h"
#include "dataplane/policy/outlier_ejector.h"
#include "dataplane/state/endpoint_binding.h"
#include "dataplane/state/endpoint_table.h"
#include "dataplane/state/kept.h"
#include "dataplane/state/serving_state.h"
#include "dataplane/telemetry/metrics.h"
#include "dataplane/upstream/health_checker.h"

namespace gateway::dataplane {

// What api_requests_total calls the paths of a route: its pattern, or "*".
std::string_view LabelOf(const RoutePolicy& route);

// Keeps the runtime of each service, its breakers, and its newest BoundService. The configuration thread's.
class ServiceBinder {
 public:
  // Both pointers must outlive it.
  ServiceBinder(MetricsRegistry* metrics, EndpointBinder* endpoints, std::function<TimePoint()> clock)
      : metrics_(metrics), endpoints_(endpoints), clock_(std::move(clock)) {}

  // A bind starts, after EndpointBinder::Begin.
  void Begin(uint64_t generation) { generation_ = generation; }
  // A Service.
  std::shared_ptr<const BoundService> Bind(const ServicePolicy& policy, const EndpointTable& table);
  // All services of Consul that a consul_service route may lead to. `before`: the same route of the same snapshot, if
  // there was one; its series are used again.
  void BindDynamic(const RoutePolicy& route, const EndpointTable& table, const BoundRoute* before, BoundRoute* bound);
  void DropOlder();

  // Whether endpoints to check, or their checks, have changed since the last call.
  bool TakeHealthChanged() { return std::exchange(health_changed_, false); }
  HealthTargets Targets() const;
  bool any_ejector() const;

  // For those who report: services by their runtime's name.
  struct Row {
    const BoundService* service;
    const std::vector<RuntimeState::HostRow>* hosts;
    bool checked;  // actively
  };
  std::vector<Row> rows() const;
  struct BreakerRow {
    std::string service;
    std::string breaker;  // the policy's name
    std::shared_ptr<CircuitBreaker> value;
  };
  std::vector<BreakerRow> breakers() const;
  std::vector<std::shared_ptr<const ServiceRuntime>> runtimes() const;

 private:
  struct KeptBreaker {
    std::string service;  // for metrics
    BreakerPolicy policy;
    std::shared_ptr<CircuitBreaker> breaker;
  };
  // The newest BoundService of one name, and what it was made from.
  struct KeptService {
    KeptEndpoints endpoints;
    std::shared_ptr<const HealthCheckPolicy> health_check;
    std::shared_ptr<const OutlierPolicy> outlier;
    std::shared_ptr<OutlierEjector> ejector;
    std::shared_ptr<const BoundService> bound;
  };
  struct Parts {
    std::shared_ptr<ServiceRuntime> runtime;
    std::shared_ptr<CircuitBreaker> breaker;
    Discovery discovery = Discovery::kKnown;
  };

  std::shared_ptr<ServiceRuntime> GetOrCreateRuntime(const std::string& key, std::string_view name);
  std::shared_ptr<CircuitBreaker> GetOrCreateBreaker(std::string_view key, std::string_view service,
                                                     const BreakerPolicy& policy);
  std::shared_ptr<const BoundService> BindParts(const std::string& key, const ServicePolicy& policy,
                                                const std::vector<Candidate>& candidates, Parts parts);
  void BindHealth(KeptService& kept, BoundService* bound);

  MetricsRegistry* const metrics_;
  EndpointBinder* const endpoints_;
  const std::function<TimePoint()> clock_;
  uint64_t generation_ = 0;
  KeptMap<std::shared_ptr<ServiceRuntime>> runtimes_;  // by the Service's name, or "consul:NAME"
  KeptMap<KeptBreaker> breakers_;  // by the runtime's name; of a "consul:" one, with the breaker's own name
  KeptMap<KeptService> services_;  // by the runtime's name; of a "consul:" one, with the route's name
  bool health_changed_ = false;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_STATE_SERVICE_BINDING_H_
