// Where a request goes: its target in normal form, its route, its service.
#ifndef GATEWAY_DATAPLANE_PROXY_STAGES_ROUTE_H_
#define GATEWAY_DATAPLANE_PROXY_STAGES_ROUTE_H_

#include <optional>
#include <string_view>

#include "absl/random/random.h"
#include "dataplane/http/connection_info.h"
#include "dataplane/http/message.h"
#include "dataplane/proxy/refusal.h"
#include "dataplane/proxy/request_context.h"
#include "dataplane/state/serving_state.h"

namespace gateway::dataplane {

// Sets facts->host and facts->path, both in normal form. Refuses what has none: 400.
std::optional<Refusal> NormalizeTarget(const http::Request& request, const http::ConnectionInfo& connection,
                                       bool reject_encoded_slashes, RequestFacts* facts);

// Finds the route, of a preflight that of the request which it asks for, and sets target->match, route and preflight.
// Refuses without a route, and if some servers would read the path as one that another route protects.
std::optional<Refusal> MatchRoute(const ServingState& state, const http::Request& request,
                                  const http::ConnectionInfo& connection, const RequestFacts& facts, Target* target);

// Sets target->service, if there is one, and what the request is counted as. REQUIRES: a route matched.
void ChooseService(const ServingState& state, const http::Request& request, const RequestFacts& facts,
                   absl::InsecureBitGen* random, Target* target);

// Rewrites the path by the route's regex, into target->rewritten. REQUIRES: the route has one.
std::optional<Refusal> RewriteByRegex(std::string_view path, Target* target);

// Refuses a request that has passed this process before, or many gateways, by its Via. `via`: ExchangeOptions::via.
std::optional<Refusal> CheckForLoop(const http::Request& request, std::string_view via);

// Refuses if the service has no endpoints to ask. `service` may be null: there is no such service.
std::optional<Refusal> CheckEndpoints(const ServingState& state, const BoundService* service);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_STAGES_ROUTE_H_
