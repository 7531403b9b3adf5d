#include "dataplane/serving_state.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

// What api_requests_total calls a route that matches any path.
constexpr std::string_view kAnyPath = "*";

std::string_view LabelOf(const RoutePolicy& route) {
  return route.pattern.empty() ? kAnyPath : std::string_view(route.pattern);
}

// Of a service of Consul that a consul_service route leads to; no Service has a ':' in its name.
constexpr std::string_view kConsulPrefix = "consul:";

// An endpoint as policy or Consul name it.
struct Candidate {
  std::string host;
  uint16_t port = 0;
  uint32_t weight = 0;
  friend bool operator==(const Candidate&, const Candidate&) = default;
};

bool ParseLiteral(const std::string& host, uint16_t port, sockaddr_storage* address, socklen_t* length) {
  *address = {};
  auto& v4 = reinterpret_cast<sockaddr_in&>(*address);
  auto& v6 = reinterpret_cast<sockaddr_in6&>(*address);
  if (inet_pton(AF_INET, host.c_str(), &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
    v4.sin_port = htons(port);
    *length = sizeof v4;
    return true;
  }
  if (inet_pton(AF_INET6, host.c_str(), &v6.sin6_addr) == 1) {
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(port);
    *length = sizeof v6;
    return true;
  }
  return false;
}

// "10.0.0.7:8080", "[2001:db8::1]:8080": the same for every spelling of an address.
std::string NameOf(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    inet_ntop(AF_INET, &v4.sin_addr, text, sizeof text);
    return std::string(text) + ":" + std::to_string(ntohs(v4.sin_port));
  }
  const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
  inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof text);
  return "[" + std::string(text) + "]:" + std::to_string(ntohs(v6.sin6_port));
}

absl::StatusOr<std::vector<std::string>> ResolveHost(const std::string& host) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_ADDRCONFIG;
  addrinfo* list = nullptr;
  if (const int error = getaddrinfo(host.c_str(), nullptr, &hints, &list); error != 0) {
    return absl::UnavailableError(gai_strerror(error));
  }
  std::vector<std::string> v4, v6;
  for (const addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
    char text[NI_MAXHOST];
    if (getnameinfo(entry->ai_addr, entry->ai_addrlen, text, sizeof text, nullptr, 0, NI_NUMERICHOST) != 0) continue;
    (entry->ai_family == AF_INET ? v4 : v6).emplace_back(text);
  }
  freeaddrinfo(list);
  // `localhost` and many names have an IPv6 address that nothing listens on.
  return v4.empty() ? v6 : v4;
}

bool HasTags(const v1::Instance& instance, const std::vector<std::string>& tags) {
  return std::all_of(tags.begin(), tags.end(), [&](const std::string& tag) {
    return std::find(instance.tags().begin(), instance.tags().end(), tag) != instance.tags().end();
  });
}

bool Serves(const v1::Instance& instance, const std::vector<std::string>& tags) {
  return (instance.health() == v1::Instance::PASSING || instance.health() == v1::Instance::WARNING) &&
         instance.weight() > 0 && instance.port() > 0 && instance.port() <= 65535 && !instance.address().empty() &&
         HasTags(instance, tags);
}

std::string Concatenate(std::initializer_list<std::string_view> parts) {
  std::string text;
  for (const std::string_view part : parts) text.append(part);
  return text;
}

// Something kept under a name, with the last bind that named it.
template <typename T>
struct Kept {
  T value;
  uint64_t generation = 0;
};
template <typename T>
using KeptMap = absl::flat_hash_map<std::string, Kept<T>, StringHash, std::equal_to<>>;

template <typename T>
void DropOlder(KeptMap<T>& map, uint64_t generation) {
  absl::erase_if(map, [generation](const auto& entry) { return entry.second.generation != generation; });
}

struct KeptBreaker {
  std::string service;  // for metrics
  BreakerPolicy policy;
  std::shared_ptr<CircuitBreaker> breaker;
};

struct KeptLimiter {
  RateLimitPolicy policy;
  std::shared_ptr<SlidingWindowLimiter> limiter;
};

struct KeptLeases {
  RateLimitPolicy policy;
  std::shared_ptr<LeaseTable> table;
};

struct Host {
  std::vector<std::string> addresses;  // the last good ones, sorted
  std::optional<TimePoint> asked;
};

