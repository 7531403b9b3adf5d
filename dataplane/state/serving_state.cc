#include "dataplane/state/serving_state.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <optional>
#include <system_error>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "common/base/digest.h"
#include "common/base/endpoint_name.h"
#include "common/base/hash.h"
#include "common/base/text.h"
#include "dataplane/upstream/health_checker.h"
#include "dataplane/upstream/host_resolver.h"
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
  bool local = false;     // in this data plane's zone
  bool draining = false;  // by an operator; then of weight 0
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

bool IsLiteral(const std::string& host) {
  sockaddr_storage address;
  socklen_t length;
  return ParseLiteral(host, 0, &address, &length);
}

bool HasTags(const v1::Instance& instance, const std::vector<std::string>& tags) {
  return std::all_of(tags.begin(), tags.end(), [&](const std::string& tag) {
    return std::find(instance.tags().begin(), instance.tags().end(), tag) != instance.tags().end();
  });
}

// Whatever its weight.
bool MayServe(const v1::Instance& instance, const std::vector<std::string>& tags) {
  return (instance.health() == v1::Instance::PASSING || instance.health() == v1::Instance::WARNING) &&
         instance.unusable().empty() && instance.port() > 0 && instance.port() <= 65535 &&
         !instance.address().empty() && HasTags(instance, tags);
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
  std::shared_ptr<RateLimiter> limiter;
};

struct KeptLeases {
  RateLimitPolicy policy;
  std::shared_ptr<LeaseTable> table;
};

// The newest BoundService of one name, and what it was made of.
// A Service's TLS: what sets its connections apart from others', and what they are made with.
struct BoundTls {
  std::string key;
  std::shared_ptr<const tls::ClientContext> context;  // null: it can't be made
};

// How a service's endpoints are spoken to.
struct Transport {
  const BoundTls* tls = nullptr;  // null: cleartext
  UpstreamProtocol protocol = UpstreamProtocol::kHttp1;
};

struct KeptService {
  std::vector<Candidate> candidates;
  bool names_hosts = false;                  // then the same candidates may be other endpoints
  std::vector<RuntimeState::HostRow> hosts;  // the names among them; without the service's own
  BalancePolicy balance;
  std::shared_ptr<const UpstreamTlsPolicy> tls;
  UpstreamProtocol protocol = UpstreamProtocol::kHttp1;
  std::string session_key;
  std::shared_ptr<const HealthCheckPolicy> health_check;
  std::shared_ptr<const OutlierPolicy> outlier;
  std::shared_ptr<OutlierEjector> ejector;
  std::shared_ptr<EndpointGroup> group = std::make_shared<EndpointGroup>();
  std::shared_ptr<const BoundService> bound;
};

Balance BalanceOf(v1::LoadBalancer::Policy policy) {
  switch (policy) {
    case v1::LoadBalancer::RANDOM:
      return Balance::kRandom;
    case v1::LoadBalancer::WEIGHTED:
      return Balance::kWeighted;
    case v1::LoadBalancer::LEAST_REQUEST:
      return Balance::kLeastRequest;
    case v1::LoadBalancer::PEAK_EWMA:
      return Balance::kPeakEwma;
    case v1::LoadBalancer::RING_HASH:
      return Balance::kRingHash;
    case v1::LoadBalancer::MAGLEV:
      return Balance::kMaglev;
    default:
      return Balance::kRoundRobin;
  }
}

EndpointBalancer::Options OptionsOf(const BalancePolicy& policy) {
  EndpointBalancer::Options options;
  options.balance = BalanceOf(policy.policy);
  options.panic_percent = policy.panic_percent;
  options.slow_start = policy.slow_start;
  options.load_bound_percent = policy.hash_balance_percent;
  options.prefer_local = policy.prefer_zone;
  options.zone_min_percent = policy.zone_min_percent;
  return options;
}

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

std::string RandomKey() {
  std::string key(32, '\0');
  // Never short for so few bytes, and fails on no kernel that this runs on (getrandom(2)).
  if (getrandom(key.data(), key.size(), 0) != static_cast<ssize_t>(key.size())) {
    throw std::system_error(errno, std::generic_category(), "getrandom");
  }
  return key;
}

