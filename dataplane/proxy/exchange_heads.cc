// The two heads that an exchange sends on: the request to the endpoint, the response to the client. What is hop by hop
// goes before anything of ours is added (RFC 9110, section 7.6.1).
#include <string>

#include "common/base/text.h"
#include "dataplane/http/http1/head.h"
#include "dataplane/proxy/exchange.h"

namespace gateway::dataplane {
namespace {

using http::FieldKind;
using http::FieldLines;

// Room for our own fields, at their longest, beside what is copied from the request or the response.
constexpr size_t kOwnFieldsBytesMax = 2048;

// What a service says of limits of its own gives way to ours: two values of one field are none.
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

}  // namespace

std::string Exchange::ForwardedForValue() const {
  std::string value;
  if (stream_.connection().peer_trusted) {
    for (size_t i = 0; i < head_.fields.size(); ++i) {
      if (head_.kinds[i] == FieldKind::kForwardedFor && !head_.fields[i].value.empty()) {
        Append(&value, head_.fields[i].value, ", ");
      }
    }
  }
  value += stream_.connection().peer_ip;
  return value;
}

http::OutgoingRequest Exchange::BuildRequest(const Endpoint& endpoint, std::optional<size_t> copy_bytes,
                                             FieldList* fields) {
  const RoutePolicy& route = *match_.route;
  const http::ConnectionInfo& connection = stream_.connection();
  http::OutgoingRequest request;
  request.method = head_.method;
  request.scheme = endpoint.tls != nullptr ? "https" : "http";
  request.path = path_;
  if (route.rewrite_regex != nullptr) {
    request.path = rewritten_;
  } else if (route.rewrites) {
    std::string& rewritten = worker_->scratch();
    rewritten.clear();
    Snapshot::Rewrite(match_, path_, &rewritten);
    request.path = rewritten;
  }
  request.authority = route.rewrite_host;
  if (request.authority.empty()) request.authority = head_.authority;
  if (request.authority.empty()) request.authority = endpoint.name;
  const BoundAuth* const auth = route_->auth;
  std::string& told = worker_->field_scratch();
  told.clear();
  if (auth != nullptr) AppendForwarded(&told);
  const FieldEditsPolicy* const edits = route.request_headers.get();
  const FieldEditsPolicy* const query_edits = request.path == "*" ? nullptr : route.request_query.get();
  TextValues values;
  size_t edited_bytes = told.size();
  if (edits != nullptr || query_edits != nullptr) {
    values = Values();
    if (edits != nullptr) edited_bytes += AddedFieldBytesMax(*edits, values);
    if (query_edits != nullptr) edited_bytes += EditedQueryBytesMax(head_.query, *query_edits, values);
  }
  const auto stays = [edits](std::string_view name) { return edits == nullptr || !Replaces(*edits, name); };
  // Of the request no more is copied than X-Forwarded-For's values, together, and its host.
  FieldLines& lines = worker_->lines();
  lines.Start(head_.bytes + head_.authority.size() + edited_bytes + kOwnFieldsBytesMax);
  request.query = head_.query;
  request.has_query = head_.has_query;
  if (query_edits != nullptr) {
    lines.MoveTo(WriteEditedQuery(head_.query, *query_edits, values, lines.at()));
    request.query = lines.Cut();
    request.has_query = !request.query.empty();
  }

  const bool trusted = connection.peer_trusted;
  bool proto_sent = false;
  bool host_sent = false;
  bool forwarded_for_kept = false;
  bool max_forwards_sent = false;
  for (size_t i = 0; i < head_.fields.size(); ++i) {
    const FieldView& field = head_.fields[i];
    if (auth != nullptr && IsSpentCredential(field)) continue;
    switch (head_.kinds[i]) {
      case FieldKind::kHopByHop:
        // Of HTTP/2, where it can say nothing else. (A response's trailers are lost to a client of HTTP/1.1.)
        if (head_.version == http::Version::kHttp2 && field.name == "te") request.takes_trailers = true;
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
        if (!head_.expect_continue || copy_bytes) continue;
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
        if (!head_.max_forwards) break;
        if (!max_forwards_sent) lines << field.name << ": " << *head_.max_forwards - 1 << "\r\n";
        max_forwards_sent = true;
        continue;
      default:
        break;
    }
    if (stays(field.name)) fields->push_back(field);
  }
  if (stays("X-Forwarded-For")) {
    if (forwarded_for_kept) {
      lines.Add("X-Forwarded-For", ForwardedForValue());
    } else {
      lines.Add("X-Forwarded-For", connection.peer_ip);
    }
  }
  if (!proto_sent && stays("X-Forwarded-Proto")) lines.Add("X-Forwarded-Proto", connection.scheme());
  if (!host_sent && !head_.authority.empty() && stays("X-Forwarded-Host")) {
    lines.Add("X-Forwarded-Host", head_.authority);
  }
  if (stays("X-Request-Id")) lines.Add("X-Request-Id", request_id_);
  if (edits != nullptr) lines.MoveTo(WriteAddedFields(*edits, values, lines.at()));
  lines << "Via: " << VersionOf(head_.version) << options_.via << "\r\n";
  lines << told;
  if (service_->policy->retry != nullptr) lines << "X-Gateway-Attempt: " << uint64_t{retries_} + 1 << "\r\n";
  if (copy_bytes) lines << "X-Gateway-Mirror: 1\r\n";
  request.lines = lines.Cut();
  request.fields = {fields->data(), fields->size()};
  if (!web_type_.empty()) request.takes_trailers = true;  // they go on in the response's body
  request.has_body = head_.has_body;
  request.length = head_.length;
  if (copy_bytes) {
    request.length.reset();
    if (head_.has_body) request.length = *copy_bytes;
  } else if (upgrading_) {
    request.protocol = head_.protocol;
  }
  return request;
}

http::OutgoingResponse Exchange::BuildResponse(http::Response* response) {
  // An endpoint that fails is none to come back to.
  std::string session;
  if (sets_session_ && (response->status == 101 || (response->status >= 200 && response->status < 500))) {
    AppendSessionCookie(&session);
  }
  // What policy does to a response it does to the final one.
  const FieldEditsPolicy* const edits = response->status >= 200 ? match_.route->response_headers.get() : nullptr;
  const CorsPolicy* const cors = response->status >= 200 ? match_.route->cors.get() : nullptr;
  TextValues values;
  CorsGrant grant;
  size_t edited_bytes = session.size();
  if (edits != nullptr) {
    values = Values();
    edited_bytes += AddedFieldBytesMax(*edits, values);
  }
  if (cors != nullptr) {
    grant = GrantFor(*cors, FindOrigin(head_.field_views()));
    edited_bytes += grant.bytes();
  }
  const auto stays = [edits](std::string_view name) { return edits == nullptr || !Replaces(*edits, name); };
  FieldLines& lines = worker_->lines();
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
        if (limit_policy_ != nullptr && IsLimitField(field.name)) continue;
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
  lines << session;
  if (!varies) lines.Add("Vary", kCorsVary);
  if (!grant.allow_origin.empty()) lines.MoveTo(grant.Write(lines.at()));
  if (response->status == 101) {
    lines.Add("X-Request-Id", request_id_);
  } else if (response->status >= 200) {
    if (!dated && stays("Date")) lines.Add("Date", worker_->HttpDate());
    if (stays("X-Request-Id")) lines.Add("X-Request-Id", request_id_);
    if (limit_policy_ != nullptr) {
      lines << "RateLimit-Limit: " << limit_.limit << "\r\nRateLimit-Remaining: " << limit_.remaining
            << "\r\nRateLimit-Reset: " << static_cast<uint64_t>(CeilSeconds(limit_.reset)) << "\r\n";
    }
    if (edits != nullptr) lines.MoveTo(WriteAddedFields(*edits, values, lines.at()));
    if (options_.error_details) {
      lines << "X-Gateway-Revision: " << (*state_)->snapshot->revision() << "\r\n";
      lines.Add("X-Gateway-Route", match_.route->name);
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
