#include "dataplane/http/http2/stream_core.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "dataplane/http/http1/body.h"
#include "dataplane/http/http2/session_core.h"

namespace gateway::dataplane::http2 {

StreamCore::StreamCore(SessionCore* session, int32_t id)
    : session_(session), id_(id), reader_(&session->loop()), writer_(&session->loop()) {}

StreamCore::~StreamCore() {
  for (Watch* each = watch_; each != nullptr; each = each->outer_) each->stream_ = nullptr;
}

// ---- The body that comes.

bool StreamCore::Store(std::string_view data) {
  BufferPool& buffers = session_->buffers();
  if (!input_) input_ = buffers.Acquire(data.size());
  if (!input_) return false;
  if (input_.room() < data.size()) input_.Compact();
  if (input_.room() < data.size() && !buffers.Grow(&input_, input_.size() + data.size())) return false;
  std::memcpy(input_.space(), data.data(), data.size());
  input_.Filled(data.size());
  return true;
}

void StreamCore::Credit() {
  if (uncredited_ == 0) return;
  session_->Consume(id_, std::exchange(uncredited_, 0));
}

void StreamCore::DropInput() {
  uncredited_ += input_.size();
  Credit();
  input_.Reset();
  given_.Reset();
}

http::BodyRead StreamCore::ReadBody(Buffer* holder, http::BodyPiece* piece) {
  Credit();
  given_.Reset();
  const bool complete = remote_ended_ && *detail_ == '\0';
  if (input_.empty() && !complete) {
    if (overloaded_) return http::BodyRead::kOverloaded;
    if (*detail_ != '\0') return http::BodyRead::kInvalid;
    return closed_ || cancelled_ ? http::BodyRead::kCutShort : http::BodyRead::kWait;
  }
  *holder = std::move(input_);
  uncredited_ = holder->size();
  *piece = {};
  piece->bytes = {holder->data(), holder->size()};
  piece->payload = holder->size();
  piece->last = complete;
  if (complete) {
    trailer_views_.clear();
    for (size_t i = 0; i < trailers_.size(); ++i) {
      if (drops_trailers_ && http1::IsForbiddenTrailer(trailers_.name(i))) continue;
      trailer_views_.push_back({trailers_.name(i), trailers_.value(i)});
    }
    piece->trailers = {trailer_views_.data(), trailer_views_.size()};
  }
  return http::BodyRead::kPiece;
}

// ---- The body that goes.

Io StreamCore::WriteBody(const http::BodyPiece& piece) {
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

Task<Io> StreamCore::FlushBody(std::chrono::milliseconds stall, TimePoint until) {
  stall_ = stall;
  until_ = until;
  while (sending()) {
    if (closed_ || cancelled_ || takes_no_more_) break;
    if (co_await writer_.Until(std::min(session_->loop().now() + stall, until)) == Wait::kTimeout) break;
  }
  const bool whole = !sending();
  const bool timed_out = !whole && !closed_ && !cancelled_ && !takes_no_more_;
  AbandonSource();
  co_return whole ? Io::kDone : timed_out ? Io::kAgain : Io::kError;
}

void StreamCore::AbandonSource() {
  source_ = {};
  source_last_ = false;
  source_trailers_ = {};
}

// Of what is written; if that is nothing, nghttp2 asks again once there is more.
ssize_t StreamCore::ReadSource(size_t size, uint32_t* flags) {
  if (!sending()) {
    deferred_ = true;
    return NGHTTP2_ERR_DEFERRED;
  }
  const size_t bytes = std::min(size, source_.size());
  starved_ = bytes < source_.size() && bytes < SessionCore::kTinyFrame;
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

void StreamCore::Sent(size_t size) {
  source_.remove_prefix(size);
  if (source_.empty() && (end_submitted_ || !source_last_)) {
    AbandonSource();
    if (writer_.waiting()) session_->Queue(this);
  } else {
    writer_.Extend(std::min(session_->loop().now() + stall_, until_));
  }
}

bool StreamCore::CancelWaits() {
  cancelled_ = true;
  const Watch watch(this);
  reader_.Resume(Wait::kCancelled);
  if (!watch.gone()) writer_.Resume(Wait::kCancelled);
  return !watch.gone();
}

}  // namespace gateway::dataplane::http2