// What sets one kind of connection apart from another.
std::string KeyOf(const UpstreamTlsPolicy& policy) {
  return Concat(policy.server_name, "\n", static_cast<int>(policy.verify), policy.tls13_only ? "3" : "2", "\n",
                Hex(Sha256(policy.ca_pem)), policy.certificate.empty() ? "" : "\n",
                policy.certificate.empty() ? "" : Hex(Sha256(Concat(policy.certificate_pem, "\n", policy.key_pem))));
}

std::string_view AlpnOf(UpstreamProtocol protocol) {
  switch (protocol) {
    case UpstreamProtocol::kHttp1:
      break;
    case UpstreamProtocol::kHttp2:
      return tls::kAlpnHttp2;
    case UpstreamProtocol::kAuto:
      return tls::kAlpnEither;
  }
  return tls::kAlpnHttp1;
}

template <typename T>
bool SameValue(const std::shared_ptr<const T>& a, const std::shared_ptr<const T>& b) {
  return a == b || (a != nullptr && b != nullptr && *a == *b);
}

}  // namespace

LimitAlgorithm AlgorithmOf(v1::RateLimit::Algorithm algorithm) {
  switch (algorithm) {
    case v1::RateLimit::TOKEN_BUCKET:
      return LimitAlgorithm::kTokenBucket;
    case v1::RateLimit::FIXED_WINDOW:
      return LimitAlgorithm::kFixedWindow;
    default:
      return LimitAlgorithm::kSlidingWindow;
  }
}

std::string KeyOfSet(std::string_view datacenter, std::string_view service) {
  return Concatenate({datacenter, "/", service});
}

struct RuntimeState::Impl {
  Impl(MetricsRegistry* metrics, Options options)
      : metrics(metrics),
        options(std::move(options)),
        wall_offset(std::chrono::system_clock::now().time_since_epoch() - this->options.clock().time_since_epoch()),
        resolver({}) {}

  MetricsRegistry* const metrics;
  const Options options;
  const std::chrono::nanoseconds wall_offset;  // of the wall clock against `clock`, when this was made

  uint64_t generation = 0;
  uint64_t next_endpoint_id = 1;
  absl::flat_hash_map<std::string, std::shared_ptr<Endpoint>> endpoints;  // by Endpoint::name, and its TLS
  KeptMap<std::shared_ptr<const tls::ClientContext>> tls_contexts;        // by the policy's KeyOf
  KeptMap<std::shared_ptr<ServiceRuntime>> runtimes;                      // by the Service's name, or "consul:NAME"
  KeptMap<KeptBreaker> breakers;  // by the runtime's name; of a "consul:" one, with the breaker's own name
  KeptMap<KeptLimiter> limiters;  // by the RateLimit's name
  KeptMap<KeptLeases> leases;     // likewise, of those of scope fleet
  KeptMap<KeptService> services;  // by the runtime's name; of a "consul:" one, with the route's name
  KeptMap<std::shared_ptr<AuthRuntime>> auths;      // by the Auth's name
  KeptMap<std::shared_ptr<KeySource>> inline_keys;  // by the digest of the set's text
  std::unique_ptr<KeyFetcher> fetcher;
  TimePoint host_deadline{};    // of this bind
  bool health_changed = false;  // in this bind: other endpoints to check, or other checks
  const std::string own_key = RandomKey();
  std::string session_key;  // of this bind
  std::shared_ptr<const ServingState> previous;
  std::vector<Candidate> candidates;  // of the service at hand; kept for its memory

  struct Rows {
    struct Breaker {
      std::string service;
      std::string policy;
      std::shared_ptr<CircuitBreaker> breaker;
    };
    std::vector<Breaker> breakers;  // sorted by service
    struct Limiter {
      std::string name;
      std::shared_ptr<RateLimiter> limiter;
      bool redis;  // scope
    };
    std::vector<Limiter> limiters;
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
  const std::shared_ptr<LeaseLink> lease_link = std::make_shared<LeaseLink>();
  mutable absl::Mutex mutex;
  Rows rows ABSL_GUARDED_BY(mutex);

  // Last: their threads end before what they call goes.
  HostResolver resolver;
  std::unique_ptr<HealthChecker> checker ABSL_GUARDED_BY(mutex);  // made with the first service that needs one