// The newest BoundService of one name, and what it was made of.
struct KeptService {
  std::vector<Candidate> candidates;
  bool names_hosts = false;  // then the same candidates may be other endpoints
  BalancePolicy balance;
  std::vector<uint32_t> weights;  // of bound->endpoints
  std::shared_ptr<const BoundService> bound;
};

}  // namespace

std::string KeyOfSet(std::string_view datacenter, std::string_view service) {
  return Concatenate({datacenter, "/", service});
}

struct RuntimeState::Impl {
  MetricsRegistry* metrics;
  Resolver resolver;
  std::function<TimePoint()> clock;

  uint64_t generation = 0;
  uint64_t next_endpoint_id = 1;
  absl::flat_hash_map<std::string, std::shared_ptr<Endpoint>> endpoints;  // by Endpoint::name
  KeptMap<std::shared_ptr<ServiceRuntime>> runtimes;                      // by the Service's name, or "consul:NAME"
  KeptMap<KeptBreaker> breakers;  // by the runtime's name; of a "consul:" one, with the breaker's own name
  KeptMap<KeptLimiter> limiters;  // by the RateLimit's name
  KeptMap<KeptLeases> leases;     // likewise, of those of scope fleet
  KeptMap<KeptService> services;  // by the runtime's name; of a "consul:" one, with the route's name
  KeptMap<Host> hosts;
  std::shared_ptr<const ServingState> previous;
  std::vector<Candidate> candidates;  // of the service at hand; kept for its memory
  TimePoint::duration resolving{};    // in this bind
  size_t hosts_refused = 0;           // in this bind

  struct Rows {
    struct Breaker {
      std::string first;  // the service
      std::string policy;
      std::shared_ptr<CircuitBreaker> breaker;
    };
    std::vector<Breaker> breakers;  // sorted by service
    std::vector<std::pair<std::string, std::shared_ptr<SlidingWindowLimiter>>> limiters;
    std::vector<std::pair<std::string, std::shared_ptr<LeaseTable>>> leases;
  };
  const std::shared_ptr<LeaseLink> lease_link = std::make_shared<LeaseLink>();
  mutable absl::Mutex mutex;
  Rows rows ABSL_GUARDED_BY(mutex);

  std::shared_ptr<ServiceRuntime> FindRuntime(const std::string& key, std::string_view name);
  std::shared_ptr<CircuitBreaker> FindBreaker(std::string_view key, std::string_view service,
                                              const BreakerPolicy& policy);
  std::shared_ptr<SlidingWindowLimiter> FindLimiter(const RateLimitPolicy& policy);
  std::shared_ptr<LeaseTable> FindLeases(const RateLimitPolicy& policy);
  std::shared_ptr<Endpoint> FindEndpoint(const sockaddr_storage& address, socklen_t length);
  const std::vector<std::string>& FindAddresses(const std::string& host);
  void CollectCandidates(const ServicePolicy& policy, const v1::EndpointSet* set);
  void FindEndpoints(KeptService& kept, BoundService* bound);
  std::shared_ptr<const BoundService> BindService(const std::string& key, const ServicePolicy& policy,
                                                  std::shared_ptr<ServiceRuntime> runtime,
                                                  std::shared_ptr<CircuitBreaker> breaker, Discovery discovery);
  std::shared_ptr<const BoundService> BindNamed(const ServicePolicy& policy, const EndpointTable& table);
  void BindDynamic(const RoutePolicy& route, const EndpointTable& table, BoundRoute* bound);
  void PublishRows();
};

std::shared_ptr<ServiceRuntime> RuntimeState::Impl::FindRuntime(const std::string& key, std::string_view name) {
  Kept<std::shared_ptr<ServiceRuntime>>& kept = runtimes[key];
  if (kept.value == nullptr) {
    kept.value = std::make_shared<ServiceRuntime>();
    kept.value->name = name;
    kept.value->metrics_service = metrics->RegisterService(name);
  }
  kept.generation = generation;
  return kept.value;
}

std::shared_ptr<CircuitBreaker> RuntimeState::Impl::FindBreaker(std::string_view key, std::string_view service,
                                                                const BreakerPolicy& policy) {
  auto found = breakers.find(key);
  if (found == breakers.end()) {
    KeptBreaker made{std::string(service), policy, std::make_shared<CircuitBreaker>(policy)};
    found = breakers.emplace(std::string(key), Kept<KeptBreaker>{std::move(made), generation}).first;
  }
  KeptBreaker& kept = found->second.value;
  found->second.generation = generation;
  if (!(kept.policy == policy)) {
    kept.policy = policy;
    kept.breaker->Reconfigure(policy);
  }
  return kept.breaker;
}

