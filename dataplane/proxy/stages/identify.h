// The first stage: who sends the request, as far as the peer may say so.
#ifndef GATEWAY_DATAPLANE_PROXY_STAGES_IDENTIFY_H_
#define GATEWAY_DATAPLANE_PROXY_STAGES_IDENTIFY_H_

#include "common/base/address_set.h"
#include "dataplane/auth/auth.h"
#include "dataplane/http/connection_info.h"
#include "dataplane/http/message.h"
#include "dataplane/proxy/exchange_resources.h"
#include "dataplane/proxy/request_context.h"

namespace gateway::dataplane {

// Removes the fields in which services are told who calls, before anything looks at fields: what a client claims about
// its identity is no condition, no limit's key, and never reaches a service. `named`: those that policy forwards.
void RemoveIdentityFields(const IdentityFields& named, http::Request* request);

// Sets the request's ID and the client's address. Of a trusted peer: the ID that it gives, and from its X-Forwarded-For
// the first address from the right that is not a trusted proxy's (RFC 7239, section 5.2, in that field's spelling).
// `readable`: false for a request whose header was rejected.
void Identify(const http::Request& request, const http::ConnectionInfo& connection, bool readable,
              const AddressSet& trusted_proxies, RequestIds* ids, RequestFacts* facts);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_STAGES_IDENTIFY_H_
