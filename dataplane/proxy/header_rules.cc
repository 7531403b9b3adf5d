#include "dataplane/proxy/header_rules.h"

#include <string>

#include "common/base/text.h"
#include "dataplane/http/http1/head.h"
#include "dataplane/policy/cors.h"
#include "dataplane/policy/transform.h"
#include "dataplane/proxy/stages/authenticate.h"

namespace gateway::dataplane {
namespace {

using http::FieldKind;
using http::FieldLines;

// Space for our own fields, at their longest, beside what is copied from the request or the response.
constexpr size_t kOwnFieldsBytesMax = 2048;

// A service's fields about limits of its own are replaced by ours: two values of one field would be ambiguous.
bool IsLimitField(std::string_view name) {
  if (name.size() < 15 || (name[0] | 0x20) != 'r') return false;
  return http1::EqualsIgnoreCase(name, "RateLimit-Limit") || http1::EqualsIgnoreCase(name, "RateLimit-Remaining") ||
         http1::EqualsIgnoreCase(name, "RateLimit-Reset");
}

std::string_view VersionOf(http::Version version) {
  switch (version) {
    case http::Version::kHttp10:
      return "1.0 ";
    case http::Version::kHttp11:
      return "1.1 ";
    case http::Version::kHttp2:
      return "2.0 ";
  }
  return {};
}

// What the request has of X-Forwarded-For, and the peer behind it. REQUIRES: the peer is trusted.
std::string ForwardedForValue(const http::Request& request, const http::ConnectionInfo& connection) {
  std::string value;
  for (size_t i = 0; i < request.fields.size(); ++i) {
    if (request.kinds[i] == FieldKind::kForwardedFor && !request.fields[i].value.empty()) {
      Append(&value, request.fields[i].value, ", ");
    }
  }
  value += connection.peer_ip;
  return value;
}

}  // namespace

http::OutgoingRequest BuildRequest(const RequestContext& context, const Endpoint& endpoint, uint32_t attempt,
                                   std::optional<size_t> copy_bytes, ExchangeResources* resources, FieldList* fields) {
  const http::Request& received = context.header;
  const RoutePolicy& route = context.target.policy();
  const http::ConnectionInfo& connection = context.stream.connection();
  Scratch& scratch = resources->scratch;
  http::OutgoingRequest request;
  request.method = received.method;
  request.scheme = endpoint.tls != nullptr ? "https" : "http";
  request.path = context.facts.path;
  if (route.rewrite_regex != nullptr) {
    request.path = context.target.rewritten;
  } else if (route.rewrites) {
    scratch.text.clear();
    Snapshot::Rewrite(context.target.match, context.facts.path, &scratch.text);
    request.path = scratch.text;
  }
  request.authority = route.rewrite_host;
  if (request.authority.empty()) request.authority = received.authority;
  if (request.authority.empty()) request.authority = endpoint.name;
  const BoundAuth* const auth = context.target.route->auth;
  std::string& identity = scratch.field_text;
  identity.clear();
  if (auth != nullptr) AppendForwardedIdentity(*auth->policy, context.caller, connection.tls, &identity);
  const FieldEditsPolicy* const edits = route.request_headers.get();
  const FieldEditsPolicy* const query_edits = request.path == "*" ? nullptr : route.request_query.get();
  TextValues values;
  size_t edited_bytes = identity.size();
  if (edits != nullptr || query_edits != nullptr) {
    values = ValuesOf(context);
    if (edits != nullptr) edited_bytes += AddedFieldBytesMax(*edits, values);
    if (query_edits != nullptr) edited_bytes += EditedQueryBytesMax(received.query, *query_edits, values);
  }
  const auto stays = [edits](std::string_view name) { return edits == nullptr || !Replaces(*edits, name); };
  // Only X-Forwarded-For's values, together, and the host are copied from the request.
  FieldLines& lines = scratch.lines;
  lines.Start(received.bytes + received.authority.size() + edited_bytes + kOwnFieldsBytesMax);
  request.query = received.query;
  request.has_query = received.has_query;
  if (query_edits != nullptr) {
    lines.MoveTo(WriteEditedQuery(received.query, *query_edits, values, lines.at()));
    request.query = lines.Cut();
    request.has_query = !request.query.empty();
  }

  const bool trusted = connection.peer_trusted;
  bool proto_sent = false;
  bool host_sent = false;
  bool forwarded_for_kept = false;
  bool max_forwards_sent = false;
  for (size_t i = 0; i < received.fields.size(); ++i) {
    const FieldView& field = received.fields[i];
    if (auth != nullptr && IsSpentCredential(*auth, field)) continue;
    switch (received.kinds[i]) {
      case FieldKind::kHopByHop:
        // In HTTP/2 its only value is "trailers". (A client of HTTP/1.1 does not get a response's trailers.)
        if (received.version == http::Version::kHttp2 && field.name == "te") request.takes_trailers = true;
        continue;
      case FieldKind::kHost:
      case FieldKind::kConnection:
      case FieldKind::kUpgrade:
      case FieldKind::kTransferEncoding:
      case FieldKind::kContentLength:
      case FieldKind::kRequestId:
      case FieldKind::kLookalike:
      case FieldKind::kGateway:
        continue;
      case FieldKind::kForwardedFor:
        forwarded_for_kept = trusted;
        continue;
      case FieldKind::kExpect:
        if (!received.expect_continue || copy_bytes || context.call.is_call) continue;
        break;
      case FieldKind::kForwardedProto:
        if (!trusted || proto_sent) continue;
        proto_sent = true;
        break;
      case FieldKind::kForwardedHost:
        if (!trusted || host_sent) continue;
        host_sent = true;
        break;
      case FieldKind::kForwardedOther:
        if (!trusted) continue;
        break;
      case FieldKind::kMaxForwards:
        if (!received.max_forwards) break;
        if (!max_forwards_sent) lines << field.name << ": " << *received.max_forwards - 1 << "\r\n";
        max_forwards_sent = true;
        continue;
      default:
        break;
    }
    if (stays(field.name)) fields->push_back(field);
  }
  if (stays("X-Forwarded-For")) {
    if (forwarded_for_kept) {
      lines.Add("X-Forwarded-For", ForwardedForValue(received, connection));
    } else {
      lines.Add("X-Forwarded-For", connection.peer_ip);
    }
  }
  if (!proto_sent && stays("X-Forwarded-Proto")) lines.Add("X-Forwarded-Proto", connection.scheme());
  if (!host_sent && !received.authority.empty() && stays("X-Forwarded-Host")) {
    lines.Add("X-Forwarded-Host", received.authority);
  }
  if (stays("X-Request-Id")) lines.Add("X-Request-Id", context.facts.request_id);
  if (edits != nullptr) lines.MoveTo(WriteAddedFields(*edits, values, lines.at()));
  lines << "Via: " << VersionOf(received.version) << resources->options->via << "\r\n";
  lines << identity;
  if (context.target.service->policy->retry != nullptr) {
    lines << "X-Gateway-Attempt: " << uint64_t{attempt} << "\r\n";
  }
  if (copy_bytes) lines << "X-Gateway-Mirror: 1\r\n";
  request.lines = lines.Cut();
  request.fields = {fields->data(), fields->size()};
  if (context.call.web != nullptr) request.takes_trailers = true;  // they are passed on in the response's body
  request.has_body = received.has_body;
  request.length = received.length;
  if (copy_bytes) {
    request.length.reset();
    if (received.has_body) request.length = *copy_bytes;
  } else if (context.facts.upgrading) {
    request.protocol = received.protocol;
  }
  return request;
}

http::OutgoingResponse BuildResponse(const RequestContext& context, std::string_view session_cookie,
                                     ExchangeResources* resources, http::Response* response) {
  const RoutePolicy& route = context.target.policy();
  const LimitTally& limits = context.limits;
  // Policy edits the final response only.
  const FieldEditsPolicy* const edits = response->status >= 200 ? route.response_headers.get() : nullptr;
  const CorsPolicy* const cors = response->status >= 200 ? route.cors.get() : nullptr;
  TextValues values;
  CorsGrant grant;
  size_t edited_bytes = session_cookie.size();
  if (edits != nullptr) {
    values = ValuesOf(context);
    edited_bytes += AddedFieldBytesMax(*edits, values);
  }
  if (cors != nullptr) {
    grant = GrantFor(*cors, FindOrigin(context.header.field_views()));
    edited_bytes += grant.bytes();
  }
  const auto stays = [edits](std::string_view name) { return edits == nullptr || !Replaces(*edits, name); };
  FieldLines& lines = resources->scratch.lines;
  lines.Start((cors == nullptr ? 0 : response->bytes) + edited_bytes + kOwnFieldsBytesMax);
  bool dated = false;
  bool varies = cors == nullptr;  // as it has to
  size_t kept = 0;
  for (size_t i = 0; i < response->fields.size(); ++i) {
    const FieldView& field = response->fields[i];
    switch (response->kinds[i]) {
      case FieldKind::kConnection:
      case FieldKind::kHopByHop:
      case FieldKind::kUpgrade:
      case FieldKind::kTransferEncoding:
      case FieldKind::kContentLength:
      case FieldKind::kRequestId:
      case FieldKind::kGateway:
        continue;
      case FieldKind::kDate:
        dated = true;
        break;
      default:
        if (limits.tightest != nullptr && IsLimitField(field.name)) continue;
        break;
    }
    if (!stays(field.name) || (cors != nullptr && IsCorsField(field.name))) continue;
    if (!varies && http1::EqualsIgnoreCase(field.name, "vary")) {
      lines << field.name << ": " << field.value;
      if (!VariesByOrigin(field.value)) lines << (field.value.empty() ? "" : ", ") << kCorsVary;
      lines << "\r\n";
      varies = true;
      continue;
    }
    if (kept != i) response->fields[kept] = field;
    ++kept;
  }
  lines << session_cookie;
  if (!varies) lines.Add("Vary", kCorsVary);
  if (!grant.allow_origin.empty()) lines.MoveTo(grant.Write(lines.at()));
  if (response->status == 101) {
    lines.Add("X-Request-Id", context.facts.request_id);
  } else if (response->status >= 200) {
    if (!dated && stays("Date")) lines.Add("Date", resources->date.At(resources->loop->wall_now()));
    if (stays("X-Request-Id")) lines.Add("X-Request-Id", context.facts.request_id);
    if (limits.tightest != nullptr) {
      lines << "RateLimit-Limit: " << limits.decision.limit << "\r\nRateLimit-Remaining: " << limits.decision.remaining
            << "\r\nRateLimit-Reset: " << static_cast<uint64_t>(CeilSeconds(limits.decision.reset)) << "\r\n";
    }
    if (edits != nullptr) lines.MoveTo(WriteAddedFields(*edits, values, lines.at()));
    if (resources->options->error_details) {
      lines << "X-Gateway-Revision: " << context.state->snapshot->revision() << "\r\n";
      lines.Add("X-Gateway-Route", route.name);
    }
  }

  http::OutgoingResponse out;
  out.status = response->status;
  out.phrase = response->version == http::Version::kHttp2 ? StatusPhrase(response->status) : response->phrase;
  out.fields = {response->fields.data(), kept};
  out.lines = lines.Cut();
  if (response->status >= 200) {
    out.has_body = response->has_body;
    if (response->status != 204) out.length = response->length;
  }
  return out;
}

}  // namespace gateway::dataplane
