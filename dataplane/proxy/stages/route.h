// Where a request goes: its route, one of the route's services, and whether that has endpoints; and who may come by
// address.
#ifndef GATEWAY_DATAPLANE_PROXY_STAGES_ROUTE_H_
#define GATEWAY_DATAPLANE_PROXY_STAGES_ROUTE_H_

#include "absl/random/random.h"
#include "dataplane/proxy/request_context.h"
#include "dataplane/state/serving_state.h"

namespace gateway::dataplane {

// Finds the route. A preflight goes where the request that it asks for would go (`request->preflight` stays set) if that
// has a Cors; else it is an OPTIONS request like any other.
Refusal MatchRoute(const ServingState& state, RequestContext* request, Target* target);

// One of the split, or the one that the path names. Null in `target`: an unknown name, or a route that needs none.
void ChooseService(const ServingState& state, const RequestContext& request, absl::InsecureBitGen& random,
                   Target* target);

Refusal CheckAccess(const AccessPolicy& access, const in6_addr& client);

// By what is known of the body: one of unknown length may still become too long.
Refusal CheckBodySize(const RoutePolicy& route, const http::Request& request, uint64_t bytes_so_far);

// Applies rewrite.regex.
Refusal RewritePath(RequestContext* request, const RouteMatch& match);

Refusal FindEndpoints(const ServingState& state, const BoundService* service);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_STAGES_ROUTE_H_