std::shared_ptr<SlidingWindowLimiter> RuntimeState::Impl::FindLimiter(const RateLimitPolicy& policy) {
  Kept<KeptLimiter>& kept = limiters[policy.name];
  kept.generation = generation;
  SlidingWindowLimiter::Options options;
  options.requests = policy.requests;
  options.window = policy.window;
  if (kept.value.limiter == nullptr) {
    kept.value.limiter = std::make_shared<SlidingWindowLimiter>(options);
  } else if (kept.value.policy.requests != policy.requests || kept.value.policy.window != policy.window) {
    kept.value.limiter->Reconfigure(options, clock());
  }
  kept.value.policy = policy;
  return kept.value.limiter;
}

std::shared_ptr<LeaseTable> RuntimeState::Impl::FindLeases(const RateLimitPolicy& policy) {
  if (policy.scope != v1::RateLimit::FLEET || policy.mode == v1::RateLimit::DISABLED) return nullptr;
  Kept<KeptLeases>& kept = leases[policy.name];
  kept.generation = generation;
  LeaseTable::Options options;
  options.limit.requests = policy.requests;
  options.limit.window = policy.window;
  options.limit.burst = policy.burst;
  if (policy.algorithm == v1::RateLimit::TOKEN_BUCKET) options.limit.algorithm = FleetAlgorithm::kTokenBucket;
  if (policy.algorithm == v1::RateLimit::FIXED_WINDOW) options.limit.algorithm = FleetAlgorithm::kFixedWindow;
  switch (policy.on_unavailable) {
    case v1::RateLimit::ALLOW:
      options.on_unavailable = LeaseTable::OnUnavailable::kAllow;
      break;
    case v1::RateLimit::DENY:
      options.on_unavailable = LeaseTable::OnUnavailable::kDeny;
      break;
    default:
      options.on_unavailable = LeaseTable::OnUnavailable::kLastShare;
  }
  if (kept.value.table == nullptr) {
    kept.value.table = std::make_shared<LeaseTable>(options, lease_link, clock());
  } else if (!(kept.value.policy == policy)) {
    kept.value.table->Reconfigure(options, clock());
  }
  kept.value.policy = policy;
  return kept.value.table;
}

std::shared_ptr<Endpoint> RuntimeState::Impl::FindEndpoint(const sockaddr_storage& address, socklen_t length) {
  std::string name = NameOf(address);
  std::shared_ptr<Endpoint>& endpoint = endpoints[name];
  if (endpoint == nullptr) {
    endpoint = std::make_shared<Endpoint>();
    endpoint->name = std::move(name);
    endpoint->address = address;
    endpoint->address_length = length;
    endpoint->id = next_endpoint_id++;
  }
  return endpoint;
}

// Of a host that is no literal.
const std::vector<std::string>& RuntimeState::Impl::FindAddresses(const std::string& host) {
  static const std::vector<std::string> none;
  auto found = hosts.find(host);
  if (found == hosts.end()) {
    if (hosts.size() >= kHostsMax) {
      ++hosts_refused;
      return none;
    }
    found = hosts.emplace(host, Kept<Host>()).first;
  }
  Host& entry = found->second.value;
  found->second.generation = generation;
  const TimePoint begin = clock();
  if ((entry.asked && begin - *entry.asked < kResolvePause) || resolving >= kResolveTimeMax) return entry.addresses;
  absl::StatusOr<std::vector<std::string>> addresses = resolver(host);
  entry.asked = clock();
  resolving += *entry.asked - begin;
  if (addresses.ok() && !addresses->empty()) {
    // Sorted, since resolvers rotate their answers and a new order is no news.
    std::sort(addresses->begin(), addresses->end());
    if (addresses->size() > kHostAddressesMax) addresses->resize(kHostAddressesMax);
    entry.addresses = *std::move(addresses);
  } else {
    spdlog::warn("host '{}' cannot be resolved ({}); {}", host,
                 addresses.ok() ? "no address" : std::string(addresses.status().message()),
                 entry.addresses.empty() ? "it has no endpoints" : "its last addresses stay");
  }
  return entry.addresses;
}

