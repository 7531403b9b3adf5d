// Every policy that applies to a route, in the fixed order of a request, with whose word it is.
#ifndef GATEWAY_TOOLS_GATEWAYCTL_EFFECTIVE_H_
#define GATEWAY_TOOLS_GATEWAYCTL_EFFECTIVE_H_

#include <span>
#include <string>
#include <vector>

#include "gateway/v1/admin.pb.h"

namespace gateway::ctl {

struct EffectiveRow {
  std::string stage;     // "access", "limits before auth", "breaker", ...
  std::string policy;    // "IpAccess/office", "none"; of settings without a name: what they are
  std::string source;    // "route", "Service/orders", "Defaults/default", "built-in"
  std::string settings;  // in short
};

// Of a route and the whole set that it is in. The order is that of the data plane: what a split goes by, access, cors,
// limits whose keys need no identity, auth, the other limits, the body's bound; then an answer made there, or the
// path's rewriting and for each service that the route leads to: its limits, breaker, balance, retries and times; then
// what is changed in the request, its copies, and what is changed in the answer. Where the route is split, the source
// of what a service inherits names the service.
std::vector<EffectiveRow> EffectiveOf(const v1::Route& route, std::span<const v1::StoredResource> all);
// Of a service by itself: its limits, breaker, balance, retries and times, and which of them Defaults gives.
std::vector<EffectiveRow> EffectiveOfService(const v1::Service& service, std::span<const v1::StoredResource> all);
std::string RenderEffective(std::span<const EffectiveRow> rows);

}  // namespace gateway::ctl

#endif  // GATEWAY_TOOLS_GATEWAYCTL_EFFECTIVE_H_
