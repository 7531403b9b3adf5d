// What is decided by address, and responses that need no service: built-in routes, preflights, redirects and fixed
// responses. These render; Exchange::Reply sends.
#ifndef GATEWAY_DATAPLANE_PROXY_STAGES_LOCAL_RESPONSE_H_
#define GATEWAY_DATAPLANE_PROXY_STAGES_LOCAL_RESPONSE_H_

#include <netinet/in.h>

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "common/policy/policy.h"
#include "dataplane/http/message.h"
#include "dataplane/proxy/refusal.h"
#include "dataplane/proxy/request_context.h"

namespace gateway::dataplane {

std::optional<Refusal> CheckAccess(const AccessPolicy& access, const in6_addr& client);

// The response to a CA that asks for a pending http-01 challenge (RFC 8555, section 8.3), in cleartext; nothing: it is
// not one. `challenges` may be null.
std::optional<std::string> FindChallenge(const tls::AcmeChallenges* challenges, const http::Request& request,
                                         const http::ConnectionInfo& connection, const RequestFacts& facts,
                                         Target* target);

// Whether the path is a built-in route's; then what it is counted as is set. `serves_metrics`: there is a page.
bool FindBuiltin(const ExchangeOptions& options, bool serves_metrics, std::string_view path, Target* target);
// `{"message": ..., "time": ...}` of /health and /test-rate-limit. `series`: Target::series.
std::string BuiltinBody(uint32_t series, std::chrono::system_clock::time_point time);

// "Allow: ..." of a 405, or of OPTIONS that asks the gateway itself. Without a route CONNECT and TRACE are not served.
inline constexpr std::string_view kServedMethodsField = "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n";
void AppendAllowedMethods(const RouteMatch& match, std::string* fields);

// The fields of a preflight's 204, appended to `fields`. What it denies is not a refusal: the response is the same, and
// the log has the policy and the detail that it gives.
Refusal AppendPreflight(const CorsPolicy& cors, const Preflight& preflight, const http::Request& request,
                        std::string* fields);
// The CORS fields of any other response of the gateway's own, so that scripts can read refusals too.
void AppendCorsFields(const RequestContext& context, std::string* fields);

// The edits of policy for a response of the gateway's own: null for refusals and preflights.
const FieldEditsPolicy* ResponseEditsOf(const RequestContext& context);

// The fields of a 3xx, appended to `fields`: a Location made of the request's parts, as far as policy names no others.
std::optional<Refusal> AppendRedirect(const RedirectPolicy& redirect, const RequestContext& context,
                                      std::string* fields);

// A fixed response; appends to both.
void AppendFixedResponse(const RespondPolicy& respond, const RequestContext& context, std::string* fields,
                         std::string* body);

// The body of a refusal: `{"error": ..., "code": ..., ...}`. `details`: with what only operators should see.
std::string RefusalBody(const RequestContext& context, bool details);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_STAGES_LOCAL_RESPONSE_H_
