#include "dataplane/state/runtime_state.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <tuple>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "common/base/text.h"
#include "dataplane/state/auth_binding.h"
#include "dataplane/state/endpoint_binding.h"
#include "dataplane/state/limit_binding.h"
#include "dataplane/state/service_binding.h"
#include "dataplane/upstream/health_checker.h"

namespace gateway::dataplane {
namespace {

std::string ReasonOf(const OutlierEjector::Row& row, TimePoint now) {
  const auto left = std::max<int64_t>(0, std::chrono::ceil<std::chrono::seconds>(row.until - now).count());
  std::string text;
  switch (row.cause) {
    case OutlierEjector::Cause::kFailures:
      text = Concat("ejected: ", row.count, " failures in a row");
      break;
    case OutlierEjector::Cause::kGatewayFailures:
      text = Concat("ejected: ", row.count, " gateway failures in a row");
      break;
    case OutlierEjector::Cause::kSuccessRate:
      text = Concat("ejected: ", row.count, "% of its requests succeeded, far below the others");
      break;
  }
  return Concat(text, ", ", left, "s left");
}

bool AnyAsksRedis(const Snapshot& policy, const std::vector<uint32_t>& limits) {
  return std::any_of(limits.begin(), limits.end(),
                     [&policy](uint32_t limit) { return policy.rate_limits()[limit].scope == v1::RateLimit::REDIS; });
}

}  // namespace

struct RuntimeState::Impl {
  Impl(MetricsRegistry* metrics, const Options& options)
      : metrics(metrics),
        endpoints({.zone = options.zone, .clock = options.clock, .find_host = options.find_host}),
        services(metrics, &endpoints, options.clock),
        limits(options.clock, lease_link),
        auths(options.keys) {}

  std::vector<MetricId> SeriesOf(const RoutePolicy& route, const Snapshot& policy);
  void BindRoutes(const EndpointTable& table, ServingState* state);
  void PublishRows();
  void FollowHealth();
  void Tick(TimePoint now);

  MetricsRegistry* const metrics;
  const std::shared_ptr<LeaseLink> lease_link = std::make_shared<LeaseLink>();
  uint64_t generation = 0;
  std::shared_ptr<const ServingState> previous;
  EndpointBinder endpoints;
  ServiceBinder services;
  LimitBinder limits;
  AuthBinder auths;

  // What the last bind left, for the readers on other threads.
  struct Rows {
    std::vector<ServiceBinder::BreakerRow> breakers;  // sorted by service
    std::vector<LimitBinder::Limiter> limiters;
    std::vector<std::pair<std::string, std::shared_ptr<LeaseTable>>> leases;
    std::vector<std::pair<std::string, std::shared_ptr<Bulkhead>>> bulkheads;
    std::vector<std::pair<std::string, std::shared_ptr<OutlierEjector>>> ejectors;           // by the service's name
    std::vector<std::pair<std::string, std::shared_ptr<const EndpointBalancer>>> balancers;  // of services with either
    std::vector<std::shared_ptr<const AuthRuntime>> auths;
    std::vector<HostRow> hosts;
    struct FromConsul {
      std::string datacenter, service;
      MetricId metrics;
    };
    std::vector<FromConsul> from_consul;
  };
  mutable absl::Mutex mutex;
  Rows rows ABSL_GUARDED_BY(mutex);

