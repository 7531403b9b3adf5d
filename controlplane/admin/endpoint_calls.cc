#include "controlplane/admin/endpoint_calls.h"

#include <algorithm>
#include <map>
#include <memory>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/endpoint_name.h"
#include "common/base/host_port.h"
#include "common/base/text.h"
#include "common/base/timestamp.h"
#include "common/base/units.h"
#include "controlplane/admin/call_context.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

// A Service's written-down endpoints, in the form of those of Consul.
v1::EndpointSet StaticSet(const v1::Service& service) {
  v1::EndpointSet set;
  set.mutable_key()->set_service(service.name());
  set.set_state(v1::EndpointSet::KNOWN);
  set.set_written_down(true);
  for (const v1::StaticEndpoint& endpoint : service.static_()) {
    v1::Instance* instance = set.add_instances();
    instance->set_id(endpoint.address());
    if (absl::StatusOr<HostPort> parsed = ParseHostPort(endpoint.address()); parsed.ok()) {
      instance->set_address(parsed->host);
      instance->set_port(parsed->port);
    }
    instance->set_weight(endpoint.has_weight() ? endpoint.weight() : 1);
    instance->set_health(v1::Instance::PASSING);
    instance->set_zone(endpoint.zone());
  }
  return set;
}

}  // namespace

EndpointCalls::EndpointCalls(const Publisher* publisher, const Hub* hub, AuditLog* audit, EndpointOverrides* overrides,
                             EndpointSource* source)
    : publisher_(publisher), hub_(hub), audit_(audit), overrides_(overrides), source_(source) {}

// What data planes see of `service` (empty: of all), a Service's name, or that of a service of Consul: what they leave
// out, what its hosts' names are, and where exclusions are ignored.
void EndpointCalls::FillExclusions(const std::string& service, v1::ListEndpointsResponse* response) const {
  for (const auto& [data_plane, report] : hub_->Reports()) {
    for (const v1::ExcludedEndpoint& endpoint : report->excluded()) {
      if (!service.empty() && endpoint.service() != service) continue;
      v1::Exclusion* exclusion = response->add_excluded();
      exclusion->set_data_plane(data_plane);
      *exclusion->mutable_endpoint() = endpoint;
    }
    for (const v1::HostReport& host : report->hosts()) {
      if (!service.empty() && host.service() != service) continue;
      v1::ResolvedHost* resolved = response->add_hosts();
      resolved->set_data_plane(data_plane);
      *resolved->mutable_host() = host;
    }
    for (const std::string& panicking : report->panicking()) {
      if (!service.empty() && panicking != service) continue;
      v1::PanickingService* row = response->add_panicking();
      row->set_data_plane(data_plane);
      row->set_service(panicking);
    }
    response->set_reporting(response->reporting() + 1);
  }
  std::sort(response->mutable_hosts()->begin(), response->mutable_hosts()->end(),
            [](const v1::ResolvedHost& a, const v1::ResolvedHost& b) {
              return std::tie(a.host().service(), a.host().address(), a.data_plane()) <
                     std::tie(b.host().service(), b.host().address(), b.data_plane());
            });
  std::sort(response->mutable_panicking()->begin(), response->mutable_panicking()->end(),
            [](const v1::PanickingService& a, const v1::PanickingService& b) {
              return std::tie(a.service(), a.data_plane()) < std::tie(b.service(), b.data_plane());
            });
  std::sort(response->mutable_excluded()->begin(), response->mutable_excluded()->end(),
            [](const v1::Exclusion& a, const v1::Exclusion& b) {
              return std::tie(a.endpoint().service(), a.endpoint().endpoint(), a.data_plane()) <
                     std::tie(b.endpoint().service(), b.endpoint().endpoint(), b.data_plane());
            });
}

