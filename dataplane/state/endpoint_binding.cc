#include "dataplane/state/endpoint_binding.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "common/base/digest.h"
#include "common/base/endpoint_name.h"
#include "common/base/hash.h"
#include "common/base/text.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

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

// Without regard to its weight.
bool MayServe(const v1::Instance& instance, const std::vector<std::string>& tags) {
  return (instance.health() == v1::Instance::PASSING || instance.health() == v1::Instance::WARNING) &&
         instance.unusable().empty() && instance.port() > 0 && instance.port() <= 65535 &&
         !instance.address().empty() && HasTags(instance, tags);
}

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

std::string RandomKey() {
  std::string key(32, '\0');
  // Never short for so few bytes, and never fails on a supported kernel (getrandom(2)).
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

// Endpoints with what the balancer has to know about each.
struct EndpointBinder::Members {
  std::vector<std::shared_ptr<Endpoint>> endpoints;
  std::vector<EndpointBalancer::Member> balanced;  // by the same index
};

EndpointBinder::EndpointBinder(Options options) : options_(std::move(options)), own_key_(RandomKey()), resolver_({}) {}

void EndpointBinder::Begin(const Snapshot& policy, const EndpointTable& table, uint64_t generation) {
  generation_ = generation;
  // The epoch is known to the data planes of one control plane, and to no client. Without one, no other data plane has
  // to agree.
  session_key_ = policy.epoch().empty() ? own_key_ : policy.epoch();
  if (options_.find_host) return;
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
  host_deadline_ = std::chrono::steady_clock::now() + RuntimeState::kHostWait;
  if (!resolver_.Name(hosts)) {
    spdlog::warn("endpoints are left out: there are more than {} host names", HostTable::kHostsMax);
  }
}

std::shared_ptr<const std::vector<std::string>> EndpointBinder::FindAddresses(const std::string& host) {
  return options_.find_host ? options_.find_host(host) : resolver_.Find(host, host_deadline_);
}

const std::vector<Candidate>& EndpointBinder::Collect(const ServicePolicy& policy, std::string_view name,
                                                      const v1::EndpointSet* set, const OverrideTable& overrides) {
  size_t count = 0;
  const auto find = [&](std::string_view service, const std::string& endpoint) -> const OverrideTable::Override* {
    const auto found = overrides.by_endpoint.find(std::pair(std::string(service), endpoint));
    return found == overrides.by_endpoint.end() ? nullptr : &found->second;
  };
  // Assigned in place, so that a bind without news allocates nothing.
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
    // One that drains serves only sessions.
    if (weight == 0 && (!draining || policy.balance.session_cookie.empty())) return;
    if (count == candidates_.size()) candidates_.emplace_back();
    Candidate& candidate = candidates_[count++];
    candidate.host = host;
    candidate.port = port;
    candidate.weight = weight;
    candidate.local = !zone.empty() && zone == options_.zone;
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
  candidates_.resize(count);
  return candidates_;
}

EndpointBinder::BoundTls EndpointBinder::BindTls(const UpstreamTlsPolicy& policy) {
  std::string key = KeyOf(policy);
  Kept<std::shared_ptr<const tls::ClientContext>>& kept = tls_contexts_[key];
  kept.generation = generation_;
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

std::shared_ptr<Endpoint> EndpointBinder::GetOrCreate(const sockaddr_storage& address, socklen_t length,
                                                      const std::string& host, const Transport& transport) {
  std::string name = NameOf(address);
  const BoundTls* const tls = transport.tls;
  // Connections and sessions never cross to another trust, name or protocol: that makes another endpoint.
  std::string key = tls == nullptr ? name : Concat(name, "\n", host, "\n", tls->key);
  if (transport.protocol != UpstreamProtocol::kHttp1) Append(&key, "\n", static_cast<int>(transport.protocol));
  std::shared_ptr<Endpoint>& endpoint = endpoints_[key];
  if (endpoint == nullptr) {
    endpoint = std::make_shared<Endpoint>();
    endpoint->protocol = transport.protocol;
    if (tls != nullptr) {
      endpoint->tls = std::make_shared<tls::EndpointTls>(tls->context, host, AlpnOf(transport.protocol));
    }
    endpoint->name = std::move(name);
    endpoint->address = address;
    endpoint->address_length = length;
    endpoint->id = next_id_++;
  }
  return endpoint;
}

const BoundEndpoints& EndpointBinder::Bind(const ServicePolicy& policy, const std::vector<Candidate>& candidates,
                                           KeptEndpoints* kept) {
  std::optional<BoundTls> tls;
  if (policy.tls != nullptr) tls = BindTls(*policy.tls);
  const bool same = kept->any_bind && !kept->names_hosts && kept->balance == policy.balance &&
                    kept->session_key == session_key_ && SameValue(kept->tls, policy.tls) &&
                    kept->protocol == policy.protocol && kept->candidates == candidates;
  if (!same) {
    Members members = Resolve(candidates, {tls ? &*tls : nullptr, policy.protocol}, kept);
    Remember(*kept, &members);
    BoundEndpoints bound;
    bound.all = std::move(members.endpoints);
    if (!bound.all.empty()) {
      const EndpointBalancer* const before = kept->bound.balancer.get();
      const bool same_balancer =
          before != nullptr && kept->balance == policy.balance && before->members() == members.balanced;
      bound.balancer = same_balancer ? kept->bound.balancer
                                     : std::make_shared<const EndpointBalancer>(OptionsOf(policy.balance), kept->group,
                                                                                std::move(members.balanced));
    }
    if (!policy.balance.session_cookie.empty()) {
      bound.sessions = MakeSessions(policy.balance.session_cookie, bound.all);
    }
    kept->bound = std::move(bound);
    kept->any_bind = true;
    kept->candidates = candidates;
    kept->balance = policy.balance;
    kept->tls = policy.tls;
    kept->protocol = policy.protocol;
    kept->session_key = session_key_;
  }
  for (const std::shared_ptr<Endpoint>& endpoint : kept->bound.all) {
    endpoint->bound_generation.store(generation_, std::memory_order_relaxed);
  }
  return kept->bound;
}

// Also kept->hosts and kept->names_hosts.
EndpointBinder::Members EndpointBinder::Resolve(const std::vector<Candidate>& candidates, const Transport& transport,
                                                KeptEndpoints* kept) {
  Members members;
  absl::flat_hash_map<const Endpoint*, size_t> seen;
  const auto add = [&](const std::string& host, uint16_t port, const Candidate& candidate) {
    sockaddr_storage address;
    socklen_t length;
    if (!ParseLiteral(host, port, &address, &length)) return false;
    std::shared_ptr<Endpoint> endpoint = GetOrCreate(address, length, candidate.host, transport);
    // Named twice: one endpoint with both weights, else a retry elsewhere could come back to it.
    const auto [at, added] = seen.emplace(endpoint.get(), members.endpoints.size());
    if (added) {
      EndpointBalancer::Member member;
      member.weight = candidate.weight;
      member.identity = StableHash(endpoint->name);
      member.local = candidate.local;
      member.draining = candidate.draining;
      members.balanced.push_back(std::move(member));
      members.endpoints.push_back(std::move(endpoint));
    } else {
      uint32_t& weight = members.balanced[at->second].weight;
      weight = static_cast<uint32_t>(std::min<uint64_t>(uint64_t{weight} + candidate.weight, ~0u));
    }
    return true;
  };
  kept->names_hosts = false;
  kept->hosts.clear();
  for (const Candidate& candidate : candidates) {
    if (add(candidate.host, candidate.port, candidate)) continue;
    kept->names_hosts = true;
    RuntimeState::HostRow& row = kept->hosts.emplace_back();
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
  return members;
}

// Gives each member the state of its endpoint in kept.bound, or a new one.
void EndpointBinder::Remember(const KeptEndpoints& kept, Members* members) const {
  absl::flat_hash_map<const Endpoint*, std::shared_ptr<EndpointState>> known;
  const EndpointBalancer* const before = kept.bound.balancer.get();
  if (before != nullptr) {
    known.reserve(before->members().size());
    for (size_t i = 0; i < before->members().size(); ++i) {
      known.emplace(kept.bound.all[i].get(), before->members()[i].state);
    }
  }
  // The first endpoints of a service do not start slowly.
  const int64_t since =
      before == nullptr
          ? EndpointState::kAlways
          : std::chrono::duration_cast<std::chrono::nanoseconds>(options_.clock().time_since_epoch()).count();
  for (size_t i = 0; i < members->balanced.size(); ++i) {
    const auto found = known.find(members->endpoints[i].get());
    members->balanced[i].state =
        found != known.end() ? found->second : std::make_shared<EndpointState>(kept.group, since);
  }
}

std::shared_ptr<const SessionTable> EndpointBinder::MakeSessions(
    const std::string& cookie, const std::vector<std::shared_ptr<Endpoint>>& endpoints) const {
  auto sessions = std::make_shared<SessionTable>();
  const KeyedDigest digest(session_key_);
  for (const std::shared_ptr<Endpoint>& endpoint : endpoints) {
    std::string value = Hex(digest.Of({cookie, endpoint->name})).substr(0, 32);
    sessions->indices.emplace(value, static_cast<uint32_t>(sessions->values.size()));
    sessions->values.push_back(std::move(value));
  }
  return sessions;
}

void EndpointBinder::DropOlder() {
  absl::erase_if(endpoints_, [this](const auto& entry) {
    return entry.second->bound_generation.load(std::memory_order_relaxed) != generation_;
  });
  dataplane::DropOlder(tls_contexts_, generation_);
}

}  // namespace gateway::dataplane