void RuntimeState::Impl::CollectCandidates(const ServicePolicy& policy, const v1::EndpointSet* set) {
  size_t count = 0;
  // Assigned in place, so that a bind without news allocates nothing for them.
  const auto add = [&](const std::string& host, uint16_t port, uint32_t weight) {
    if (count == candidates.size()) candidates.emplace_back();
    Candidate& candidate = candidates[count++];
    candidate.host = host;
    candidate.port = port;
    candidate.weight = weight;
  };
  if (!policy.from_consul) {
    for (const StaticAddress& address : policy.addresses) {
      if (address.weight > 0) add(address.host, address.port, address.weight);
    }
  } else if (set != nullptr) {
    for (const v1::Instance& instance : set->instances()) {
      if (Serves(instance, policy.tags)) {
        add(instance.address(), static_cast<uint16_t>(instance.port()), instance.weight());
      }
    }
  }
  candidates.resize(count);
}

// Fills in `bound` the endpoints and the balancer of `candidates`; keeps those of kept.bound that are the same.
void RuntimeState::Impl::FindEndpoints(KeptService& kept, BoundService* bound) {
  std::vector<uint32_t> weights;
  absl::flat_hash_map<const Endpoint*, size_t> seen;
  bool names_hosts = false;
  const auto add = [&](const std::string& host, uint16_t port, uint32_t weight) {
    sockaddr_storage address;
    socklen_t length;
    if (!ParseLiteral(host, port, &address, &length)) return false;
    std::shared_ptr<Endpoint> endpoint = FindEndpoint(address, length);
    // Named twice: one endpoint with both weights, else a retry elsewhere could come back to it.
    const auto [at, added] = seen.emplace(endpoint.get(), bound->endpoints.size());
    if (added) {
      bound->endpoints.push_back(std::move(endpoint));
      weights.push_back(weight);
    } else {
      weights[at->second] = static_cast<uint32_t>(std::min<uint64_t>(uint64_t{weights[at->second]} + weight, ~0u));
    }
    return true;
  };
  for (const Candidate& candidate : candidates) {
    if (add(candidate.host, candidate.port, candidate.weight)) continue;
    names_hosts = true;
    for (const std::string& address : FindAddresses(candidate.host)) add(address, candidate.port, candidate.weight);
  }
  if (!bound->endpoints.empty()) {
    const bool same = kept.bound != nullptr && kept.bound->balancer != nullptr &&
                      kept.balance == bound->policy->balance && kept.weights == weights;
    bound->balancer =
        same ? kept.bound->balancer : std::make_shared<const Balancer>(bound->policy->balance.policy, weights);
  }
  kept.candidates = candidates;
  kept.names_hosts = names_hosts;
  kept.balance = bound->policy->balance;
  kept.weights = std::move(weights);
}

// Of `candidates`. Requires: CollectCandidates was called for this service.
std::shared_ptr<const BoundService> RuntimeState::Impl::BindService(const std::string& key, const ServicePolicy& policy,
                                                                    std::shared_ptr<ServiceRuntime> runtime,
                                                                    std::shared_ptr<CircuitBreaker> breaker,
                                                                    Discovery discovery) {
  Kept<KeptService>& entry = services[key];
  entry.generation = generation;
  KeptService& kept = entry.value;
  auto bound = std::make_shared<BoundService>();
  bound->policy = &policy;
  if (kept.bound != nullptr && !kept.names_hosts && kept.balance == policy.balance && kept.candidates == candidates) {
    bound->endpoints = kept.bound->endpoints;
    bound->balancer = kept.bound->balancer;
  } else {
    FindEndpoints(kept, bound.get());
  }
  for (const std::shared_ptr<Endpoint>& endpoint : bound->endpoints) {
    endpoint->bound_generation.store(generation, std::memory_order_relaxed);
  }
  bound->runtime = std::move(runtime);
  bound->breaker = std::move(breaker);
  bound->discovery = discovery;
  const bool same = kept.bound != nullptr && kept.bound->policy == bound->policy &&
                    kept.bound->runtime == bound->runtime && kept.bound->breaker == bound->breaker &&
                    kept.bound->discovery == discovery && kept.bound->balancer == bound->balancer &&
                    kept.bound->endpoints == bound->endpoints;
  if (!same) kept.bound = std::move(bound);
  return kept.bound;
}