absl::Status EndpointCalls::List(const v1::ListEndpointsRequest& request, v1::ListEndpointsResponse* response) const {
  const std::shared_ptr<const PolicyState> state = publisher_->current();
  const std::shared_ptr<const EndpointCatalog> catalog = hub_->endpoints();
  FillExclusions(request.service(), response);
  for (v1::EndpointOverride& each : OverridesOf(request.service())) *response->add_overrides() = std::move(each);
  if (response->overrides_size() > 0) {
    for (std::string& name : hub_->OverridesPending()) response->add_overrides_pending(std::move(name));
  }
  if (catalog != nullptr) {
    response->set_version(catalog->version);
    response->set_consul_reachable(catalog->reachable);
    response->set_consul_error(catalog->error);
  }
  auto add_from_consul = [&](const std::string& datacenter, const std::string& service) {
    if (catalog != nullptr) {
      if (auto it = catalog->sets.find({datacenter, service}); it != catalog->sets.end()) {
        *response->add_sets() = *it->second;
        return true;
      }
    }
    return false;
  };
  auto add_service = [&](const v1::Service& service) {
    if (!service.has_consul()) {
      *response->add_sets() = StaticSet(service);
    } else if (!add_from_consul(service.consul().datacenter(), service.consul().service())) {
      // Policy asks for it and Consul has not been heard of it yet.
      v1::EndpointSet* set = response->add_sets();
      set->mutable_key()->set_datacenter(service.consul().datacenter());
      set->mutable_key()->set_service(service.consul().service());
      set->set_state(v1::EndpointSet::UNAVAILABLE);
    }
  };
  if (request.service().empty()) {
    if (catalog != nullptr) {
      for (const auto& [key, set] : catalog->sets) *response->add_sets() = *set;
    }
    for (auto it = state->resources->lower_bound({"Service", ""});
         it != state->resources->end() && it->first.kind == "Service"; ++it) {
      if (!it->second.resource->service().has_consul()) add_service(it->second.resource->service());
    }
    return absl::OkStatus();
  }
  auto it = state->resources->find({"Service", request.service()});
  if (it != state->resources->end()) {
    add_service(it->second.resource->service());
    return absl::OkStatus();
  }
  if (add_from_consul("", request.service())) return absl::OkStatus();
  return absl::NotFoundError(
      absl::StrCat("no Service '", request.service(), "', and no policy that lets a request reach one of Consul's"));
}

std::vector<v1::EndpointOverride> EndpointCalls::OverridesOf(const std::string& service) const {
  std::vector<v1::EndpointOverride> all = overrides_->List(service);
  if (service.empty()) return all;
  const std::shared_ptr<const PolicyState> state = publisher_->current();
  const auto it = state->resources->find({"Service", service});
  if (it == state->resources->end() || !it->second.resource->service().has_consul()) return all;
  const v1::ConsulSource& source = it->second.resource->service().consul();
  if (!source.datacenter().empty() || source.service() == service) return all;
  // Its own come first: where both are set for an endpoint, they hold.
  for (v1::EndpointOverride& each : overrides_->List(source.service())) {
    const bool own = std::any_of(all.begin(), all.end(), [&each](const v1::EndpointOverride& other) {
      return other.endpoint() == each.endpoint();
    });
    if (!own) all.push_back(std::move(each));
  }
  return all;
}

void EndpointCalls::WarnOfOverride(const v1::EndpointOverride& override, const v1::ListEndpointsResponse& endpoints,
                                   v1::SetEndpointResponse* response) const {
  std::map<std::string, bool> out;
  for (const v1::EndpointOverride& each : OverridesOf(override.service())) {
    out[each.endpoint()] = each.action_case() == v1::EndpointOverride::kDrain || each.weight() == 0;
  }
  size_t serving = 0;
  for (const v1::EndpointSet& set : endpoints.sets()) {
    for (const v1::Instance& instance : set.instances()) {
      const bool well = instance.health() == v1::Instance::PASSING || instance.health() == v1::Instance::WARNING;
      const auto set_to = out.find(EndpointName(instance.address(), instance.port()));
      if (set_to != out.end() ? well && !set_to->second : well && instance.weight() > 0) ++serving;
    }
  }
  if (serving == 0) {
    response->add_warnings(absl::StrCat("no endpoint of '", override.service(), "' gets requests now"));
  }
  if (override.action_case() != v1::EndpointOverride::kWeight || override.weight() == 0) return;
  for (const ServicePolicy& service : publisher_->current()->snapshot->services()) {
    const bool round_robin = service.balance.policy == v1::LoadBalancer::ROUND_ROBIN ||
                             service.balance.policy == v1::LoadBalancer::POLICY_UNSPECIFIED;
    if (service.name != override.service() || !round_robin) continue;
    response->add_warnings(absl::StrCat("'", service.name, "' is balanced by round_robin, which ignores weights"));
  }
}