  // Last: its thread ends before what it calls goes.
  std::unique_ptr<HealthChecker> checker ABSL_GUARDED_BY(mutex);  // made with the first service that needs one
};

RuntimeState::RuntimeState(MetricsRegistry* metrics, Options options)
    : impl_(std::make_unique<Impl>(metrics, options)) {}

RuntimeState::~RuntimeState() = default;

void RuntimeState::OnHostsChanged(std::function<void()> call) { impl_->endpoints.OnHostsChanged(std::move(call)); }

std::shared_ptr<const ServingState> RuntimeState::Bind(std::shared_ptr<const Snapshot> snapshot,
                                                       const EndpointTable& table, bool has_policy) {
  Impl& impl = *impl_;
  ++impl.generation;
  auto state = std::make_shared<ServingState>();
  state->snapshot = snapshot != nullptr ? std::move(snapshot) : CompileSnapshot({}, CompileOptions()).snapshot;
  state->generation = impl.generation;
  state->endpoints_version = table.version;
  state->has_policy = has_policy;
  state->catalog_known = table.catalog_known;
  const Snapshot& policy = *state->snapshot;

  impl.endpoints.Begin(policy, table, impl.generation);
  impl.services.Begin(impl.generation);
  state->services.reserve(policy.services().size());
  for (const ServicePolicy& service : policy.services()) state->services.push_back(impl.services.Bind(service, table));
  state->identity_fields = IdentityFields(policy.identity_fields());
  state->auths.reserve(policy.auths().size());
  for (const std::shared_ptr<const AuthPolicy>& auth : policy.auths()) {
    state->auths.push_back(impl.auths.Bind(auth, impl.generation));
  }
  impl.BindRoutes(table, state.get());
  for (const RateLimitPolicy& limit : policy.rate_limits()) {
    state->limits.push_back(impl.limits.Bind(limit, impl.generation));
    state->asks_redis = state->asks_redis || limit.scope == v1::RateLimit::REDIS;
  }

  impl.endpoints.DropOlder();
  impl.services.DropOlder();
  impl.limits.DropOlder(impl.generation);
  impl.auths.DropOlder(impl.generation);
  impl.PublishRows();
  impl.FollowHealth();
  impl.previous = state;
  impl.metrics->DropRemoved();
  return state;
}

void RuntimeState::Impl::BindRoutes(const EndpointTable& table, ServingState* state) {
  const Snapshot& policy = *state->snapshot;
  const bool same_snapshot = previous != nullptr && previous->snapshot == state->snapshot;
  absl::flat_hash_map<const AuthPolicy*, const BoundAuth*> bound_auths;
  for (size_t i = 0; i < policy.auths().size(); ++i) {
    bound_auths.emplace(policy.auths()[i].get(), state->auths[i].get());
  }
  state->routes.resize(policy.routes().size());
  for (const std::unique_ptr<const RoutePolicy>& route : policy.routes()) {
    BoundRoute& bound = state->routes[route->index];
    const BoundRoute* const before = same_snapshot ? &previous->routes[route->index] : nullptr;
    bound.policy = route.get();
    if (table.watched_routes.contains(route->name)) {
      bound.watched = metrics->RegisterWatchedRoute(route->name, policy.revision());
    }
    if (const auto sides = table.watched_sides.find(route->name); sides != table.watched_sides.end()) {
      bound.watched_version = sides->second;
      for (const SplitTarget& target : route->split) {
        bound.watched_sides.push_back(
            metrics->RegisterWatchedSide(route->name, sides->second, policy.services()[target.service].name));
      }
    }
    bound.limits_ask_redis = AnyAsksRedis(policy, route->rate_limits);
    bound.identity_limits_ask_redis = AnyAsksRedis(policy, route->identity_limits);
    if (route->auth != nullptr) bound.auth = bound_auths.at(route->auth.get());
    if (route->consul_service != nullptr) {
      services.BindDynamic(*route, table, before, &bound);
    } else {
      bound.series = before != nullptr ? before->series : SeriesOf(*route, policy);
    }
  }
}

std::vector<MetricId> RuntimeState::Impl::SeriesOf(const RoutePolicy& route, const Snapshot& policy) {
  std::vector<MetricId> series;
  if (route.redirect != nullptr || route.respond != nullptr) {
    series.push_back(metrics->RegisterSeries("gateway", LabelOf(route)));
    return series;
  }
  for (const SplitTarget& target : route.split) {
    series.push_back(metrics->RegisterSeries(policy.services()[target.service].name, LabelOf(route)));
  }
  return series;
}

void RuntimeState::Impl::PublishRows() {
  Rows fresh;
  fresh.auths = auths.auths();
  fresh.breakers = services.breakers();
  fresh.limiters = limits.limiters();
  fresh.leases = limits.leases();
  for (const std::shared_ptr<const ServiceRuntime>& runtime : services.runtimes()) {
    if (runtime->bulkhead != nullptr) fresh.bulkheads.emplace_back(runtime->name, runtime->bulkhead);
  }
  for (const ServiceBinder::Row& row : services.rows()) {
    const BoundService& service = *row.service;
    const std::string& name = service.runtime->name;
    for (const HostRow& host : *row.hosts) fresh.hosts.push_back({name, host.address, host.endpoints});
    const ServicePolicy& policy = *service.policy;
    if (policy.from_consul) {
      // Of a route by consul_service, the policy is the same for all services.
      fresh.from_consul.push_back({policy.datacenter, policy.consul_service.empty() ? name : policy.consul_service,
                                   service.runtime->metrics_service});
    }
    if (service.ejector != nullptr) fresh.ejectors.emplace_back(name, service.ejector);
    if (service.balancer != nullptr && (service.ejector != nullptr || row.checked)) {
      fresh.balancers.emplace_back(name, service.balancer);
    }
  }
  const auto first = [](const auto& row) -> const std::string& { return row.first; };
  std::ranges::sort(fresh.breakers, {}, &ServiceBinder::BreakerRow::service);
  std::ranges::sort(fresh.bulkheads, {}, first);
  const auto place = [](const HostRow& row) { return std::tuple(!row.endpoints.empty(), row.service, row.address); };
  std::ranges::sort(fresh.hosts, {}, place);
  // Routes may lead to one service of Consul with settings of their own.
  const auto alike = [&place](const HostRow& a, const HostRow& b) { return place(a) == place(b); };
  fresh.hosts.erase(std::unique(fresh.hosts.begin(), fresh.hosts.end(), alike), fresh.hosts.end());
  bool wanted;
  {
    absl::MutexLock lock(&mutex);
    wanted = fresh.leases != rows.leases;
    std::swap(rows, fresh);
  }
  // The lease stream should be there before the first request needs it.
  if (wanted) lease_link->Wake();
}

// Tells the health checker which endpoints to check, if that has changed.
void RuntimeState::Impl::FollowHealth() {
  if (!services.TakeHealthChanged()) return;
  HealthTargets targets = services.Targets();
  HealthChecker* follower = nullptr;
  {
    absl::MutexLock lock(&mutex);
    if (checker == nullptr && (services.any_ejector() || !targets.empty())) {
      checker = std::make_unique<HealthChecker>([this](TimePoint now) { Tick(now); });
    }
    follower = checker.get();
  }
  if (follower != nullptr) follower->Follow(std::move(targets));
}

// On the health checker's thread.
void RuntimeState::Impl::Tick(TimePoint now) {
  std::vector<std::pair<std::string, std::shared_ptr<OutlierEjector>>> ejectors;
  {
    absl::MutexLock lock(&mutex);
    ejectors = rows.ejectors;
  }
  for (const auto& [service, ejector] : ejectors) (void)ejector->Tick(now);
}

std::vector<RuntimeState::WatchedRow> RuntimeState::WatchedRoutes() const {
  std::vector<WatchedRow> rows;
  if (impl_->previous == nullptr) return rows;
  for (const BoundRoute& route : impl_->previous->routes) {
    if (route.watched == WorkerShard::kNotWatched) continue;
    rows.push_back(
        {route.policy->name, impl_->previous->snapshot->revision(), impl_->metrics->FiguresOf(route.watched)});
  }
  std::sort(rows.begin(), rows.end(), [](const WatchedRow& a, const WatchedRow& b) { return a.route < b.route; });
  return rows;
}

std::vector<RuntimeState::SidesRow> RuntimeState::WatchedSides() const {
  std::vector<SidesRow> rows;
  if (impl_->previous == nullptr) return rows;
  const ServingState& state = *impl_->previous;
  for (const BoundRoute& route : state.routes) {
    if (route.watched_sides.empty()) continue;
    SidesRow& row = rows.emplace_back(SidesRow{route.policy->name, route.watched_version, {}});
    for (size_t i = 0; i < route.watched_sides.size(); ++i) {
      row.sides.push_back({state.snapshot->services()[route.policy->split[i].service].name,
                           impl_->metrics->FiguresOfSide(route.watched_sides[i])});
    }
  }
  std::sort(rows.begin(), rows.end(), [](const SidesRow& a, const SidesRow& b) { return a.route < b.route; });
  return rows;
}

std::vector<RuntimeState::BreakerRow> RuntimeState::Breakers(TimePoint now) const {
  std::vector<BreakerRow> result;
  absl::MutexLock lock(&impl_->mutex);
  for (const auto& [service, policy, breaker] : impl_->rows.breakers) {
    const CircuitBreaker::View view = breaker->view(now);
    const std::chrono::milliseconds next_probe = breaker->RetryAfter(now);
    if (result.empty() || result.back().service != service) {
      result.push_back({service, policy, view, next_probe});
      continue;
    }
    if (view.state != BreakerState::kClosed) {
      std::chrono::milliseconds& soonest = result.back().next_probe;
      soonest = result.back().view.state == BreakerState::kClosed ? next_probe : std::min(soonest, next_probe);
    }
    CircuitBreaker::View& sum = result.back().view;
    const auto badness = [](BreakerState state) {
      return state == BreakerState::kOpen ? 2 : state == BreakerState::kHalfOpen ? 1 : 0;
    };
    if (badness(view.state) > badness(sum.state)) sum.state = view.state;
    sum.in_flight += view.in_flight;
    sum.requests += view.requests;
    sum.failures += view.failures;
    sum.slow += view.slow;
    sum.forced = sum.forced || view.forced;
    sum.opened += view.opened;
    sum.opening_requests += view.opening_requests;
    sum.opening_failures += view.opening_failures;
    sum.opening_slow += view.opening_slow;
  }
  return result;
}

std::vector<RuntimeState::BulkheadRow> RuntimeState::Bulkheads() const {
  std::vector<BulkheadRow> result;
  absl::MutexLock lock(&impl_->mutex);
  for (const auto& [service, bulkhead] : impl_->rows.bulkheads) result.push_back({service, bulkhead->view()});
  return result;
}

std::vector<RuntimeState::LimitRow> RuntimeState::Limits() const {
  std::vector<LimitRow> result;
  absl::MutexLock lock(&impl_->mutex);
  for (const auto& [name, limiter, redis] : impl_->rows.limiters) {
    std::shared_ptr<const LeaseTable> leases;
    for (const auto& [other, table] : impl_->rows.leases) {
      if (other == name) leases = table;
    }
    result.push_back({name, limiter->stats(), std::move(leases), redis});
  }
  return result;
}

std::vector<RuntimeState::ExclusionRow> RuntimeState::Exclusions(TimePoint now) const {
  std::vector<ExclusionRow> result;
  {
    absl::MutexLock lock(&impl_->mutex);
    for (const auto& [service, ejector] : impl_->rows.ejectors) {
      for (const OutlierEjector::Row& row : ejector->Ejected()) {
        result.push_back({service, row.endpoint, Exclusion::kEjected, ReasonOf(row, now)});
      }
    }
    if (impl_->checker != nullptr) {
      for (HealthChecker::Row& row : impl_->checker->Unhealthy()) {
        result.push_back({std::move(row.service), std::move(row.endpoint), Exclusion::kUnhealthy,
                          Concat("active check failed: ", row.failure)});
      }
    }
  }
  std::sort(result.begin(), result.end(), [](const ExclusionRow& a, const ExclusionRow& b) {
    return std::tie(a.service, a.endpoint, a.by, a.reason) < std::tie(b.service, b.endpoint, b.by, b.reason);
  });
  return result;
}

std::vector<RuntimeState::HostRow> RuntimeState::Hosts() const {
  absl::MutexLock lock(&impl_->mutex);
  return impl_->rows.hosts;
}

std::vector<RuntimeState::HealthRow> RuntimeState::Health() const {
  // Services of Consul may be reached by several routes with settings of their own: one row for all.
  std::map<std::string, HealthRow> by_service;
  {
    absl::MutexLock lock(&impl_->mutex);
    for (const auto& [service, balancer] : impl_->rows.balancers) {
      HealthRow& row = by_service[service];
      row.panicking = row.panicking || balancer->panicking();
    }
    for (const auto& [service, ejector] : impl_->rows.ejectors) {
      HealthRow& row = by_service[service];
      row.ejected += ejector->Ejected().size();
      row.ejections += ejector->ejections();
    }
    if (impl_->checker != nullptr) {
      for (const HealthChecker::Row& each : impl_->checker->Unhealthy()) ++by_service[each.service].unhealthy;
      for (const HealthChecker::Count& each : impl_->checker->Counts()) {
        by_service[each.service].checks_passed += each.passed;
        by_service[each.service].checks_failed += each.failed;
      }
    }
  }
  std::vector<HealthRow> result;
  result.reserve(by_service.size());
  for (auto& [service, row] : by_service) {
    row.service = service;
    result.push_back(std::move(row));
  }
  return result;
}

std::vector<RuntimeState::TrafficRow> RuntimeState::Traffic() const {
  std::vector<TrafficRow> result;
  absl::MutexLock lock(&impl_->mutex);
  result.reserve(impl_->rows.from_consul.size());
  for (const auto& [datacenter, service, metrics] : impl_->rows.from_consul) {
    result.push_back({datacenter, service, impl_->metrics->RequestsOf(metrics)});
  }
  return result;
}

std::vector<std::shared_ptr<const AuthRuntime>> RuntimeState::Auths() const {
  absl::MutexLock lock(&impl_->mutex);
  return impl_->rows.auths;
}

KeyFetcher& RuntimeState::keys() const { return impl_->auths.fetcher(); }

std::vector<std::pair<std::string, std::shared_ptr<LeaseTable>>> RuntimeState::Leases() const {
  absl::MutexLock lock(&impl_->mutex);
  return impl_->rows.leases;
}

const std::shared_ptr<LeaseLink>& RuntimeState::lease_link() const { return impl_->lease_link; }

}  // namespace gateway::dataplane
