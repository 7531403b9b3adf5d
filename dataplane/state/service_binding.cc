#include "dataplane/state/service_binding.h"

#include <utility>

#include "common/base/text.h"

namespace gateway::dataplane {
namespace {

// Of a service of Consul that a consul_service route leads to; the name of a Service never has a ':'.
constexpr std::string_view kConsulPrefix = "consul:";

OutlierEjector::Options OptionsOf(const OutlierPolicy& policy) {
  OutlierEjector::Options options;
  options.consecutive_failures = policy.consecutive_failures;
  options.consecutive_gateway_failures = policy.consecutive_gateway_failures;
  options.stdev_factor = policy.by_success_rate ? policy.deviations : 0;
  options.hosts_min = policy.min_endpoints;
  options.volume_min = policy.min_requests;
  options.interval = policy.interval;
  options.base_time = policy.base_time;
  options.max_time = policy.max_time;
  options.max_percent = policy.max_percent;
  return options;
}

template <typename T>
bool SameValue(const std::shared_ptr<const T>& a, const std::shared_ptr<const T>& b) {
  return a == b || (a != nullptr && b != nullptr && *a == *b);
}

}  // namespace

std::string_view LabelOf(const RoutePolicy& route) {
  return route.pattern.empty() ? std::string_view("*") : std::string_view(route.pattern);
}

std::shared_ptr<ServiceRuntime> ServiceBinder::GetOrCreateRuntime(const std::string& key, std::string_view name) {
  Kept<std::shared_ptr<ServiceRuntime>>& kept = runtimes_[key];
  if (kept.value == nullptr) {
    kept.value = std::make_shared<ServiceRuntime>();
    kept.value->name = name;
    kept.value->metrics_service = metrics_->RegisterService(name);
  }
  kept.generation = generation_;
  return kept.value;
}

std::shared_ptr<CircuitBreaker> ServiceBinder::GetOrCreateBreaker(std::string_view key, std::string_view service,
                                                                  const BreakerPolicy& policy) {
  auto found = breakers_.find(key);
  if (found == breakers_.end()) {
    KeptBreaker made{std::string(service), policy, std::make_shared<CircuitBreaker>(policy)};
    found = breakers_.emplace(std::string(key), Kept<KeptBreaker>{std::move(made), generation_}).first;
  }
  KeptBreaker& kept = found->second.value;
  found->second.generation = generation_;
  if (!(kept.policy == policy)) {
    kept.policy = policy;
    kept.breaker->Reconfigure(policy);
  }
  return kept.breaker;
}

std::shared_ptr<const BoundService> ServiceBinder::BindParts(const std::string& key, const ServicePolicy& policy,
                                                             const std::vector<Candidate>& candidates, Parts parts) {
  Kept<KeptService>& entry = services_[key];
  entry.generation = generation_;
  KeptService& kept = entry.value;
  const BoundEndpoints& endpoints = endpoints_->Bind(policy, candidates, &kept.endpoints);
  auto bound = std::make_shared<BoundService>();
  bound->policy = &policy;
  bound->endpoints = endpoints.all;
  bound->balancer = endpoints.balancer;
  bound->sessions = endpoints.sessions;
  bound->runtime = std::move(parts.runtime);
  bound->breaker = std::move(parts.breaker);
  if (policy.limits != nullptr) {
    std::shared_ptr<Bulkhead>& bulkhead = bound->runtime->bulkhead;
    if (bulkhead == nullptr) {
      bulkhead = std::make_shared<Bulkhead>(*policy.limits);
    } else if (kept.bound == nullptr || kept.bound->policy != &policy) {
      bulkhead->Reconfigure(*policy.limits);
    }
    bound->bulkhead = bulkhead;
  }
  bound->discovery = parts.discovery;
  BindHealth(kept, bound.get());
  const bool same = kept.bound != nullptr && kept.bound->policy == bound->policy &&
                    kept.bound->ejector == bound->ejector && kept.bound->runtime == bound->runtime &&
                    kept.bound->breaker == bound->breaker && kept.bound->discovery == bound->discovery &&
                    kept.bound->balancer == bound->balancer && kept.bound->endpoints == bound->endpoints;
  if (!same) kept.bound = std::move(bound);
  return kept.bound;
}

// What watches the endpoints, as policy asks for it now.
void ServiceBinder::BindHealth(KeptService& kept, BoundService* bound) {
  const bool same_balancer = kept.bound != nullptr && kept.bound->balancer == bound->balancer;
  if (!SameValue(kept.health_check, bound->policy->health_check) ||
      (!same_balancer && (kept.health_check != nullptr || bound->policy->health_check != nullptr))) {
    health_changed_ = true;
  }
  kept.health_check = bound->policy->health_check;
  const std::shared_ptr<const OutlierPolicy>& outlier = bound->policy->outlier;
  if (outlier == nullptr) {
    if (kept.ejector != nullptr) kept.ejector->ReleaseAll(clock_());
    kept.ejector = nullptr;
  } else if (kept.ejector == nullptr) {
    kept.ejector = std::make_shared<OutlierEjector>(OptionsOf(*outlier));
    health_changed_ = true;
  } else if (!SameValue(kept.outlier, outlier)) {
    kept.ejector->Reconfigure(OptionsOf(*outlier));
  }
  const bool fresh = kept.outlier == nullptr && outlier != nullptr;
  kept.outlier = outlier;
  if (kept.ejector != nullptr && (fresh || !same_balancer)) {
    std::vector<OutlierEjector::Member> members;
    members.reserve(bound->endpoints.size());
    for (size_t i = 0; i < bound->endpoints.size(); ++i) {
      members.push_back({bound->endpoints[i]->name, bound->balancer->members()[i].state});
    }
    kept.ejector->SetMembers(members);
  }
  bound->ejector = kept.ejector;
}

std::shared_ptr<const BoundService> ServiceBinder::Bind(const ServicePolicy& policy, const EndpointTable& table) {
  const v1::EndpointSet* set = nullptr;
  Discovery discovery = Discovery::kKnown;
  if (policy.from_consul) {
    const auto found = table.sets.find(KeyOfSet(policy.datacenter, policy.consul_service));
    if (found != table.sets.end()) set = &found->second;
    // The control plane sends a set for each service that policy names, also for one that Consul does not know: without
    // it, Consul has not been read yet.
    if (set == nullptr || set->state() == v1::EndpointSet::UNAVAILABLE) discovery = Discovery::kUnavailable;
    if (set != nullptr && set->state() == v1::EndpointSet::UNKNOWN_SERVICE) discovery = Discovery::kUnknownService;
  }
  std::shared_ptr<CircuitBreaker> breaker;
  if (policy.breaker != nullptr) breaker = GetOrCreateBreaker(policy.name, policy.name, *policy.breaker);
  return BindParts(
      policy.name, policy,
      endpoints_->Collect(policy, policy.name, discovery == Discovery::kKnown ? set : nullptr, table.overrides),
      {GetOrCreateRuntime(policy.name, policy.name), std::move(breaker), discovery});
}

void ServiceBinder::BindDynamic(const RoutePolicy& route, const EndpointTable& table, const BoundRoute* before,
                                BoundRoute* bound) {
  const ConsulServicePolicy& consul = *route.consul_service;
  bound->unknown_series =
      before != nullptr ? before->unknown_series : metrics_->RegisterSeries("unknown", LabelOf(route));
  bound->dynamic.reserve(table.sets.size());
  for (const auto& [set_key, set] : table.sets) {
    const std::string& name = set.key().service();
    if (set.key().datacenter() != consul.service.datacenter) continue;
    if (set.state() == v1::EndpointSet::UNKNOWN_SERVICE || !consul.Allows(name)) continue;
    const Discovery discovery =
        set.state() == v1::EndpointSet::UNAVAILABLE ? Discovery::kUnavailable : Discovery::kKnown;
    std::string runtime_key = Concat(kConsulPrefix, name);
    std::shared_ptr<CircuitBreaker> breaker;
    if (const BreakerPolicy* policy = consul.service.breaker.get(); policy != nullptr) {
      // Routes may lead to one service with different breakers.
      breaker = GetOrCreateBreaker(Concat(runtime_key, "\n", policy->name), name, *policy);
    }
    const std::string service_key = Concat(runtime_key, "\n", route.name);
    BoundRoute::Dynamic dynamic;
    dynamic.service = BindParts(
        service_key, consul.service,
        endpoints_->Collect(consul.service, name, discovery == Discovery::kKnown ? &set : nullptr, table.overrides),
        {GetOrCreateRuntime(runtime_key, name), std::move(breaker), discovery});
    const BoundRoute::Dynamic* known = nullptr;
    if (before != nullptr) {
      if (const auto found = before->dynamic.find(name); found != before->dynamic.end()) known = &found->second;
    }
    dynamic.series = known != nullptr ? known->series : metrics_->RegisterSeries(name, LabelOf(route));
    bound->dynamic.emplace(name, std::move(dynamic));
  }
}

void ServiceBinder::DropOlder() {
  dataplane::DropOlder(runtimes_, generation_);
  dataplane::DropOlder(breakers_, generation_);
  const size_t before = services_.size();
  dataplane::DropOlder(services_, generation_);
  if (services_.size() != before) health_changed_ = true;
}

HealthTargets ServiceBinder::Targets() const {
  HealthTargets targets;
  for (const auto& [key, kept] : services_) {
    const KeptService& service = kept.value;
    if (service.health_check == nullptr) continue;
    for (size_t i = 0; i < service.bound->endpoints.size(); ++i) {
      const Endpoint& endpoint = *service.bound->endpoints[i];
      targets.push_back({service.bound->runtime->name, endpoint.name, endpoint.address, endpoint.address_length,
                         service.bound->balancer->members()[i].state, service.health_check, endpoint.tls,
                         endpoint.protocol});
    }
  }
  return targets;
}

bool ServiceBinder::any_ejector() const {
  for (const auto& [key, kept] : services_) {
    if (kept.value.ejector != nullptr) return true;
  }
  return false;
}

std::vector<ServiceBinder::Row> ServiceBinder::rows() const {
  std::vector<Row> all;
  all.reserve(services_.size());
  for (const auto& [key, kept] : services_) {
    all.push_back({kept.value.bound.get(), &kept.value.endpoints.hosts, kept.value.health_check != nullptr});
  }
  return all;
}

std::vector<ServiceBinder::BreakerRow> ServiceBinder::breakers() const {
  std::vector<BreakerRow> all;
  all.reserve(breakers_.size());
  for (const auto& [key, kept] : breakers_) {
    all.push_back({kept.value.service, kept.value.policy.name, kept.value.breaker});
  }
  return all;
}

std::vector<std::shared_ptr<const ServiceRuntime>> ServiceBinder::runtimes() const {
  std::vector<std::shared_ptr<const ServiceRuntime>> all;
  all.reserve(runtimes_.size());
  for (const auto& [key, kept] : runtimes_) all.push_back(kept.value);
  return all;
}

}  // namespace gateway::dataplane
