#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/base/host_port.h"
#include "common/base/quote.h"
#include "common/base/text.h"
#include "common/policy/kinds/kinds.h"
#include "common/policy/kinds/upstream.h"
#include "common/policy/route/path.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {
namespace {

constexpr int kStaticEndpointsMax = 10'000;  // of one service

void CheckService(const Report& report, const v1::Service& service) {
  if (service.has_consul() == (service.static__size() > 0)) {
    report.Add("", service.has_consul() ? "has both consul and static; exactly one must define its endpoints"
                                        : "needs consul or static, to define its endpoints");
  }
  if (service.has_consul()) {
    const v1::ConsulSource& consul = service.consul();
    // An empty name is reported by the rules.
    if (!consul.service().empty()) CheckConsulText(report, "consul.service", consul.service());
    if (!consul.datacenter().empty()) CheckConsulText(report, "consul.datacenter", consul.datacenter());
    CheckTags(report, "consul.tags", consul.tags());
    CheckEnum(report, "consul.on_suspect", consul.on_suspect(), v1::ConsulSource::OnSuspect_IsValid);
  }
  if (service.static__size() > kStaticEndpointsMax) {
    report.Add("static", fmt::format("has {} endpoints; at most {}", service.static__size(), kStaticEndpointsMax));
  }
  absl::flat_hash_map<std::string, int> seen;
  for (int i = 0; i < service.static__size(); ++i) {
    const v1::StaticEndpoint& endpoint = service.static_(i);
    const std::string field = At("static", i, ".address");
    if (endpoint.address().empty()) continue;  // reported by the rules
    absl::StatusOr<HostPort> address = ParseHostPort(endpoint.address());
    if (!address.ok()) {
      report.Add(field, std::string(address.status().message()));
      continue;
    }
    if (address->port == 0)
      report.Add(field, fmt::format("{} has port 0; expected 1 to 65535", QuoteForMessage(endpoint.address())));
    auto [it, inserted] = seen.try_emplace(fmt::format("{} {}", address->host, address->port), i);
    if (!inserted) {
      report.Add(field, fmt::format("{} is static[{}] already", QuoteForMessage(endpoint.address()), it->second));
    }
  }
  CheckUpstream(report, "", service);
}

void CheckServiceReferences(const Report& report, const v1::Service& service, Compilation* compilation) {
  CheckUpstreamReferences(report, "", service, compilation);
}

ServicePolicy CompileService(const v1::Service& service, const Compilation& compilation) {
  ServicePolicy policy;
  policy.name = service.name();
  if (service.has_consul()) {
    policy.from_consul = true;
    policy.consul_service = service.consul().service();
    policy.datacenter = service.consul().datacenter();
    policy.tags = SortedTags(service.consul().tags());
    policy.on_suspect = OnSuspectOf(service.consul().on_suspect());
  }
  for (const v1::StaticEndpoint& endpoint : service.static_()) {
    HostPort address = ParseHostPort(endpoint.address()).value();
    policy.addresses.push_back({.host = std::move(address.host),
                                .port = address.port,
                                .weight = endpoint.has_weight() ? endpoint.weight() : 1,
                                .zone = endpoint.zone()});
  }
  CompileUpstream(service, compilation, &policy);
  return policy;
}

// Of written-down endpoints: none that would get a request, or one that is written twice.
void WarnOfAddresses(const ServicePolicy& service, std::vector<std::string>* warnings) {
  if (service.addresses.empty()) return;
  bool any_weight = false;
  absl::flat_hash_map<std::string, size_t> seen;
  for (size_t i = 0; i < service.addresses.size(); ++i) {
    const auto& address = service.addresses[i];
    any_weight = any_weight || address.weight > 0;
    const bool literal = address.host.find(':') != std::string::npos;
    const std::string host = literal ? Concat("[", address.host, "]") : address.host;
    char normal[kNormalHostBytesMax];
    if (host.size() > sizeof normal) continue;
    const std::string shown = fmt::format("{}:{}", std::string_view(normal, NormalizeHost(host, normal)), address.port);
    const auto [first, added] = seen.emplace(shown, i);
    if (added) continue;
    warnings->push_back(
        fmt::format("Service/{}: static[{}] and static[{}] are the same address {}; its share "
                    "is said by `weight`, not by writing it twice",
                    service.name, first->second, i, QuoteForMessage(shown)));
  }
  if (!any_weight) {
    warnings->push_back(
        fmt::format("Service/{}: every endpoint has weight 0, so none gets a request (503)", service.name));
  }
}

void CompileServices(Compilation* compilation) {
  const Documents<v1::Service> all = compilation->All<v1::Service>();
  for (size_t i = 0; i < all.size(); ++i) {
    compilation->services.push_back(CompileService(all[i], *compilation));
    WarnOfAddresses(compilation->services.back(), &compilation->warnings);
  }
}

}  // namespace

Kind ServiceKind() {
  return {
      .number = v1::Resource::kService,
      .short_names = {"svc"},
      .labels = [](const v1::Resource& resource) -> const Labels& { return resource.service().labels(); },
      .check = [](const Report& report, const v1::Resource& resource) { CheckService(report, resource.service()); },
      .check_references =
          [](const Report& report, const v1::Resource& resource, Compilation* compilation) {
            CheckServiceReferences(report, resource.service(), compilation);
          },
      .compile = &CompileServices,
  };
}

}  // namespace gateway
