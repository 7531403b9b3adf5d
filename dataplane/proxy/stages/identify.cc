#include "dataplane/proxy/stages/identify.h"

#include <algorithm>
#include <string>

#include "common/base/text.h"
#include "common/policy/route/path.h"
#include "dataplane/http/http1/head.h"
#include "dataplane/net/socket.h"

namespace gateway::dataplane {
namespace {

// Characters allowed in a request ID from a trusted peer. The set is safe in logs and headers.
bool IsUsableRequestId(std::string_view id) {
  return !id.empty() && id.size() <= 128 && std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' ||
           c == '.' || c == ':' || c == '/' || c == '+' || c == '=' || c == '@';
  });
}

// The address of "192.0.2.1:80", "[2001:db8::1]:80" and "[2001:db8::1]", as some proxies write it.
std::string_view WithoutPort(std::string_view text) {
  if (text.front() == '[') return text.substr(1, std::min(text.find(']'), text.size()) - 1);
  const size_t colon = text.find(':');
  return colon == text.rfind(':') ? text.substr(0, colon) : text;
}

// The rightmost address of X-Forwarded-For that is not one of ours is the client (RFC 7239, section 5.2, in
// X-Forwarded-For's spelling). Where the chain is broken, the last good one is.
void ReadForwardedFor(const http::Request& head, const AddressSet& trusted_proxies, RequestContext* request) {
  for (size_t i = head.fields.size(); i-- > 0;) {
    if (head.kinds[i] != http::FieldKind::kForwardedFor) continue;
    std::string_view list = head.fields[i].value;
    while (!list.empty()) {
      const size_t comma = list.rfind(',');
      std::string_view each = comma == std::string_view::npos ? list : list.substr(comma + 1);
      list = comma == std::string_view::npos ? std::string_view() : list.substr(0, comma);
      each = http1::Trim(each);
      if (each.empty()) continue;
      in6_addr address;
      if (!ParseIp(WithoutPort(each), &address)) return;
      request->client_address = address;
      request->client_ip_storage = IpText(address);
      request->client_ip = request->client_ip_storage;
      if (!trusted_proxies.Contains(address)) return;
    }
  }
}

}  // namespace

void RemoveIdentityFields(const IdentityFields& named, http::Request* request) {
  size_t kept = 0;
  for (size_t i = 0; i < request->fields.size(); ++i) {
    if (request->kinds[i] == http::FieldKind::kIdentity ||
        (!named.empty() && named.Has(request->fields[i].name))) {
      continue;
    }
    if (kept != i) {
      request->fields[kept] = request->fields[i];
      request->kinds[kept] = request->kinds[i];
    }
    ++kept;
  }
  request->fields.resize(kept);
  request->kinds.resize(kept);
}

bool Identify(const http::DownstreamStream& stream, const AddressSet& trusted_proxies, RequestContext* request) {
  const http::ConnectionInfo& connection = stream.connection();
  request->client_ip = connection.peer_ip;
  request->client_address = connection.peer;
  if (!connection.peer_trusted || stream.rejection()) return false;
  const http::Request& head = request->head;
  ReadForwardedFor(head, trusted_proxies, request);
  std::string_view id;
  for (size_t i = 0; i < head.fields.size(); ++i) {
    if (head.kinds[i] == http::FieldKind::kRequestId) id = head.fields[i].value;
  }
  if (!IsUsableRequestId(id)) return false;
  request->id = id;
  return true;
}

Refusal NormalizeTarget(const http::ConnectionInfo& connection, bool reject_encoded_slashes, RequestContext* request) {
  const http::Request& head = request->head;
  // Only a proxy in front can have had TLS (RFC 9110, section 7.4).
  if (head.scheme == "https" && connection.tls == nullptr && !connection.peer_trusted) {
    return {Reason::kBadRequest, "an https target without TLS"};
  }
  std::string_view host = head.authority;
  if (!host.empty() && host[0] != '[') host = host.substr(0, host.find(':'));
  if (!host.empty() && host[0] == '[') host = host.substr(0, host.find(']') + 1);
  if (!host.empty() && host.back() == '.') host.remove_suffix(1);
  if (host.size() > sizeof request->host_storage) return {Reason::kBadRequest, "Host is too long"};
  request->host = std::string_view(request->host_storage, NormalizeHost(host, request->host_storage));
  request->path = head.path;
  if (request->path == "*" || IsNormalPath(request->path)) return {};
  const PathError error = NormalizePath(head.path, reject_encoded_slashes, &request->normal_storage);
  request->path = request->normal_storage;
  if (error == PathError::kNone) return {};
  request->path = {};
  return {Reason::kBadRequest, PathErrorMessage(error).data()};
}

std::string_view SchemeOf(const http::ConnectionInfo& connection, const http::Request& request) {
  if (connection.peer_trusted) {
    for (size_t i = 0; i < request.fields.size(); ++i) {
      if (request.kinds[i] != http::FieldKind::kForwardedProto) continue;
      return http1::EqualsIgnoreCase(request.fields[i].value, "https") ? "https" : "http";
    }
  }
  return connection.scheme();
}

std::string ForwardedFor(const http::ConnectionInfo& connection, const http::Request& request) {
  std::string value;
  if (connection.peer_trusted) {
    for (size_t i = 0; i < request.fields.size(); ++i) {
      if (request.kinds[i] == http::FieldKind::kForwardedFor && !request.fields[i].value.empty()) {
        Append(&value, request.fields[i].value, ", ");
      }
    }
  }
  value += connection.peer_ip;
  return value;
}

}  // namespace gateway::dataplane
