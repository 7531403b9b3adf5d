// Header fields by their names, whatever protocol they came with.
#ifndef GATEWAY_DATAPLANE_HTTP_FIELDS_H_
#define GATEWAY_DATAPLANE_HTTP_FIELDS_H_

#include <cstdint>
#include <string_view>

namespace gateway::dataplane::http {

// What the gateway does with a field, by its name.
enum class FieldKind : uint8_t {
  kOther,
  kHost,
  kConnection,
  kHopByHop,  // Keep-Alive, Proxy-Connection, Proxy-Authenticate, Proxy-Authorization, TE, Trailer
  kUpgrade,
  kTransferEncoding,
  kContentLength,
  kExpect,
  kForwardedFor,    // X-Forwarded-For
  kForwardedProto,  // X-Forwarded-Proto
  kForwardedHost,   // X-Forwarded-Host
  kForwardedOther,  // Forwarded, X-Real-IP, other X-Forwarded-*
  kRequestId,       // X-Request-Id
  kLookalike,       // one of the above or of the forwarding ones, with underscores: dropped always
  kVia,
  kMaxForwards,
  kDate,
  kUserAgent,
  kGateway,  // X-Gateway-*: ours alone
  // X-Consumer, X-Consumer-*, X-Forwarded-Client-Cert, Client-Cert, Client-Cert-Chain: who calls, as only the gateway
  // may say
  kIdentity,
};
FieldKind ClassifyField(std::string_view name);

// RFC 9110, section 9.2.2, of the registered methods.
bool IsIdempotent(std::string_view method);

}  // namespace gateway::dataplane::http

#endif  // GATEWAY_DATAPLANE_HTTP_FIELDS_H_
