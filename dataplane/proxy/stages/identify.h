// Who sends a request, and what it asks for in normal form.
#ifndef GATEWAY_DATAPLANE_PROXY_STAGES_IDENTIFY_H_
#define GATEWAY_DATAPLANE_PROXY_STAGES_IDENTIFY_H_

#include "common/base/address_set.h"
#include "dataplane/auth/auth.h"
#include "dataplane/http/stream.h"
#include "dataplane/proxy/request_context.h"

namespace gateway::dataplane {

// Takes away what a client says of its identity, before anything looks at the fields: it is no condition, no limit's key,
// and nothing that a service hears. `named`: fields that policy names beside X-Consumer and X-Consumer-*.
void RemoveIdentityFields(const IdentityFields& named, http::Request* request);

// The client's address, and the id that it gave the request: those of X-Forwarded-For and X-Request-Id where the peer is
// trusted. False: it gave no id that could be used.
bool Identify(const http::DownstreamStream& stream, const AddressSet& trusted_proxies, RequestContext* request);

// Host without port in lower case, and the path in normal form.
Refusal NormalizeTarget(const http::ConnectionInfo& connection, bool reject_encoded_slashes, RequestContext* request);

// What the client used, as far as the connection, or somebody who is trusted, says so: "http" or "https".
std::string_view SchemeOf(const http::ConnectionInfo& connection, const http::Request& request);

// X-Forwarded-For as it goes on: what a trusted peer said, and the peer.
std::string ForwardedFor(const http::ConnectionInfo& connection, const http::Request& request);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_STAGES_IDENTIFY_H_