absl::Status EndpointCalls::SetOverride(const v1::SetEndpointRequest& request, const std::string& endpoint,
                                        const Caller& caller, v1::SetEndpointResponse* response) {
  const absl::Time now = absl::Now();
  v1::ListEndpointsRequest list;
  list.set_service(request.service());
  v1::ListEndpointsResponse endpoints;
  if (absl::Status s = List(list, &endpoints); !s.ok()) return s;
  std::vector<std::string> names;
  for (const v1::EndpointSet& set : endpoints.sets()) {
    for (const v1::Instance& instance : set.instances()) {
      names.push_back(EndpointName(instance.address(), instance.port()));
    }
  }
  if (std::find(names.begin(), names.end(), endpoint) == names.end()) {
    return absl::NotFoundError(absl::StrCat("service '", request.service(), "' has no endpoint ", endpoint,
                                            names.empty() ? "" : absl::StrCat("; ", DidYouMean(endpoint, names)),
                                            "; see gatewayctl endpoints ", request.service()));
  }
  v1::EndpointOverride* made = response->mutable_override();
  made->set_service(request.service());
  made->set_endpoint(endpoint);
  if (request.action_case() == v1::SetEndpointRequest::kDrain) {
    made->set_drain(true);
  } else {
    made->set_weight(request.weight());
  }
  SetTime(now, made->mutable_set_at());
  std::string how_long = "until it is taken back";
  if (request.has_duration()) {
    const absl::Duration duration =
        absl::Seconds(request.duration().seconds()) + absl::Nanoseconds(request.duration().nanos());
    if (duration < absl::Seconds(1) || duration > kOverrideMax) {
      return absl::InvalidArgumentError("duration: expected 1 s to 366 days");
    }
    SetTime(now + duration, made->mutable_until());
    how_long = absl::StrCat("for ", FormatDuration(request.duration()));
  }
  made->set_actor(DoerOf(caller, request.context()));
  if (absl::Status s = overrides_->Set(*made); !s.ok()) return s;
  WarnOfOverride(*made, endpoints, response);
  const std::string& comment = request.context().comment();
  const std::string what = absl::StrCat(endpoint, " of '", request.service(), "': ", DescribeOverride(*made), " ",
                                        how_long, comment.empty() ? "" : absl::StrCat(": ", comment));
  spdlog::info("{}, by '{}' from {}", what, made->actor(), caller.address);
  audit_->Done(caller, what, now);
  return absl::OkStatus();
}

absl::StatusOr<std::string> EndpointCalls::CheckSet(const v1::SetEndpointRequest& request) {
  const absl::StatusOr<HostPort> address = ParseHostPort(request.endpoint());
  if (request.service().empty()) return absl::InvalidArgumentError("service: expected a name");
  if (!address.ok()) return absl::InvalidArgumentError(absl::StrCat("endpoint: ", address.status().message()));
  if (absl::Status s = CheckContext(request.context()); !s.ok()) return s;
  const bool expected = request.action_case() == v1::SetEndpointRequest::kWeight || request.drain() || request.up();
  if (!expected) return absl::InvalidArgumentError("expected `weight`, `drain` or `up`");
  if (request.weight() > kEndpointWeightMax) {
    return absl::InvalidArgumentError(absl::StrCat("weight: expected at most ", kEndpointWeightMax));
  }
  if (request.up() && request.has_duration()) return absl::InvalidArgumentError("duration: `up` has none");
  return EndpointName(address->host, address->port);
}

