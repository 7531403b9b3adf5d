#include "dataplane/http/http2/server_stream.h"

#include <algorithm>
#include <cstring>

#include "dataplane/http/http2/server_session.h"

namespace gateway::dataplane::http2 {

ServerStream::ServerStream(ServerSession* session, int32_t id)
    : DownstreamStream(&head_, &session->connection_),
      session_(session),
      id_(id),
      reader_(&session->loop_),
      writer_(&session->loop_) {
  started_ = session->loop_.now();
  started_wall_ = session->loop_.wall_now();
}

ServerStream::~ServerStream() = default;

// ---- The request's body.

bool ServerStream::Store(std::string_view data) {
  BufferPool& buffers = session_->resources_.buffers();
  if (!input_) input_ = buffers.Acquire(data.size());
  if (!input_) return false;
  if (input_.room() < data.size()) input_.Compact();
  if (input_.room() < data.size() && !buffers.Grow(&input_, input_.size() + data.size())) return false;
  std::memcpy(input_.space(), data.data(), data.size());
  input_.Filled(data.size());
  bytes_received_ += data.size();
  return true;
}

void ServerStream::Credit() {
  if (uncredited_ == 0) return;
  session_->Consume(id_, std::exchange(uncredited_, 0));
}

void ServerStream::DropInput() {
  uncredited_ += input_.size();
  Credit();
  input_.Reset();
  given_.Reset();
  first_.Reset();
}

http::BodyRead ServerStream::Read(http::BodyForms, http::BodyPiece* piece) {
  Credit();
  given_.Reset();
  Buffer& buffer = std::exchange(read_begun_, true) ? given_ : first_;
  const bool complete = remote_ended_ && *detail_ == '\0';
  if (input_.empty() && !complete) {
    if (overloaded_) return http::BodyRead::kOverloaded;
    if (*detail_ != '\0') return http::BodyRead::kInvalid;
    return closed_ || cancelled_ ? http::BodyRead::kCutShort : http::BodyRead::kWait;
  }
  buffer = std::move(input_);
  uncredited_ = buffer.size();
  *piece = {};
  piece->bytes = {buffer.data(), buffer.size()};
  piece->payload = buffer.size();
  piece->last = complete;
  if (complete) {
    for (size_t i = 0; i < trailers_.size(); ++i) trailer_views_.push_back({trailers_.name(i), trailers_.value(i)});
    piece->trailers = {trailer_views_.data(), trailer_views_.size()};
  }
  return http::BodyRead::kPiece;
}

void ServerStream::Pause() {
  Credit();
  given_.Reset();
}

bool ServerStream::IsReadable() const {
  return !input_.empty() || remote_ended_ || closed_ || cancelled_ || overloaded_ || *detail_ != '\0';
}

Wait ServerStream::ResumeRead(bool suspended) {
  if (cancelled_) return Wait::kCancelled;
  return suspended ? reader_.result() : Wait::kReady;
}

// ---- The response.

Io ServerStream::SendInterim(const http::OutgoingResponse& response) {
  if (closed_ || cancelled_) return Io::kError;
  if (!session_->SubmitResponse(this, response, ServerSession::Part::kInterim)) return Io::kError;
  session_->Pump();
  return closed_ ? Io::kError : Io::kDone;
}

Io ServerStream::Begin(const http::OutgoingResponse& response, const http::BodyPiece& first) {
  if (closed_ || cancelled_) return Io::kError;
  const bool tunnel = response.status == 101;
  const bool headers_only =
      !tunnel && (!response.has_body || (first.last && first.size() == 0 && first.trailers.empty()));
  response_begun_ = true;
  if (!session_->SubmitResponse(this, response,
                                headers_only ? ServerSession::Part::kAll : ServerSession::Part::kHead)) {
    return Io::kEnd;
  }
  if (!headers_only) return Write(first);
  end_submitted_ = true;
  session_->Pump();
  return Io::kDone;
}

Io ServerStream::Write(const http::BodyPiece& piece) {
  if (end_submitted_) return piece.size() == 0 ? Io::kDone : Io::kError;
  if (closed_ || cancelled_) return Io::kError;
  source_ = piece.bytes;
  source_last_ = piece.last;
  source_trailers_ = piece.trailers;
  if (sending() && std::exchange(deferred_, false)) session_->ResumeData(id_);
  session_->Pump();
  if (!sending()) return Io::kDone;
  return closed_ ? Io::kError : Io::kAgain;
}

Task<Io> ServerStream::Flush(std::chrono::milliseconds stall, TimePoint until) {
  stall_ = stall;
  until_ = until;
  while (sending()) {
    if (closed_ || cancelled_) break;
    if (co_await writer_.Until(std::min(session_->loop_.now() + stall, until)) == Wait::kTimeout) break;
  }
  const bool whole = !sending();
  const bool timed_out = !whole && !closed_ && !cancelled_;
  AbandonSource();
  co_return whole ? Io::kDone : timed_out ? Io::kAgain : Io::kError;
}

void ServerStream::AbandonSource() {
  source_ = {};
  source_last_ = false;
  source_trailers_ = {};
}

// Of what is written; where that is nothing, nghttp2 asks again when it is told of more.
ssize_t ServerStream::ReadSource(size_t size, uint32_t* flags) {
  if (!sending()) {
    deferred_ = true;
    return NGHTTP2_ERR_DEFERRED;
  }
  const size_t bytes = std::min(size, source_.size());
  starved_ = bytes < source_.size() && bytes < ServerSession::kTinyFrame;
  if (bytes > 0) *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
  if (bytes == source_.size() && source_last_) {
    *flags |= NGHTTP2_DATA_FLAG_EOF;
    if (!source_trailers_.empty()) {
      *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
      if (!session_->SubmitTrailers(id_, source_trailers_)) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    end_submitted_ = true;
    if (bytes == 0) Sent(0);  // of an empty frame nothing is sent by OnSendData
  }
  return static_cast<ssize_t>(bytes);
}

void ServerStream::Sent(size_t size) {
  source_.remove_prefix(size);
  if (source_.empty() && (end_submitted_ || !source_last_)) {
    AbandonSource();
    if (writer_.waiting()) session_->Queue(this);
  } else {
    writer_.Extend(std::min(session_->loop_.now() + stall_, until_));
  }
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
  if (cancelled_) return;
  cancelled_ = true;
  // Whoever is resumed may be the end of the exchange, and so of the stream.
  const bool pinned = std::exchange(pinned_, true);
  reader_.Resume(Wait::kCancelled);
  writer_.Resume(Wait::kCancelled);
  pinned_ = pinned;
  session_->ReleaseIfOver(this);
}

}  // namespace gateway::dataplane::http2
