#include "dataplane/http/http2/server_stream.h"

#include "dataplane/http/http2/server_session.h"

namespace gateway::dataplane::http2 {

ServerStream::ServerStream(ServerSession* session, int32_t id)
    : DownstreamStream(&head_, &session->connection_), StreamCore(session, id) {
  started_ = session->loop().now();
  started_wall_ = session->loop().wall_now();
}

ServerStream::~ServerStream() = default;

ServerSession& ServerStream::session() const { return static_cast<ServerSession&>(*session_); }

void ServerStream::Pause() {
  Credit();
  given_.Reset();
}

Io ServerStream::SendInterim(const http::OutgoingResponse& response) {
  if (closed_ || cancelled_) return Io::kError;
  if (!session().SubmitResponse(this, response, ServerSession::Part::kInterim)) return Io::kError;
  session_->Pump();
  return closed_ ? Io::kError : Io::kDone;
}

Io ServerStream::Begin(const http::OutgoingResponse& response, const http::BodyPiece& first) {
  if (closed_ || cancelled_) return Io::kError;
  const bool tunnel = response.status == 101;
  const bool headers_only =
      !tunnel && (!response.has_body || (first.last && first.size() == 0 && first.trailers.empty()));
  response_begun_ = true;
  if (!session().SubmitResponse(this, response,
                                headers_only ? ServerSession::Part::kAll : ServerSession::Part::kHead)) {
    return Io::kEnd;
  }
  if (!headers_only) return Write(first);
  end_submitted_ = true;
  session_->Pump();
  return Io::kDone;
}

void ServerStream::ReleaseRequest() {
  head_.Clear();
  head_.method = head_.authority = head_.target = head_.path = head_.query = {};
  block_.Clear();
  first_.Reset();
}

void ServerStream::Finish(http::End end) {
  AbandonSource();
  gone_watch_ = nullptr;
  first_.Reset();
  DropInput();
  done_ = true;  // what still comes is dropped
  if (closed_) return;
  switch (end) {
    case http::End::kComplete:
      if (!end_submitted_) {
        session_->Reset(this, NGHTTP2_INTERNAL_ERROR);
      } else if (end_sent_ && !remote_ended_) {
        session_->Reset(this, NGHTTP2_NO_ERROR);  // else when the end has left
      }
      break;
    case http::End::kCutShort:
      session_->Reset(this, NGHTTP2_INTERNAL_ERROR);
      break;
    case http::End::kReset:
    case http::End::kUnanswered:
      session_->Reset(this, NGHTTP2_CANCEL);
      break;
  }
}

void ServerStream::Cancel() {
  if (!cancelled_ && CancelWaits()) session().ReleaseIfOver(this);
}

}  // namespace gateway::dataplane::http2
