#include "dataplane/http/http2/client_stream.h"

#include <openssl/evp.h>

#include <array>
#include <new>
#include <span>
#include <utility>

#include "common/base/base64.h"
#include "dataplane/http/http1/head.h"
#include "dataplane/http/http2/client_session.h"

namespace gateway::dataplane::http2 {

using http::HeadRead;

namespace {

// What a server of HTTP/1.1 responds to the nonce in `fields` with (RFC 6455, section 4.2.2).
std::string WebSocketAccept(std::span<const FieldView> fields) {
  std::string text;
  for (const FieldView& field : fields) {
    if (http1::EqualsIgnoreCase(field.name, kWebSocketKey)) text = http1::Trim(field.value);
  }
  text += "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
  unsigned int size = 0;
  if (EVP_Digest(text.data(), text.size(), digest.data(), &size, EVP_sha1(), nullptr) != 1) throw std::bad_alloc();
  return EncodeBase64(Base64::kStandard, {reinterpret_cast<const char*>(digest.data()), size}) + "=";
}

}  // namespace

ClientStream::ClientStream(ClientSession* session) : StreamCore(session, 0), reused_(session->carried_) {
  drops_trailers_ = true;
}

ClientStream::~ClientStream() {
  AbandonSource();
  session().Release(this);
}

ClientSession& ClientStream::session() const { return static_cast<ClientSession&>(*session_); }

bool ClientStream::connected() const {
  return !session().connecting() && !(needs_settings_ && session().serving() && !session().settings_received_);
}

const char* ClientStream::tls_failure() const { return session().tls_failure_; }

Task<Io> ClientStream::Connect(TimePoint deadline) {
  while (!connected() && !cancelled_) {
    connecting_ = true;
    const Wait wait = co_await reader_.Until(deadline);
    connecting_ = false;
    if (wait != Wait::kTimeout) continue;
    if (session().connecting()) session().GiveUpConnecting();
    co_return Io::kAgain;
  }
  co_return session().serving() && !cancelled_ ? Io::kDone : Io::kError;
}

Io ClientStream::Begin(const http::OutgoingRequest& request, const http::BodyPiece& first) {
  if (closed_ || cancelled_ || !session().MayBegin()) {
    session_over_ = closed_ = true;
    return Io::kError;
  }
  if (!request.protocol.empty()) {
    if (!session().TakesProtocols()) {
      detail_ = "the endpoint does not take WebSocket over HTTP/2 (SETTINGS_ENABLE_CONNECT_PROTOCOL, RFC 8441)";
      return Io::kError;
    }
    accept_ = WebSocketAccept(request.fields);
    if (!session().SubmitRequest(this, request, /*ends=*/false)) return Io::kEnd;
    session_->Pump();
    return Io::kDone;
  }
  to_head_ = request.method == "HEAD";
  const bool ends = !request.has_body || (first.last && first.size() == 0 && first.trailers.empty());
  if (!session().SubmitRequest(this, request, ends)) return Io::kEnd;
  if (!ends) return Write(first);
  end_submitted_ = true;
  session_->Pump();
  return Io::kDone;
}

HeadRead ClientStream::ReadHead(http::Response** response) {
  if (std::exchange(interim_given_, false)) interims_.erase(interims_.begin());
  if (!interims_.empty()) {
    interim_given_ = true;
    *response = &interims_.front()->response;
    return HeadRead::kInterim;
  }
  if (final_) {
    head_given_ = true;
    *response = &head_;
    return HeadRead::kFinal;
  }
  if (overloaded_) return HeadRead::kOverloaded;
  if (*detail_ != '\0') return HeadRead::kInvalid;
  return closed_ || cancelled_ ? HeadRead::kCutShort : HeadRead::kWait;
}

bool ClientStream::stale() const { return reused_ && !heard_ && session_over_; }

bool ClientStream::IsReadable() const {
  if (head_given_) return bodyless_ || IsBodyReadable();
  return interims_.size() > (interim_given_ ? 1 : 0) || final_ || closed_ || cancelled_ || overloaded_ ||
         *detail_ != '\0';
}

http::BodyRead ClientStream::Read(http::BodyForms, http::BodyPiece* piece) {
  if (!bodyless_) return ReadBody(&given_, piece);
  *piece = {};
  piece->last = true;
  return http::BodyRead::kPiece;
}

void ClientStream::Pause() {
  Credit();
  given_.Reset();
}

void ClientStream::Reject(const char* detail) {
  if (*detail_ != '\0') return;
  detail_ = detail;
  session_->Reset(this, NGHTTP2_PROTOCOL_ERROR);
  session_->Queue(this);
}

void ClientStream::TakeHead(bool ended) {
  session_->Queue(this);
  if (*detail_ != '\0' || overloaded_) return;
  if (const http::Rejection error = MakeResponse(block_, to_head_, ended, &head_)) return Reject(error.detail);
  if (!accept_.empty() && head_.status / 100 == 2) {
    // The tunnel is there (RFC 8441, section 5): what follows is told as of HTTP/1.1.
    head_.status = 101;
    head_.has_body = false;
    head_.length.reset();
    head_.fields.push_back({"Sec-WebSocket-Accept", accept_});
    head_.kinds.push_back(http::FieldKind::kOther);
    final_ = true;
    return;
  }
  if (head_.status >= 200) {
    final_ = true;
    bodyless_ = to_head_ || head_.status == 204 || head_.status == 304;
    return;
  }
  interim_bytes_ += block_.list_bytes();
  if (interim_bytes_ > kInterimBytesMax) return Reject("too many bytes of interim responses");
  if (interims_.size() >= kInterimHeadsMax) return Reject("too many interim responses");
  interims_.push_back(std::make_unique<Interim>());
  Interim& interim = *interims_.back();
  interim.block = std::move(block_);
  block_.Clear();
  (void)MakeResponse(interim.block, to_head_, ended, &interim.response);  // has just passed
}

}  // namespace gateway::dataplane::http2
