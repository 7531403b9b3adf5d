// Cross-origin resource sharing as the Fetch standard has it (https://fetch.spec.whatwg.org/#http-cors-protocol). Pure:
// text in, text out.
//
// On a route with a Cors the gateway speaks this protocol and the service does not: the service's own Access-Control-*
// fields are dropped, preflights are answered here. What a browser may not do it is told by what an answer lacks: a
// request from an origin that is not listed is still served (it may be no browser's), and no answer ever repeats that
// origin. "*" is sent only where it was written, and policy lets it in without credentials only.
#ifndef GATEWAY_DATAPLANE_POLICY_CORS_H_
#define GATEWAY_DATAPLANE_POLICY_CORS_H_

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "common/policy/policy.h"
#include "common/policy/snapshot.h"

namespace gateway::dataplane {

// Every response on such a route differs by it, also those to requests without an Origin.
inline constexpr std::string_view kCorsVary = "Origin";
inline constexpr std::string_view kPreflightVary =
    "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";

// The value of Origin; nothing unless there is exactly one.
std::optional<std::string_view> FindOrigin(std::span<const FieldView> fields);

// Whether `origin`, byte by byte as a browser sends it, is listed.
bool AllowsOrigin(const CorsPolicy& cors, std::string_view origin);

// What a response says beside Vary; views into the policy and `origin`.
struct CorsGrant {
  std::string_view allow_origin;  // empty: nothing is granted
  bool credentials = false;
  std::string_view expose_headers;  // empty: no such field
  // An upper bound of what Write needs.
  size_t bytes() const { return 128 + allow_origin.size() + expose_headers.size(); }
  // Whole lines; nothing if nothing is granted. Gives the end.
  char* Write(char* at) const;
  void AppendTo(std::string* fields) const;
};
CorsGrant GrantFor(const CorsPolicy& cors, std::optional<std::string_view> origin);

// An OPTIONS request that asks for leave in another's name.
struct Preflight {
  std::string_view origin;
  std::string_view method;  // a token
};
// Nothing if it is not a preflight: another method, no Origin, or no Access-Control-Request-Method that is one.
std::optional<Preflight> ReadPreflight(std::string_view method, std::span<const FieldView> fields);

// Appends the fields of the response (whole lines, Vary too). Gives why the browser will not go on, for the log; empty:
// it may. `fields` are the request's, for Access-Control-Request-Headers.
const char* AppendPreflightFields(const CorsPolicy& cors, const Preflight& preflight,
                                  std::span<const FieldView> request_fields, std::string* fields);

// Whether a field of a service's response is of this protocol, and so the gateway's to write.
bool IsCorsField(std::string_view name);

// Whether the list `vary` says that responses differ by Origin ("*": by anything).
bool VariesByOrigin(std::string_view vary);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_POLICY_CORS_H_
