// Responses that the gateway makes itself, where a route or a request asks for them: built-in pages, preflights, redirects
// and fixed responses.
#ifndef GATEWAY_DATAPLANE_PROXY_STAGES_RESPOND_H_
#define GATEWAY_DATAPLANE_PROXY_STAGES_RESPOND_H_

#include <chrono>
#include <string>
#include <string_view>

#include "dataplane/policy/cors.h"
#include "dataplane/policy/transform.h"
#include "dataplane/proxy/request_context.h"
#include "dataplane/server/server_options.h"

namespace gateway::dataplane {

struct LocalResponse {
  int status = 200;
  std::string body;
  std::string lines;                                     // fields beside those that every response has
  std::string_view content_type = "application/json";  // of a body; a constant, or policy's
};

// Whether the path is one of the gateway's own. Then `target` says which, by its series.
bool FindBuiltin(const ServerOptions& options, bool has_metrics_page, std::string_view path, Target* target);

// {"status": "healthy", "time": ...} and {"message": "Rate limit test successful", ...}.
LocalResponse HealthResponse(std::chrono::system_clock::time_point now);
LocalResponse TestRateLimitResponse(std::chrono::system_clock::time_point now);

// The methods that the server has, whatever the route (RFC 9110, section 9.3.7).
LocalResponse ServedMethodsResponse();

// 204. `*detail`: why the browser will not go on, for the log; empty: it may.
LocalResponse PreflightResponse(const CorsPolicy& cors, const RequestContext& request, const char** detail);

// What ${...} stands for.
TextValues ValuesOf(const RequestContext& request, const Target& target, const Caller& caller);

// 3xx with a Location made of the request's own parts where policy names none. `own_scheme`: what the client used.
// `edits`: of the response's header, may be null.
Refusal MakeRedirect(const RedirectPolicy& redirect, std::string_view own_scheme, const RequestContext& request,
                     const RouteMatch& match, const FieldEditsPolicy* edits, LocalResponse* response);

LocalResponse FixedResponse(const RespondPolicy& respond, const TextValues& values, const FieldEditsPolicy* edits);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_STAGES_RESPOND_H_
