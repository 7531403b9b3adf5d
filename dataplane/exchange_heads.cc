// The two heads that an exchange writes: the request to the endpoint, the answer to the client. What is hop by hop goes
// before anything of ours is added (RFC 9110, section 7.6.1).
#include <charconv>
#include <cstring>
#include <string>

#include "common/text.h"
#include "dataplane/exchange.h"

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

}  // namespace

void Exchange::AppendText(const TextTemplate& text, std::string* out) const {
  for (const TextPiece& piece : text) {
    switch (piece.kind) {
      case TextPiece::Kind::kLiteral:
        out->append(piece.literal);
        break;
      case TextPiece::Kind::kClientIp:
        out->append(client_ip_);
        break;
      case TextPiece::Kind::kRequestId:
        out->append(request_id_);
        break;
      case TextPiece::Kind::kConsumer:
        out->append(consumer_);
        break;
      case TextPiece::Kind::kHost:
        out->append(host_);
        break;
      case TextPiece::Kind::kPath:
        out->append(path_);
        break;
      case TextPiece::Kind::kMethod:
        out->append(head_.method);
        break;
      case TextPiece::Kind::kRoute:
        out->append(match_.route->name);
        break;
      case TextPiece::Kind::kPathVariable:
        out->append(match_.variables[static_cast<size_t>(piece.variable)]);
        break;
    }
  }
}

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

bool Exchange::BuildUpstreamHead(const UpstreamConnection& upstream, Buffer* out) {
  const RoutePolicy& route = *match_.route;
  std::string_view path = path_;
  if (route.rewrites) {
    std::string& rewritten = worker_->scratch();
    rewritten.clear();
    // A regex that makes no path of it: the service sees it as it came.
    if (Snapshot::Rewrite(match_, path_, &rewritten)) path = rewritten;
  }
  std::string_view host = route.rewrite_host;
  if (host.empty()) host = head_.host;
  if (host.empty()) host = upstream.endpoint->name;
  // X-Forwarded-For of a trusted peer is at most what its head held.
  if (!MakeRoom(&worker_->buffers(), out, 2 * head_.bytes + path.size() + host.size() + kOwnFieldsBytesMax))
    return false;

  HeadWriter writer(out);
  writer << head_.method << " " << path;
  if (head_.has_query) writer << "?" << head_.query;
  writer << " HTTP/1.1\r\n";
  writer.Field("Host", host);
  const bool trusted = client_->peer_trusted;
  bool proto_sent = false;
  bool host_sent = false;
  bool forwarded_for_kept = false;
  for (size_t i = 0; i < head_.fields.size(); ++i) {
    const FieldView& field = head_.fields[i];
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
        if (!head_.expect_continue) continue;
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
      case FieldKind::kVia:  // Connection can't take away where a request has been
        break;
      default:
        if (!head_.nominated.empty() && head_.Nominates(field.name)) continue;
        break;
    }
    writer.Field(field.name, field.value);
  }
  if (forwarded_for_kept) {
    writer.Field("X-Forwarded-For", ForwardedForValue());
  } else {
    writer.Field("X-Forwarded-For", client_->peer_ip);
  }
  if (!proto_sent) writer.Field("X-Forwarded-Proto", "http");
  if (!host_sent && !head_.host.empty()) writer.Field("X-Forwarded-Host", head_.host);
  writer.Field("X-Request-Id", request_id_);
  writer.Field("Via", head_.minor_version == 0 ? "1.0 gateway" : "1.1 gateway");
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
  if (!MakeRoom(&worker_->buffers(), out, 2 * answer.bytes + kOwnFieldsBytesMax)) return false;
  HeadWriter writer(out);
  writer << "HTTP/1.1 " << static_cast<uint64_t>(answer.status) << " " << answer.phrase << "\r\n";
  bool dated = false;
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
        if (!answer.nominated.empty() && answer.Nominates(field.name)) continue;
        break;
    }
    writer.Field(field.name, field.value);
  }
  if (answer.status == 101) {
    writer.Field("X-Request-Id", request_id_);
    writer << kChangeToWebSocket;
  } else if (answer.status >= 200) {
    if (!dated) writer.Field("Date", worker_->HttpDate());
    writer.Field("X-Request-Id", request_id_);
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
