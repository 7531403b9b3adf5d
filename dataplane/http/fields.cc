#include "dataplane/http/fields.h"

#include "dataplane/http/http1/head.h"

namespace gateway::dataplane::http {
namespace {

using http1::EqualsFolded;

constexpr char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

bool StartsWithFolded(std::string_view name, std::string_view known) {
  return name.size() >= known.size() && EqualsFolded(name.substr(0, known.size()), known);
}

FieldKind ClassifyFolded(std::string_view name) {
  const auto is = [&](std::string_view known) { return EqualsFolded(name, known); };
  switch (Lower(name.empty() ? '\0' : name[0])) {
    case 'c':
      if (is("connection")) return FieldKind::kConnection;
      if (is("content-length")) return FieldKind::kContentLength;
      if (is("client-cert") || is("client-cert-chain")) return FieldKind::kIdentity;
      break;
    case 'd':
      if (is("date")) return FieldKind::kDate;
      break;
    case 'e':
      if (is("expect")) return FieldKind::kExpect;
      break;
    case 'f':
      if (is("forwarded")) return FieldKind::kForwardedOther;
      break;
    case 'h':
      if (is("host")) return FieldKind::kHost;
      if (is("http2-settings")) return FieldKind::kHopByHop;  // asks for h2c, which the gateway never upgrades to
      break;
    case 'k':
      if (is("keep-alive")) return FieldKind::kHopByHop;
      break;
    case 'm':
      if (is("max-forwards")) return FieldKind::kMaxForwards;
      break;
    case 'p':
      if (StartsWithFolded(name, "proxy-")) return FieldKind::kHopByHop;
      break;
    case 't':
      if (is("te") || is("trailer")) return FieldKind::kHopByHop;
      if (is("transfer-encoding")) return FieldKind::kTransferEncoding;
      break;
    case 'u':
      if (is("upgrade")) return FieldKind::kUpgrade;
      if (is("user-agent")) return FieldKind::kUserAgent;
      break;
    case 'v':
      if (is("via")) return FieldKind::kVia;
      break;
    case 'x':
      if (StartsWithFolded(name, "x-forwarded-")) {
        if (is("x-forwarded-for")) return FieldKind::kForwardedFor;
        if (is("x-forwarded-proto")) return FieldKind::kForwardedProto;
        if (is("x-forwarded-host")) return FieldKind::kForwardedHost;
        if (is("x-forwarded-client-cert")) return FieldKind::kIdentity;
        return FieldKind::kForwardedOther;
      }
      if (is("x-real-ip")) return FieldKind::kForwardedOther;
      if (is("x-request-id")) return FieldKind::kRequestId;
      if (StartsWithFolded(name, "x-gateway-")) return FieldKind::kGateway;
      if (is("x-consumer") || StartsWithFolded(name, "x-consumer-")) return FieldKind::kIdentity;
      break;
    default:
      break;
  }
  return FieldKind::kOther;
}

}  // namespace

FieldKind ClassifyField(std::string_view name) {
  const FieldKind kind = ClassifyFolded(name);
  if (kind == FieldKind::kOther || name.find('_') == std::string_view::npos) return kind;
  return FieldKind::kLookalike;
}

bool IsIdempotent(std::string_view method) {
  return method == "GET" || method == "HEAD" || method == "PUT" || method == "DELETE" || method == "OPTIONS";
}

}  // namespace gateway::dataplane::http
