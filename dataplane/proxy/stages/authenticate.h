// Who calls: the stage between the limits that need no identity and those that do.
#ifndef GATEWAY_DATAPLANE_PROXY_STAGES_AUTHENTICATE_H_
#define GATEWAY_DATAPLANE_PROXY_STAGES_AUTHENTICATE_H_

#include <netinet/in.h>

#include <optional>
#include <string>
#include <string_view>

#include "common/policy/snapshot.h"
#include "dataplane/auth/auth.h"
#include "dataplane/http/connection_info.h"
#include "dataplane/http/message.h"
#include "dataplane/net/event_loop.h"
#include "dataplane/net/task.h"
#include "dataplane/proxy/refusal.h"
#include "dataplane/proxy/request_context.h"

namespace gateway::dataplane {

// References outlive the stage.
struct AuthInput {
  const BoundAuth& auth;
  const ConsumerTable& consumers;
  const http::Request& request;
  const http::TlsInfo* tls;  // null: cleartext
  const in6_addr& client_address;
  EventLoop& loop;
  TokenCache& tokens;
  Authentication& shared;
  std::string& scratch;  // used for steps without a wait in them
  int worker;
};

// Refuses (421) a request for another host than the connection's, if that host's callers are known by their
// certificates: what the client was willing to show to one name says nothing to another (RFC 9110, section 15.5.20).
std::optional<Refusal> CheckDirection(const BoundAuth& auth, const http::TlsInfo* tls, std::string_view host);

// Any method that lets the request in is enough; those that cost least are tried first. Waits only after every method
// has been tried, so an issuer whose keys are not available delays only the requests that need them. Sets `caller`,
// also of one that is refused.
Task<std::optional<Refusal>> Authenticate(const AuthInput& in, Caller* caller);

// One WWW-Authenticate field for each method, for a 401 or a 403 (RFC 9110, section 11.6.1; RFC 6750, section 3).
void AppendChallenges(const BoundAuth& auth, JwtRefusal token_refusal, std::string* fields);

// Whether a field of the request holds credentials that are meant for the gateway alone.
bool IsSpentCredential(const BoundAuth& auth, const FieldView& field);

// What the service is told about the caller, as field lines.
void AppendForwardedIdentity(const AuthPolicy& auth, const Caller& caller, const http::TlsInfo* tls,
                             std::string* fields);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_STAGES_AUTHENTICATE_H_
