#include "dataplane/proxy/stages/identify.h"

#include <algorithm>
#include <string_view>

#include "dataplane/http/http1/head.h"
#include "dataplane/net/socket.h"

namespace gateway::dataplane {
namespace {

constexpr size_t kTrustedIdBytesMax = 128;

// Characters allowed in a request ID from a trusted peer. The set is safe in logs and headers.
bool IsUsableRequestId(std::string_view id) {
  return !id.empty() && id.size() <= kTrustedIdBytesMax && std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' ||
           c == '.' || c == ':' || c == '/' || c == '+' || c == '=' || c == '@';
  });
}

// Of "192.0.2.1:80", "[2001:db8::1]:80" and "[2001:db8::1]" the address, as some proxies write it.
std::string_view WithoutPort(std::string_view text) {
  if (text.front() == '[') return text.substr(1, std::min(text.find(']'), text.size()) - 1);
  const size_t colon = text.find(':');
  return colon == text.rfind(':') ? text.substr(0, colon) : text;
}

void ReadForwardedFor(const http::Request& request, const AddressSet& trusted_proxies, RequestFacts* facts) {
  for (size_t i = request.fields.size(); i-- > 0;) {
    if (request.kinds[i] != http::FieldKind::kForwardedFor) continue;
    std::string_view list = request.fields[i].value;
    while (!list.empty()) {
      const size_t comma = list.rfind(',');
      std::string_view each = comma == std::string_view::npos ? list : list.substr(comma + 1);
      list = comma == std::string_view::npos ? std::string_view() : list.substr(0, comma);
      each = http1::Trim(each);
      if (each.empty()) continue;
      in6_addr address;
      if (!ParseIp(WithoutPort(each), &address)) return;  // the chain is broken: keep the last good address
      facts->client_address = address;
      facts->client_ip_storage = IpText(address);
      facts->client_ip = facts->client_ip_storage;
      if (!trusted_proxies.Contains(address)) return;
    }
  }
}

}  // namespace

void RemoveIdentityFields(const IdentityFields& named, http::Request* request) {
  size_t kept = 0;
  for (size_t i = 0; i < request->fields.size(); ++i) {
    if (request->kinds[i] == http::FieldKind::kIdentity) continue;
    if (!named.empty() && named.Has(request->fields[i].name)) continue;
    if (kept != i) {
      request->fields[kept] = request->fields[i];
      request->kinds[kept] = request->kinds[i];
    }
    ++kept;
  }
  request->fields.resize(kept);
  request->kinds.resize(kept);
}

void Identify(const http::Request& request, const http::ConnectionInfo& connection, bool readable,
              const AddressSet& trusted_proxies, RequestIds* ids, RequestFacts* facts) {
  facts->client_ip = connection.peer_ip;
  facts->client_address = connection.peer;
  std::string_view offered_id;
  if (connection.peer_trusted && readable) {
    ReadForwardedFor(request, trusted_proxies, facts);
    for (size_t i = 0; i < request.fields.size(); ++i) {
      if (request.kinds[i] == http::FieldKind::kRequestId) offered_id = request.fields[i].value;
    }
  }
  if (IsUsableRequestId(offered_id)) {
    facts->request_id = offered_id;
  } else {
    ids->Next(facts->request_id_storage);
    facts->request_id = std::string_view(facts->request_id_storage, sizeof facts->request_id_storage);
  }
}

}  // namespace gateway::dataplane
