#include "dataplane/proxy/request_context.h"

#include "dataplane/http/http1/head.h"

namespace gateway::dataplane {

bool IsHttps(const http::Request& request, const http::ConnectionInfo& connection) {
  if (connection.peer_trusted) {
    for (size_t i = 0; i < request.fields.size(); ++i) {
      if (request.kinds[i] != http::FieldKind::kForwardedProto) continue;
      return http1::EqualsIgnoreCase(request.fields[i].value, "https");
    }
  }
  return connection.tls != nullptr;
}

TextValues ValuesOf(const RequestContext& context) {
  const RouteMatch& match = context.target.match;
  return {.client_ip = context.facts.client_ip,
          .request_id = context.facts.request_id,
          .consumer = context.caller.consumer,
          .host = context.facts.host,
          .path = context.facts.path,
          .method = context.header.method,
          .route = match.route->name,
          .variables = {match.variables.data(), match.variables.size()}};
}

}  // namespace gateway::dataplane
