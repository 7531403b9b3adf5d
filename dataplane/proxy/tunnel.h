// What follows a change of protocol (101): bytes, both ways at once, until both sides have ended theirs. They are not
// looked at. A silent tunnel holds no buffer.
#ifndef GATEWAY_DATAPLANE_PROXY_TUNNEL_H_
#define GATEWAY_DATAPLANE_PROXY_TUNNEL_H_

#include <string_view>

#include "dataplane/http/stream.h"
#include "dataplane/net/task.h"
#include "dataplane/policy/circuit_breaker.h"
#include "dataplane/proxy/attempt.h"
#include "dataplane/proxy/exchange_resources.h"
#include "dataplane/proxy/request_context.h"

namespace gateway::dataplane {

// Passes the endpoint's 101 on, then both directions, until both have ended, or the tunnel was idle for the route's
// upgrade_idle_timeout, or the deadline. Gives the permit back: a place in the breaker is for requests that wait for
// their response. The request's header is released, except what the log needs of it.
Task<AttemptEnd> RunTunnel(ExchangeResources* resources, RequestContext* context, CircuitBreaker::Permit* permit,
                           http::UpstreamStream* upstream, http::Response* response, std::string_view session_cookie);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_TUNNEL_H_