  std::shared_ptr<ServiceRuntime> FindRuntime(const std::string& key, std::string_view name);
  std::shared_ptr<CircuitBreaker> FindBreaker(std::string_view key, std::string_view service,
                                              const BreakerPolicy& policy);
  std::shared_ptr<RateLimiter> FindLimiter(const RateLimitPolicy& policy);
  std::shared_ptr<LeaseTable> FindLeases(const RateLimitPolicy& policy);
  // `host`: what the endpoint is called in policy or in Consul.
  std::shared_ptr<Endpoint> FindEndpoint(const sockaddr_storage& address, socklen_t length, const std::string& host,
                                         const Transport& transport);
  BoundTls BindTls(const UpstreamTlsPolicy& policy);
  std::shared_ptr<const std::vector<std::string>> FindAddresses(const std::string& host);
  void NameHosts(const Snapshot& policy, const EndpointTable& table);
  // `name`: what operators call the service, beside its name in Consul.
  void CollectCandidates(const ServicePolicy& policy, std::string_view name, const v1::EndpointSet* set,
                         const OverrideTable& overrides);
  void FindEndpoints(KeptService& kept, const Transport& transport, BoundService* bound);
  void BindHealth(KeptService& kept, BoundService* bound);
  void FollowHealth();
  void Tick(TimePoint now);
  std::shared_ptr<const BoundService> BindService(const std::string& key, const ServicePolicy& policy,
                                                  std::shared_ptr<ServiceRuntime> runtime,
                                                  std::shared_ptr<CircuitBreaker> breaker, Discovery discovery);
  std::shared_ptr<const BoundService> BindNamed(const ServicePolicy& policy, const EndpointTable& table);
  void BindDynamic(const RoutePolicy& route, const EndpointTable& table, BoundRoute* bound);
  std::shared_ptr<const BoundAuth> BindAuth(const std::shared_ptr<const AuthPolicy>& policy);
  std::shared_ptr<KeySource> FindKeys(const AuthMethodPolicy& method);
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

std::shared_ptr<RateLimiter> RuntimeState::Impl::FindLimiter(const RateLimitPolicy& policy) {
  Kept<KeptLimiter>& kept = limiters[policy.name];
  kept.generation = generation;
  RateLimiter::Options options;
  options.requests = policy.requests;
  options.window = policy.window;
  options.burst = policy.burst;
  options.wall_offset = wall_offset;
  options.algorithm = AlgorithmOf(policy.algorithm);
  if (kept.value.limiter == nullptr) {
    kept.value.limiter = std::make_shared<RateLimiter>(options);
  } else if (kept.value.policy.requests != policy.requests || kept.value.policy.window != policy.window ||
             kept.value.policy.burst != policy.burst || kept.value.policy.algorithm != policy.algorithm) {
    kept.value.limiter->Reconfigure(options, this->options.clock());
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
    kept.value.table = std::make_shared<LeaseTable>(options, lease_link, this->options.clock());
  } else if (!(kept.value.policy == policy)) {
    kept.value.table->Reconfigure(options, this->options.clock());
  }
  kept.value.policy = policy;
  return kept.value.table;
}

BoundTls RuntimeState::Impl::BindTls(const UpstreamTlsPolicy& policy) {
  std::string key = KeyOf(policy);
  Kept<std::shared_ptr<const tls::ClientContext>>& kept = tls_contexts[key];
  kept.generation = generation;
  if (kept.value == nullptr) {
    auto context = tls::ClientContext::Create(policy);
    if (context.ok()) {
      kept.value = *std::move(context);
    } else {
      spdlog::error("TLS to a service can't be set up: {}", std::string(context.status().message()));
    }
  }
  return {std::move(key), kept.value};
}

std::shared_ptr<Endpoint> RuntimeState::Impl::FindEndpoint(const sockaddr_storage& address, socklen_t length,
                                                           const std::string& host, const Transport& transport) {
  std::string name = NameOf(address);
  const BoundTls* const tls = transport.tls;
  // Connections and sessions never cross to another trust, name or protocol: that makes another endpoint.
  std::string key = tls == nullptr ? name : Concat(name, "\n", host, "\n", tls->key);
  if (transport.protocol != UpstreamProtocol::kHttp1) Append(&key, "\n", static_cast<int>(transport.protocol));
  std::shared_ptr<Endpoint>& endpoint = endpoints[key];
  if (endpoint == nullptr) {
    endpoint = std::make_shared<Endpoint>();
    endpoint->protocol = transport.protocol;
    if (tls != nullptr) {
      endpoint->tls = std::make_shared<tls::EndpointTls>(tls->context, host, AlpnOf(transport.protocol));
    }
    endpoint->name = std::move(name);
    endpoint->address = address;
    endpoint->address_length = length;
    endpoint->id = next_endpoint_id++;
  }
  return endpoint;
}

// Tells the resolver every host that is named, so that new ones are looked up at the same time.
void RuntimeState::Impl::NameHosts(const Snapshot& policy, const EndpointTable& table) {
  if (options.find_host) return;
  absl::flat_hash_set<std::string> hosts;
  for (const ServicePolicy& service : policy.services()) {
    for (const StaticAddress& address : service.addresses) {
      if (!IsLiteral(address.host)) hosts.insert(address.host);
    }
  }
  for (const auto& [key, set] : table.sets) {
    for (const v1::Instance& instance : set.instances()) {
      if (!instance.address().empty() && !IsLiteral(instance.address())) hosts.insert(instance.address());
    }
  }
  host_deadline = std::chrono::steady_clock::now() + kHostWait;
  if (!resolver.Name(hosts)) {
    spdlog::warn("endpoints are left out: there are more than {} host names", HostTable::kHostsMax);
  }
}

// Of a host that is no literal.
std::shared_ptr<const std::vector<std::string>> RuntimeState::Impl::FindAddresses(const std::string& host) {
  return options.find_host ? options.find_host(host) : resolver.Find(host, host_deadline);
}

void RuntimeState::Impl::CollectCandidates(const ServicePolicy& policy, std::string_view name,
                                           const v1::EndpointSet* set, const OverrideTable& overrides) {
  size_t count = 0;
  const auto find = [&](std::string_view service, const std::string& endpoint) -> const OverrideTable::Override* {
    const auto found = overrides.by_endpoint.find(std::pair(std::string(service), endpoint));
    return found == overrides.by_endpoint.end() ? nullptr : &found->second;
  };
  // Assigned in place, so that a bind without news allocates nothing for them.
  const auto add = [&](const std::string& host, uint16_t port, uint32_t weight, const std::string& zone) {
    bool draining = false;
    if (!overrides.by_endpoint.empty()) {
      const std::string endpoint = EndpointName(host, port);
      const OverrideTable::Override* override = find(name, endpoint);
      if (override == nullptr && policy.from_consul && policy.datacenter.empty() && set != nullptr) {
        override = find(set->key().service(), endpoint);
      }
      if (override != nullptr) {
        draining = override->action == v1::EndpointOverride::kDrain;
        weight = draining ? 0 : override->weight;
      }
    }
    // One that drains is of use to sessions alone.
    if (weight == 0 && (!draining || policy.balance.session_cookie.empty())) return;
    if (count == candidates.size()) candidates.emplace_back();
    Candidate& candidate = candidates[count++];
    candidate.host = host;
    candidate.port = port;
    candidate.weight = weight;
    candidate.local = !zone.empty() && zone == options.zone;
    candidate.draining = draining;
  };
  if (!policy.from_consul) {
    for (const StaticAddress& address : policy.addresses) add(address.host, address.port, address.weight, address.zone);
  } else if (set != nullptr) {
    for (const v1::Instance& instance : set->instances()) {
      if (MayServe(instance, policy.tags)) {
        add(instance.address(), static_cast<uint16_t>(instance.port()), instance.weight(), instance.zone());
      }
    }
  }
  candidates.resize(count);
}

// Fills in `bound` the endpoints and the balancer of `candidates`; keeps those of kept.bound that are the same, and
// what is remembered of each endpoint.
void RuntimeState::Impl::FindEndpoints(KeptService& kept, const Transport& transport, BoundService* bound) {
  std::vector<EndpointBalancer::Member> members;
  absl::flat_hash_map<const Endpoint*, size_t> seen;
  bool names_hosts = false;
  kept.hosts.clear();
  const auto add = [&](const std::string& host, uint16_t port, const Candidate& candidate) {
    sockaddr_storage address;
    socklen_t length;
    if (!ParseLiteral(host, port, &address, &length)) return false;
    std::shared_ptr<Endpoint> endpoint = FindEndpoint(address, length, candidate.host, transport);
    // Named twice: one endpoint with both weights, else a retry elsewhere could come back to it.
    const auto [at, added] = seen.emplace(endpoint.get(), bound->endpoints.size());
    if (added) {
      EndpointBalancer::Member member;
      member.weight = candidate.weight;
      member.identity = StableHash(endpoint->name);
      member.local = candidate.local;
      member.draining = candidate.draining;
      members.push_back(std::move(member));
      bound->endpoints.push_back(std::move(endpoint));
    } else {
      uint32_t& weight = members[at->second].weight;
      weight = static_cast<uint32_t>(std::min<uint64_t>(uint64_t{weight} + candidate.weight, ~0u));
    }
    return true;
  };
  for (const Candidate& candidate : candidates) {
    if (add(candidate.host, candidate.port, candidate)) continue;
    names_hosts = true;
    RuntimeState::HostRow& row = kept.hosts.emplace_back();
    row.address = Concat(candidate.host, ":", candidate.port);
    const auto addresses = FindAddresses(candidate.host);
    if (addresses == nullptr) continue;
    for (const std::string& address : *addresses) {
      sockaddr_storage parsed;
      socklen_t length;
      if (!add(address, candidate.port, candidate)) continue;
      if (ParseLiteral(address, candidate.port, &parsed, &length)) row.endpoints.push_back(NameOf(parsed));
    }
  }
  absl::flat_hash_map<const Endpoint*, std::shared_ptr<EndpointState>> known;
  const EndpointBalancer* before = kept.bound != nullptr ? kept.bound->balancer.get() : nullptr;
  if (before != nullptr) {
    known.reserve(before->members().size());
    for (size_t i = 0; i < before->members().size(); ++i) {
      known.emplace(kept.bound->endpoints[i].get(), before->members()[i].state);
    }
  }
  // Those that a service begins with are no newcomers among others.
  const int64_t since =
      before == nullptr
          ? EndpointState::kAlways
          : std::chrono::duration_cast<std::chrono::nanoseconds>(options.clock().time_since_epoch()).count();
  for (size_t i = 0; i < members.size(); ++i) {
    const auto found = known.find(bound->endpoints[i].get());
    members[i].state = found != known.end() ? found->second : std::make_shared<EndpointState>(kept.group, since);
  }
  if (!bound->endpoints.empty()) {
    const bool same = before != nullptr && kept.balance == bound->policy->balance && before->members() == members;
    bound->balancer = same ? kept.bound->balancer
                           : std::make_shared<const EndpointBalancer>(OptionsOf(bound->policy->balance), kept.group,
                                                                      std::move(members));
  }
  if (!bound->policy->balance.session_cookie.empty()) {
    auto sessions = std::make_shared<SessionTable>();
    const KeyedDigest digest(session_key);
    for (const std::shared_ptr<Endpoint>& endpoint : bound->endpoints) {
      std::string value = Hex(digest.Of({bound->policy->balance.session_cookie, endpoint->name})).substr(0, 32);
      sessions->indices.emplace(value, static_cast<uint32_t>(sessions->values.size()));
      sessions->values.push_back(std::move(value));
    }
    bound->sessions = std::move(sessions);
  }
  kept.candidates = candidates;
  kept.names_hosts = names_hosts;
  kept.balance = bound->policy->balance;
  kept.tls = bound->policy->tls;
  kept.protocol = bound->policy->protocol;
  kept.session_key = session_key;
}

// What watches the endpoints, as policy asks for it now.
void RuntimeState::Impl::BindHealth(KeptService& kept, BoundService* bound) {
  const bool same_balancer = kept.bound != nullptr && kept.bound->balancer == bound->balancer;
  if (!SameValue(kept.health_check, bound->policy->health_check) ||
      (!same_balancer && (kept.health_check != nullptr || bound->policy->health_check != nullptr))) {
    health_changed = true;
  }
  kept.health_check = bound->policy->health_check;
  const std::shared_ptr<const OutlierPolicy>& outlier = bound->policy->outlier;
  if (outlier == nullptr) {
    if (kept.ejector != nullptr) kept.ejector->ReleaseAll(options.clock());
    kept.ejector = nullptr;
  } else if (kept.ejector == nullptr) {
    kept.ejector = std::make_shared<OutlierEjector>(OptionsOf(*outlier));
    health_changed = true;
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

// Tells the health checker whom to check, where that has changed.
void RuntimeState::Impl::FollowHealth() {
  if (!std::exchange(health_changed, false)) return;
  HealthTargets targets;
  bool any_ejector = false;
  for (const auto& [key, kept] : services) {
    const KeptService& service = kept.value;
    any_ejector = any_ejector || service.ejector != nullptr;
    if (service.health_check == nullptr) continue;
    for (size_t i = 0; i < service.bound->endpoints.size(); ++i) {
      const Endpoint& endpoint = *service.bound->endpoints[i];
      targets.push_back({service.bound->runtime->name, endpoint.name, endpoint.address, endpoint.address_length,
                         service.bound->balancer->members()[i].state, service.health_check, endpoint.tls,
                         endpoint.protocol});
    }
  }
  HealthChecker* follower = nullptr;
  {
    absl::MutexLock lock(&mutex);
    if (checker == nullptr && (any_ejector || !targets.empty())) {
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
  std::optional<BoundTls> tls;
  if (policy.tls != nullptr) tls = BindTls(*policy.tls);
  if (kept.bound != nullptr && !kept.names_hosts && kept.balance == policy.balance && kept.session_key == session_key &&
      SameValue(kept.tls, policy.tls) && kept.protocol == policy.protocol && kept.candidates == candidates) {
    bound->endpoints = kept.bound->endpoints;
    bound->balancer = kept.bound->balancer;
    bound->sessions = kept.bound->sessions;
  } else {
    FindEndpoints(kept, {tls ? &*tls : nullptr, policy.protocol}, bound.get());
  }
  for (const std::shared_ptr<Endpoint>& endpoint : bound->endpoints) {
    endpoint->bound_generation.store(generation, std::memory_order_relaxed);
  }
  bound->runtime = std::move(runtime);
  bound->breaker = std::move(breaker);
  if (policy.limits != nullptr) {
    std::shared_ptr<Bulkhead>& bulkhead = bound->runtime->bulkhead;
    if (bulkhead == nullptr) {
      bulkhead = std::make_shared<Bulkhead>(*policy.limits);
    } else if (kept.bound == nullptr || kept.bound->policy != &policy) {
      bulkhead->Reconfigure(*policy.limits);
    }
    bound->bulkhead = bulkhead;
  }
  bound->discovery = discovery;
  BindHealth(kept, bound.get());
  const bool same = kept.bound != nullptr && kept.bound->policy == bound->policy &&
                    kept.bound->ejector == bound->ejector && kept.bound->runtime == bound->runtime &&
                    kept.bound->breaker == bound->breaker && kept.bound->discovery == discovery &&
                    kept.bound->balancer == bound->balancer && kept.bound->endpoints == bound->endpoints;
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
  CollectCandidates(policy, policy.name, discovery == Discovery::kKnown ? set : nullptr, table.overrides);
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
    CollectCandidates(consul.service, name, discovery == Discovery::kKnown ? &set : nullptr, table.overrides);
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

std::shared_ptr<KeySource> RuntimeState::Impl::FindKeys(const AuthMethodPolicy& method) {
  if (!method.jwks_url.empty()) return fetcher->Find(method.jwks_url, method.jwks_refresh);
  Kept<std::shared_ptr<KeySource>>& kept = inline_keys[Hex(Sha256(method.jwks_inline))];
  kept.generation = generation;
  if (kept.value == nullptr) {
    absl::StatusOr<JwkSet> keys = ParseJwks(method.jwks_inline);
    // (The snapshot was checked.) An empty set lets nobody in.
    kept.value = std::make_shared<KeySource>(std::make_shared<const JwkSet>(keys.ok() ? *std::move(keys) : JwkSet()));
  }
  return kept.value;
}

std::shared_ptr<const BoundAuth> RuntimeState::Impl::BindAuth(const std::shared_ptr<const AuthPolicy>& policy) {
  auto bound = std::make_shared<BoundAuth>();
  bound->policy = policy;
  bound->fetcher = fetcher.get();
  Kept<std::shared_ptr<AuthRuntime>>& runtime = auths[policy->name];
  runtime.generation = generation;
  if (runtime.value == nullptr) runtime.value = std::make_shared<AuthRuntime>(policy->name);
  bound->runtime = runtime.value;
  for (const auto kind : {AuthMethodPolicy::Kind::kClientCertificate, AuthMethodPolicy::Kind::kApiKey,
                          AuthMethodPolicy::Kind::kJwt, AuthMethodPolicy::Kind::kBasic}) {
    for (const AuthMethodPolicy& method : policy->methods) {
      if (method.kind != kind) continue;
      BoundAuthMethod& made = bound->methods.emplace_back();
      made.policy = &method;
      made.folded_header = method.header;
      for (char& c : made.folded_header) c = c == '_' ? '-' : c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
      if (kind == AuthMethodPolicy::Kind::kBasic) bound->takes_basic = true;
      if (kind == AuthMethodPolicy::Kind::kClientCertificate) bound->takes_certificate = true;
      if (kind != AuthMethodPolicy::Kind::kJwt) continue;
      made.rules.issuer = method.issuer;
      made.rules.audiences = method.audiences;
      made.rules.require = method.require;
      made.rules.leeway = std::chrono::duration_cast<std::chrono::seconds>(method.leeway);
      made.rules.groups_claim = method.groups_claim;
      made.keys = FindKeys(method);
      std::string meaning;
      const auto add = [&meaning](std::string_view part) {
        meaning.append(std::to_string(part.size())).append(":").append(part);
      };
      for (const std::string& part : {method.issuer, method.jwks_url, method.jwks_inline, method.groups_claim,
                                      method.consumer_claim, std::to_string(method.leeway.count())}) {
        add(part);
      }
      for (const std::string& audience : method.audiences) add(audience);
      add("");
      for (const auto& [claim, value] : method.require) {
        add(claim);
        add(value);
      }
      made.meaning = Sha256(meaning);
    }
  }
  return bound;
}

void RuntimeState::Impl::PublishRows() {
  Rows fresh;
  for (const auto& [name, kept] : auths) fresh.auths.push_back(kept.value);
  std::sort(fresh.auths.begin(), fresh.auths.end(), [](const auto& a, const auto& b) { return a->name() < b->name(); });
  for (const auto& [key, kept] : breakers) {
    fresh.breakers.push_back({kept.value.service, kept.value.policy.name, kept.value.breaker});
  }
  for (const auto& [name, kept] : leases) fresh.leases.emplace_back(name, kept.value.table);
  for (const auto& [name, kept] : limiters) {
    fresh.limiters.push_back({name, kept.value.limiter, kept.value.policy.scope == v1::RateLimit::REDIS});
  }
  for (const auto& [key, kept] : runtimes) {
    if (kept.value->bulkhead != nullptr) fresh.bulkheads.emplace_back(kept.value->name, kept.value->bulkhead);
  }
  for (const auto& [key, kept] : services) {
    const KeptService& service = kept.value;
    const std::string& name = service.bound->runtime->name;
    for (const HostRow& host : service.hosts) fresh.hosts.push_back({name, host.address, host.endpoints});
    const ServicePolicy& policy = *service.bound->policy;
    if (policy.from_consul) {
      // Of a route by consul_service, the policy is the same for all services.
      fresh.from_consul.push_back({policy.datacenter, policy.consul_service.empty() ? name : policy.consul_service,
                                   service.bound->runtime->metrics_service});
    }
    if (service.ejector != nullptr) fresh.ejectors.emplace_back(name, service.ejector);
    if (service.bound->balancer != nullptr && (service.ejector != nullptr || service.health_check != nullptr)) {
      fresh.balancers.emplace_back(name, service.bound->balancer);
    }
  }
  const auto first = [](const auto& row) -> const std::string& { return row.first; };
  std::ranges::sort(fresh.breakers, {}, &Rows::Breaker::service);
  std::ranges::sort(fresh.limiters, {}, &Rows::Limiter::name);
  std::ranges::sort(fresh.bulkheads, {}, first);
  std::ranges::sort(fresh.leases, {}, first);
  const auto told = [](const HostRow& row) { return std::tuple(!row.endpoints.empty(), row.service, row.address); };
  std::ranges::sort(fresh.hosts, {}, told);
  // Routes may lead to one service of Consul with settings of their own.
  const auto alike = [&told](const HostRow& a, const HostRow& b) { return told(a) == told(b); };
  fresh.hosts.erase(std::unique(fresh.hosts.begin(), fresh.hosts.end(), alike), fresh.hosts.end());
  bool wanted;
  {
    absl::MutexLock lock(&mutex);
    wanted = fresh.leases != rows.leases;
    std::swap(rows, fresh);
  }
  // Whoever talks to the control plane shall have a stream before the first request asks.
  if (wanted) lease_link->Wake();
}

RuntimeState::RuntimeState(MetricsRegistry* metrics, Options options)
    : impl_(std::make_unique<Impl>(metrics, std::move(options))) {
  impl_->fetcher = std::make_unique<KeyFetcher>(impl_->options.keys);
}

RuntimeState::~RuntimeState() = default;

void RuntimeState::OnHostsChanged(std::function<void()> call) { impl_->resolver.set_on_change(std::move(call)); }

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
  // The epoch is known to the data planes of one control plane, and to no client. Alone there is nobody to agree with.
  impl.session_key = policy.epoch().empty() ? impl.own_key : policy.epoch();
  impl.NameHosts(policy, table);

  state->services.reserve(policy.services().size());
  for (const ServicePolicy& service : policy.services()) state->services.push_back(impl.BindNamed(service, table));

  const bool same_snapshot = impl.previous != nullptr && impl.previous->snapshot == state->snapshot;
  state->identity_fields = IdentityFields(policy.identity_fields());
  absl::flat_hash_map<const AuthPolicy*, const BoundAuth*> auths;
  state->auths.reserve(policy.auths().size());
  for (const std::shared_ptr<const AuthPolicy>& auth : policy.auths()) {
    state->auths.push_back(impl.BindAuth(auth));
    auths.emplace(auth.get(), state->auths.back().get());
  }
  state->routes.resize(policy.routes().size());
  for (const std::unique_ptr<const RoutePolicy>& route : policy.routes()) {
    BoundRoute& bound = state->routes[route->index];
    bound.policy = route.get();
    const auto asks_redis = [&policy](const std::vector<uint32_t>& limits) {
      return std::any_of(limits.begin(), limits.end(), [&policy](uint32_t limit) {
        return policy.rate_limits()[limit].scope == v1::RateLimit::REDIS;
      });
    };
    bound.limits_ask_redis = asks_redis(route->rate_limits);
    bound.identity_limits_ask_redis = asks_redis(route->identity_limits);
    if (route->auth != nullptr) bound.auth = auths.at(route->auth.get());
    if (route->consul_service != nullptr) {
      impl.BindDynamic(*route, table, &bound);
    } else if (same_snapshot) {
      bound.series = impl.previous->routes[route->index].series;
    } else if (route->redirect != nullptr || route->respond != nullptr) {
      bound.series.push_back(impl.metrics->RegisterSeries("gateway", LabelOf(*route)));
    } else {
      for (const SplitTarget& target : route->split) {
        bound.series.push_back(impl.metrics->RegisterSeries(policy.services()[target.service].name, LabelOf(*route)));
      }
    }
  }

  for (const RateLimitPolicy& limit : policy.rate_limits()) {
    state->limits.push_back({&limit, impl.FindLimiter(limit), impl.FindLeases(limit)});
    state->asks_redis = state->asks_redis || limit.scope == v1::RateLimit::REDIS;
  }

  absl::erase_if(impl.endpoints, [&](const auto& entry) {
    return entry.second->bound_generation.load(std::memory_order_relaxed) != impl.generation;
  });
  DropOlder(impl.runtimes, impl.generation);
  DropOlder(impl.breakers, impl.generation);
  DropOlder(impl.limiters, impl.generation);
  const size_t services_before = impl.services.size();
  DropOlder(impl.leases, impl.generation);
  DropOlder(impl.services, impl.generation);
  if (impl.services.size() != services_before) impl.health_changed = true;
  DropOlder(impl.auths, impl.generation);
  DropOlder(impl.inline_keys, impl.generation);
  DropOlder(impl.tls_contexts, impl.generation);
  impl.PublishRows();
  impl.FollowHealth();
  impl.previous = state;
  impl.metrics->DropRemoved();
  return state;
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

KeyFetcher& RuntimeState::keys() const { return *impl_->fetcher; }

std::vector<std::pair<std::string, std::shared_ptr<LeaseTable>>> RuntimeState::Leases() const {
  absl::MutexLock lock(&impl_->mutex);
  return impl_->rows.leases;
}

const std::shared_ptr<LeaseLink>& RuntimeState::lease_link() const { return impl_->lease_link; }

}  // namespace gateway::dataplane
