// Cross-origin resource sharing by the Fetch standard (https://fetch.spec.whatwg.org/#http-cors-protocol). Pure: text
// in, text out.
//
// On a route with a Cors the gateway handles this protocol instead of the service: it removes the service's own
// Access-Control-* headers and responds to preflights. A response denies access by the absence of headers: a request
// from an unlisted origin is still served (it may not come from a browser), and no response repeats that origin. "*" is
// sent only if it was configured, which policy allows only without credentials.
#ifndef GATEWAY_DATAPLANE_POLICY_CORS_H_
#define GATEWAY_DATAPLANE_POLICY_CORS_H_

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "common/base/field_view.h"
#include "common/policy/policy.h"

namespace gateway::dataplane {

// Every response on such a route varies by it, also to requests without an Origin.
inline constexpr std::string_view kCorsVary = "Origin";
inline constexpr std::string_view kPreflightVary =
    "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";

// The value of Origin; empty if there is none, or more than one.
std::optional<std::string_view> FindOrigin(std::span<const FieldView> fields);

// Whether `origin`, byte for byte as a browser sends it, is listed.
bool AllowsOrigin(const CorsPolicy& cors, std::string_view origin);

// The headers of a response besides Vary; views into the policy and `origin`.
struct CorsGrant {
  std::string_view allow_origin;  // empty: nothing is granted
  bool credentials = false;
  std::string_view expose_headers;  // empty: no such header
  // An upper bound of the bytes that Write needs.
  size_t bytes() const { return 128 + allow_origin.size() + expose_headers.size(); }
  // Writes whole lines; nothing if nothing is granted. Returns the end.
  char* Write(char* at) const;
  void AppendTo(std::string* fields) const;
};
CorsGrant GrantFor(const CorsPolicy& cors, std::optional<std::string_view> origin);

// A preflight: an OPTIONS request that asks for permission for another request.
struct Preflight {
  std::string_view origin;
  std::string_view method;  // a token
};
// Empty if it is not one: another method, no Origin, or no valid Access-Control-Request-Method.
std::optional<Preflight> ReadPreflight(std::string_view method, std::span<const FieldView> fields);

// Appends the headers of the response (whole lines, including Vary). Returns why the browser will not continue, for the
// log; empty: it may. `fields` are those of the request, for Access-Control-Request-Headers.
const char* AppendPreflightFields(const CorsPolicy& cors, const Preflight& preflight,
                                  std::span<const FieldView> request_fields, std::string* fields);

// Whether a header of a service's response belongs to this protocol, so that only the gateway may set it.
bool IsCorsField(std::string_view name);

// Whether the list `vary` says that responses vary by Origin ("*": by everything).
bool VariesByOrigin(std::string_view vary);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_POLICY_CORS_H_
