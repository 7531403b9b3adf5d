// The two headers that an exchange sends on: the request to the endpoint, the response to the client. Hop-by-hop fields
// are removed before the gateway adds its own (RFC 9110, section 7.6.1).
#ifndef GATEWAY_DATAPLANE_PROXY_HEADER_RULES_H_
#define GATEWAY_DATAPLANE_PROXY_HEADER_RULES_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "absl/container/inlined_vector.h"
#include "dataplane/http/message.h"
#include "dataplane/proxy/exchange_resources.h"
#include "dataplane/proxy/request_context.h"
#include "dataplane/state/serving_state.h"

namespace gateway::dataplane {

// Fields of the other side that are passed on.
using FieldList = absl::InlinedVector<FieldView, 32>;

// The request as `endpoint` gets it, in attempt number `attempt` (from 1). `copy_bytes`: it is a mirror's copy, whose
// body is complete and this long. Views are into the request, `*fields` and the worker's scratch: they hold until the
// next wait.
http::OutgoingRequest BuildRequest(const RequestContext& context, const Endpoint& endpoint, uint32_t attempt,
                                   std::optional<size_t> copy_bytes, ExchangeResources* resources, FieldList* fields);

// The response as the client gets it. Removes from `response` the fields that are not passed on. `session_cookie`: a
// whole line, or empty. Views hold as above.
http::OutgoingResponse BuildResponse(const RequestContext& context, std::string_view session_cookie,
                                     ExchangeResources* resources, http::Response* response);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_HEADER_RULES_H_
