#include "dataplane/http/http2/client_stream.h"

#include <utility>

#include "dataplane/http/http2/client_session.h"

namespace gateway::dataplane::http2 {

using http::HeadRead;

ClientStream::ClientStream(ClientSession* session) : StreamCore(session, 0), reused_(session->carried_) {
  drops_trailers_ = true;
}

ClientStream::~ClientStream() {
  AbandonSource();
  session().Release(this);
}

ClientSession& ClientStream::session() const { return static_cast<ClientSession&>(*session_); }

bool ClientStream::connected() const { return !session().connecting(); }

const char* ClientStream::tls_failure() const { return session().tls_failure_; }

Task<Io> ClientStream::Connect(TimePoint deadline) {
  while (session().connecting() && !cancelled_) {
    connecting_ = true;
    const Wait wait = co_await reader_.Until(deadline);
    connecting_ = false;
    if (wait != Wait::kTimeout) continue;
    session().GiveUpConnecting();
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
    detail_ = "the gateway changes no protocol on HTTP/2 connections to endpoints";
    return Io::kError;
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
