// The two heads that an exchange writes: the request to the endpoint, the answer to the client. What is hop by hop goes
// before anything of ours is added (RFC 9110, section 7.6.1).
#include <charconv>
#include <cstring>
#include <string>

#include "common/base/text.h"
#include "dataplane/proxy/exchange.h"

namespace gateway::dataplane {
namespace {

using http1::FieldKind;

// Writes into room that was made before; the caller knows a bound.
class HeadWriter {
 public:
  explicit HeadWriter(Buffer* out) : out_(out), at_(out->space()) {}
  ~HeadWriter() { out_->Filled(static_cast<size_t>(at_ - out_->space())); }
  HeadWriter(const HeadWriter&) = delete;
  HeadWriter& operator=(const HeadWriter&) = delete;

  HeadWriter& operator<<(std::string_view text) {
    std::memcpy(at_, text.data(), text.size());
    at_ += text.size();
    return *this;
  }
  HeadWriter& operator<<(uint64_t number) {
    at_ = std::to_chars(at_, at_ + 20, number).ptr;
    return *this;
  }
  void Field(std::string_view name, std::string_view value) { *this << name << ": " << value << "\r\n"; }
  // Where others write; MoveTo says how far they came.
  char* at() const { return at_; }
  void MoveTo(char* end) { at_ = end; }