// A Service.
std::shared_ptr<const BoundService> RuntimeState::Impl::BindNamed(const ServicePolicy& policy,
                                                                  const EndpointTable& table) {
  const v1::EndpointSet* set = nullptr;
  Discovery discovery = Discovery::kKnown;
  if (policy.from_consul) {
    const auto found = table.sets.find(KeyOfSet(policy.datacenter, policy.consul_service));
    if (found != table.sets.end()) set = &found->second;
    // The control plane sends a set for each service that policy names, also for one that Consul does not know: without
    // it, nobody has asked Consul yet.
    if (set == nullptr || set->state() == v1::EndpointSet::UNAVAILABLE) discovery = Discovery::kUnavailable;
    if (set != nullptr && set->state() == v1::EndpointSet::UNKNOWN_SERVICE) discovery = Discovery::kUnknownService;
  }
  CollectCandidates(policy, discovery == Discovery::kKnown ? set : nullptr);
  std::shared_ptr<CircuitBreaker> breaker;
  if (policy.breaker != nullptr) breaker = FindBreaker(policy.name, policy.name, *policy.breaker);
  return BindService(policy.name, policy, FindRuntime(policy.name, policy.name), std::move(breaker), discovery);
}

// All services of Consul that a consul_service route may lead to.
void RuntimeState::Impl::BindDynamic(const RoutePolicy& route, const EndpointTable& table, BoundRoute* bound) {
  const ConsulServicePolicy& consul = *route.consul_service;
  // Of the same route of the same snapshot, where there was one: the series are known then.
  const BoundRoute* before = nullptr;
  if (previous != nullptr && route.index < previous->routes.size()) before = &previous->routes[route.index];
  if (before != nullptr && before->policy != &route) before = nullptr;
  bound->unknown_series =
      before != nullptr ? before->unknown_series : metrics->RegisterSeries("unknown", LabelOf(route));
  bound->dynamic.reserve(table.sets.size());
  for (const auto& [set_key, set] : table.sets) {
    const std::string& name = set.key().service();
    if (set.key().datacenter() != consul.service.datacenter) continue;
    if (set.state() == v1::EndpointSet::UNKNOWN_SERVICE || !consul.Allows(name)) continue;
    const Discovery discovery =
        set.state() == v1::EndpointSet::UNAVAILABLE ? Discovery::kUnavailable : Discovery::kKnown;
    CollectCandidates(consul.service, discovery == Discovery::kKnown ? &set : nullptr);
    std::string runtime_key = Concatenate({kConsulPrefix, name});
    std::shared_ptr<CircuitBreaker> breaker;
    if (const BreakerPolicy* policy = consul.service.breaker.get(); policy != nullptr) {
      // Routes may lead to one service with different breakers.
      breaker = FindBreaker(Concatenate({runtime_key, "\n", policy->name}), name, *policy);
    }
    const std::string service_key = Concatenate({runtime_key, "\n", route.name});
    BoundRoute::Dynamic dynamic;
    dynamic.service =
        BindService(service_key, consul.service, FindRuntime(runtime_key, name), std::move(breaker), discovery);
    const BoundRoute::Dynamic* known = nullptr;
    if (before != nullptr) {
      if (const auto found = before->dynamic.find(name); found != before->dynamic.end()) known = &found->second;
    }
    dynamic.series = known != nullptr ? known->series : metrics->RegisterSeries(name, LabelOf(route));
    bound->dynamic.emplace(name, std::move(dynamic));
  }
}

void RuntimeState::Impl::PublishRows() {
  Rows fresh;
  for (const auto& [key, kept] : breakers)
    fresh.breakers.push_back({kept.value.service, kept.value.policy.name, kept.value.breaker});
  for (const auto& [name, kept] : limiters) fresh.limiters.emplace_back(name, kept.value.limiter);
  for (const auto& [name, kept] : leases) fresh.leases.emplace_back(name, kept.value.table);
  const auto by_name = [](const auto& a, const auto& b) { return a.first < b.first; };
  std::sort(fresh.breakers.begin(), fresh.breakers.end(), by_name);
  std::sort(fresh.limiters.begin(), fresh.limiters.end(), by_name);
  std::sort(fresh.leases.begin(), fresh.leases.end(), by_name);
  bool wanted;
  {
    absl::MutexLock lock(&mutex);
    wanted = fresh.leases != rows.leases;
    std::swap(rows, fresh);
  }
  // Whoever talks to the control plane shall have a stream before the first request asks.
  if (wanted) lease_link->Wake();
}