absl::Status EndpointCalls::Set(const v1::SetEndpointRequest& request, const std::string& endpoint,
                                const Caller& caller, v1::SetEndpointResponse* response) {
  if (!request.up()) return SetOverride(request, endpoint, caller, response);
  if (absl::Status s = overrides_->Clear(request.service(), endpoint); !s.ok()) return s;
  const std::string what = absl::StrCat(endpoint, " of '", request.service(), "': as policy has it again");
  spdlog::info("{}, by '{}' from {}", what, caller.name, caller.address);
  audit_->Done(caller, what, absl::Now());
  return absl::OkStatus();
}

absl::StatusOr<EndpointKey> EndpointCalls::ConsulKeyOf(const std::string& service) const {
  if (service.empty()) return absl::InvalidArgumentError("service: expected a name");
  if (source_ == nullptr) {
    return absl::FailedPreconditionError("this control plane follows no Consul (consul.address is empty)");
  }
  const std::shared_ptr<const PolicyState> state = publisher_->current();
  const auto it = state->resources->find({"Service", service});
  if (it == state->resources->end()) {
    const std::shared_ptr<const EndpointCatalog> catalog = hub_->endpoints();
    if (catalog != nullptr && catalog->sets.contains({"", service})) return EndpointKey("", service);
    return absl::NotFoundError(
        absl::StrCat("no Service '", service, "', and no policy that lets a request reach one of Consul's"));
  }
  const v1::Service& found = it->second.resource->service();
  if (found.has_consul()) return EndpointKey(found.consul().datacenter(), found.consul().service());
  return absl::FailedPreconditionError(
      absl::StrCat("the endpoints of '", service, "' are written down in its policy and not from Consul"));
}

void EndpointCalls::Decide(const v1::DecideEndpointsRequest& request, const Caller& caller,
                           v1::DecideEndpointsResponse* response, std::function<void(const absl::Status&)> done) {
  if (absl::Status s = CheckContext(request.context()); !s.ok()) return done(s);
  const char* outcome = nullptr;
  switch (request.decision()) {
    case v1::DecideEndpointsRequest::ACCEPT:
      outcome = "accepted as Consul has them";
      break;
    case v1::DecideEndpointsRequest::FREEZE:
      outcome = "frozen as they are";
      break;
    case v1::DecideEndpointsRequest::THAW:
      outcome = "follow Consul again";
      break;
    default:
      return done(absl::InvalidArgumentError("decision: expected ACCEPT, FREEZE or THAW"));
  }
  const absl::StatusOr<EndpointKey> key = ConsulKeyOf(request.service());
  if (!key.ok()) return done(key.status());
  EndpointSource::Decision decision{*key, request.decision(), DoerOf(caller, request.context()),
                                    request.context().comment()};
  source_->Decide(decision, [this, response, caller, outcome, decision, done = std::move(done),
                             service = request.service()](absl::StatusOr<v1::EndpointSet> set) {
    if (!set.ok()) {
      return done(absl::Status(set.status().code(), absl::StrCat("'", service, "': ", set.status().message())));
    }
    const std::string what = absl::StrCat("endpoints of '", service, "': ", outcome, " (", set->instances_size(), ")",
                                          decision.comment.empty() ? "" : absl::StrCat(": ", decision.comment));
    spdlog::info("{}, by '{}' from {}", what, decision.actor, caller.address);
    audit_->Done(caller, what, absl::Now());
    *response->mutable_set() = *std::move(set);
    done(absl::OkStatus());
  });
}

absl::Status EndpointCalls::ListHistory(const v1::ListEndpointHistoryRequest& request,
                                        v1::ListEndpointHistoryResponse* response) const {
  const absl::StatusOr<EndpointKey> key = ConsulKeyOf(request.service());
  if (!key.ok()) return key.status();
  for (v1::EndpointEvent& event : source_->History(*key)) *response->add_events() = std::move(event);
  return absl::OkStatus();
}

}  // namespace gateway::controlplane