 private:
  Buffer* out_;
  char* at_;
};

// Room for everything that is not copied from the other head: our own fields, at their longest.
constexpr size_t kOwnFieldsBytesMax = 2048;

constexpr std::string_view kChangeToWebSocket = "Connection: Upgrade\r\nUpgrade: websocket\r\n";

bool MakeRoom(BufferPool* pool, Buffer* out, size_t bytes) {
  return out->room() >= bytes || (bytes <= BufferPool::kSizes.back() && pool->Grow(out, bytes));
}

// What a service says of limits of its own gives way to ours: two values of one field are none.
bool IsLimitField(std::string_view name) {
  if (name.size() < 15 || (name[0] | 0x20) != 'r') return false;
  return http1::EqualsIgnoreCase(name, "RateLimit-Limit") || http1::EqualsIgnoreCase(name, "RateLimit-Remaining") ||
         http1::EqualsIgnoreCase(name, "RateLimit-Reset");
}

}  // namespace

std::string Exchange::ForwardedForValue() const {
  std::string value;
  if (client_->peer_trusted) {
    for (size_t i = 0; i < head_.fields.size(); ++i) {
      if (head_.kinds[i] == FieldKind::kForwardedFor && !head_.fields[i].value.empty()) {
        Append(&value, head_.fields[i].value, ", ");
      }
    }
  }
  value += client_->peer_ip;
  return value;
}

bool Exchange::BuildUpstreamHead(const Endpoint& endpoint, std::optional<size_t> copy_bytes, Buffer* out) {
  const RoutePolicy& route = *match_.route;
  std::string_view path = path_;
  if (route.rewrite_regex != nullptr) {
    path = rewritten_;
  } else if (route.rewrites) {
    std::string& rewritten = worker_->scratch();
    rewritten.clear();
    Snapshot::Rewrite(match_, path_, &rewritten);
    path = rewritten;
  }
  std::string_view host = route.rewrite_host;
  if (host.empty()) host = head_.host;
  if (host.empty()) host = endpoint.name;
  const BoundAuth* const auth = route_->auth;
  std::string& told = worker_->field_scratch();
  told.clear();
  if (auth != nullptr) AppendForwarded(&told);
  const FieldEditsPolicy* const edits = route.request_headers.get();
  const FieldEditsPolicy* query_edits = route.request_query.get();
  TextValues values;
  size_t edited_bytes = told.size();
  if (edits != nullptr || query_edits != nullptr) {
    values = Values();
    if (edits != nullptr) edited_bytes += AddedFieldBytesMax(*edits, values);
    if (query_edits != nullptr) edited_bytes += EditedQueryBytesMax(head_.query, *query_edits, values);
  }
  const auto stays = [edits](std::string_view name) { return edits == nullptr || !Replaces(*edits, name); };
  // Each field is copied once at most, X-Forwarded-For's values together; a byte more where no space was behind a
  // colon.
  if (!MakeRoom(
          &worker_->buffers(), out,
          head_.bytes + head_.fields.size() + path.size() + 2 * host.size() + edited_bytes + kOwnFieldsBytesMax)) {
    return false;
  }

  HeadWriter writer(out);
  writer << head_.method << " " << path;
  if (path == "*") query_edits = nullptr;  // which has no query
  if (query_edits != nullptr) {
    char* const question = writer.at();
    writer << "?";
    char* const end = WriteEditedQuery(head_.query, *query_edits, values, writer.at());
    writer.MoveTo(end == question + 1 ? question : end);
  } else if (head_.has_query) {
    writer << "?" << head_.query;
  }
  writer << " HTTP/1.1\r\n";
  writer.Field("Host", host);
  const bool trusted = client_->peer_trusted;
  bool proto_sent = false;
  bool host_sent = false;
  bool forwarded_for_kept = false;
  bool max_forwards_sent = false;
  for (size_t i = 0; i < head_.fields.size(); ++i) {
    const FieldView& field = head_.fields[i];
    if (auth != nullptr && IsSpentCredential(field)) continue;
    switch (head_.kinds[i]) {
      case FieldKind::kHost:
      case FieldKind::kConnection:
      case FieldKind::kHopByHop:
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
        // Once: the number may be longer than what a field had, and the room was computed from the received header.
        if (!max_forwards_sent) writer << field.name << ": " << *head_.max_forwards - 1 << "\r\n";
        max_forwards_sent = true;
        continue;
      case FieldKind::kVia:  // Connection can't take away where a request has been
        break;
      default:
        if (!head_.nominated.empty() && head_.Nominates(field.name)) continue;
        break;
    }
    if (stays(field.name)) writer.Field(field.name, field.value);
  }
  if (stays("X-Forwarded-For")) {
    if (forwarded_for_kept) {
      writer.Field("X-Forwarded-For", ForwardedForValue());
    } else {
      writer.Field("X-Forwarded-For", client_->peer_ip);
    }
  }
  if (!proto_sent && stays("X-Forwarded-Proto"))
    writer.Field("X-Forwarded-Proto", client_->secure() ? "https" : "http");
  if (!host_sent && !head_.host.empty() && stays("X-Forwarded-Host")) writer.Field("X-Forwarded-Host", head_.host);
  if (stays("X-Request-Id")) writer.Field("X-Request-Id", request_id_);
  if (edits != nullptr) writer.MoveTo(WriteAddedFields(*edits, values, writer.at()));
  writer.Field("Via", head_.minor_version == 0 ? "1.0 gateway" : "1.1 gateway");
  writer << told;
  if (service_->policy->retry != nullptr) writer << "X-Gateway-Attempt: " << uint64_t{retries_} + 1 << "\r\n";
  if (copy_bytes) {
    writer << "X-Gateway-Mirror: 1\r\n";
    if (head_.HasBody()) writer << "Content-Length: " << *copy_bytes << "\r\n";
    writer << "\r\n";
    return true;
  }
  if (upgrading_) writer << kChangeToWebSocket;
  if (head_.chunked) {
    writer << "Transfer-Encoding: chunked\r\n";
  } else if (head_.has_length) {
    writer << "Content-Length: " << head_.length << "\r\n";
  }
  writer << "\r\n";
  return true;
}

bool Exchange::BuildAnswerHead(const http1::ResponseHead& answer, bool chunked, bool with_length, Buffer* out) {
  // An endpoint that fails is none to come back to.
  std::string session;
  if (sets_session_ && (answer.status == 101 || (answer.status >= 200 && answer.status < 500))) {
    AppendSessionCookie(&session);
  }
  // What policy does to an answer it does to the final one.
  const FieldEditsPolicy* const edits = answer.status >= 200 ? match_.route->response_headers.get() : nullptr;
  const CorsPolicy* const cors = answer.status >= 200 ? match_.route->cors.get() : nullptr;
  TextValues values;
  CorsGrant grant;
  size_t edited_bytes = session.size();
  if (edits != nullptr) {
    values = Values();
    edited_bytes += AddedFieldBytesMax(*edits, values);
  }
  if (cors != nullptr) {
    grant = GrantFor(*cors, FindOrigin({head_.fields.data(), head_.fields.size()}));
    edited_bytes += grant.bytes();
  }
  const auto stays = [edits](std::string_view name) { return edits == nullptr || !Replaces(*edits, name); };
  if (!MakeRoom(&worker_->buffers(), out, 2 * answer.bytes + edited_bytes + kOwnFieldsBytesMax)) return false;
  HeadWriter writer(out);
  writer << "HTTP/1.1 " << static_cast<uint64_t>(answer.status) << " " << answer.phrase << "\r\n";
  bool dated = false;
  bool varies = cors == nullptr;  // as it has to
  for (size_t i = 0; i < answer.fields.size(); ++i) {
    const FieldView& field = answer.fields[i];
    switch (answer.kinds[i]) {
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
        if (limit_policy_ != nullptr && IsLimitField(answer.fields[i].name)) continue;
        if (!answer.nominated.empty() && answer.Nominates(field.name)) continue;
        break;
    }
    if (!stays(field.name) || (cors != nullptr && IsCorsField(field.name))) continue;
    if (!varies && http1::EqualsIgnoreCase(field.name, "vary")) {
      writer << field.name << ": " << field.value;
      if (!VariesByOrigin(field.value)) writer << (field.value.empty() ? "" : ", ") << kCorsVary;
      writer << "\r\n";
      varies = true;
      continue;
    }
    writer.Field(field.name, field.value);
  }
  writer << session;
  if (!varies) writer.Field("Vary", kCorsVary);
  if (!grant.allow_origin.empty()) writer.MoveTo(grant.Write(writer.at()));
  if (answer.status == 101) {
    writer.Field("X-Request-Id", request_id_);
    writer << kChangeToWebSocket;
  } else if (answer.status >= 200) {
    if (!dated && stays("Date")) writer.Field("Date", worker_->HttpDate());
    if (stays("X-Request-Id")) writer.Field("X-Request-Id", request_id_);
    if (limit_policy_ != nullptr) {
      writer << "RateLimit-Limit: " << limit_.limit << "\r\nRateLimit-Remaining: " << limit_.remaining
             << "\r\nRateLimit-Reset: " << static_cast<uint64_t>(CeilSeconds(limit_.reset)) << "\r\n";
    }
    if (edits != nullptr) writer.MoveTo(WriteAddedFields(*edits, values, writer.at()));
    if (options_.error_details) {
      writer << "X-Gateway-Revision: " << (*state_)->snapshot->revision() << "\r\n";
      writer.Field("X-Gateway-Route", match_.route->name);
    }
    if (with_length) {
      writer << "Content-Length: " << answer.length << "\r\n";
    } else if (chunked) {
      writer << "Transfer-Encoding: chunked\r\n";
    }
    if (client_->ending()) {
      writer << "Connection: close\r\n";
    } else if (head_.minor_version == 0) {
      writer << "Connection: keep-alive\r\n";
    }
  }
  writer << "\r\n";
  return true;
}

}  // namespace gateway::dataplane