RuntimeState::RuntimeState(MetricsRegistry* metrics, Resolver resolver, std::function<TimePoint()> clock)
    : impl_(std::make_unique<Impl>()) {
  impl_->clock = std::move(clock);
  impl_->metrics = metrics;
  impl_->resolver = resolver ? std::move(resolver) : Resolver(ResolveHost);
}

RuntimeState::~RuntimeState() = default;

std::shared_ptr<const ServingState> RuntimeState::Bind(std::shared_ptr<const Snapshot> snapshot,
                                                       const EndpointTable& table, bool has_policy) {
  Impl& impl = *impl_;
  ++impl.generation;
  impl.resolving = {};
  impl.hosts_refused = 0;
  auto state = std::make_shared<ServingState>();
  state->snapshot = snapshot != nullptr ? std::move(snapshot) : CompileSnapshot({}, CompileOptions()).snapshot;
  state->generation = impl.generation;
  state->endpoints_version = table.version;
  state->has_policy = has_policy;
  state->catalog_known = table.catalog_known;
  const Snapshot& policy = *state->snapshot;

  state->services.reserve(policy.services().size());
  for (const ServicePolicy& service : policy.services()) state->services.push_back(impl.BindNamed(service, table));

  const bool same_snapshot = impl.previous != nullptr && impl.previous->snapshot == state->snapshot;
  state->routes.resize(policy.routes().size());
  for (const std::unique_ptr<const RoutePolicy>& route : policy.routes()) {
    BoundRoute& bound = state->routes[route->index];
    bound.policy = route.get();
    if (route->consul_service != nullptr) {
      impl.BindDynamic(*route, table, &bound);
    } else if (same_snapshot) {
      bound.series = impl.previous->routes[route->index].series;
    } else {
      for (const SplitTarget& target : route->split) {
        bound.series.push_back(impl.metrics->RegisterSeries(policy.services()[target.service].name, LabelOf(*route)));
      }
    }
  }

  for (const RateLimitPolicy& limit : policy.rate_limits()) {
    state->limits.push_back({&limit, impl.FindLimiter(limit), impl.FindLeases(limit)});
  }

  absl::erase_if(impl.endpoints, [&](const auto& entry) {
    return entry.second->bound_generation.load(std::memory_order_relaxed) != impl.generation;
  });
  DropOlder(impl.runtimes, impl.generation);
  DropOlder(impl.breakers, impl.generation);
  DropOlder(impl.limiters, impl.generation);
  DropOlder(impl.leases, impl.generation);
  DropOlder(impl.services, impl.generation);
  DropOlder(impl.hosts, impl.generation);
  if (impl.hosts_refused > 0) {
    spdlog::warn("{} endpoints are left out: there are more than {} host names", impl.hosts_refused, kHostsMax);
  }
  impl.PublishRows();
  impl.previous = state;
  return state;
}

std::vector<RuntimeState::BreakerRow> RuntimeState::Breakers(TimePoint now) const {
  std::vector<BreakerRow> result;
  absl::MutexLock lock(&impl_->mutex);
  for (const auto& [service, policy, breaker] : impl_->rows.breakers) {
    const CircuitBreaker::View view = breaker->view(now);
    if (result.empty() || result.back().service != service) {
      result.push_back({service, policy, view});
      continue;
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
  }
  return result;
}

std::vector<RuntimeState::LimitRow> RuntimeState::Limits() const {
  std::vector<LimitRow> result;
  absl::MutexLock lock(&impl_->mutex);
  for (const auto& [name, limiter] : impl_->rows.limiters) {
    std::shared_ptr<const LeaseTable> leases;
    for (const auto& [other, table] : impl_->rows.leases) {
      if (other == name) leases = table;
    }
    result.push_back({name, limiter->stats(), std::move(leases)});
  }
  return result;
}

std::vector<std::pair<std::string, std::shared_ptr<LeaseTable>>> RuntimeState::Leases() const {
  absl::MutexLock lock(&impl_->mutex);
  return impl_->rows.leases;
}

const std::shared_ptr<LeaseLink>& RuntimeState::lease_link() const { return impl_->lease_link; }

std::vector<RuntimeState::Exclusion> RuntimeState::Exclusions(TimePoint) const { return {}; }

}  // namespace gateway::dataplane
