#include "dataplane/http/http2/server_session.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <new>
#include <utility>

#include "dataplane/http/http1/body.h"
#include "dataplane/http/http1/head.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane::http2 {

Preface MatchPreface(std::string_view input) {
  if (input.size() >= kClientPreface.size())
    return input.starts_with(kClientPreface) ? Preface::kHttp2 : Preface::kOther;
  return kClientPreface.starts_with(input) ? Preface::kMore : Preface::kOther;
}

SessionResources::SessionResources(EventLoop* loop, BufferPool* buffers, SessionMetrics* metrics,
                                   const SessionOptions& options)
    : CoreResources(loop, buffers), metrics_(metrics), options_(options) {
  nghttp2_option_set_builtin_recv_extension_type(nghttp2_options(), NGHTTP2_PRIORITY_UPDATE);
}

SessionResources::~SessionResources() {
  while (free_streams_ != nullptr) ::operator delete(std::exchange(free_streams_, free_streams_->next));
}

ServerStream* SessionResources::MakeStream(ServerSession* session, int32_t id) {
  void* block = free_streams_;
  if (block != nullptr) {
    free_streams_ = free_streams_->next;
    --free_count_;
  } else {
    block = ::operator new(sizeof(ServerStream));
  }
  return new (block) ServerStream(session, id);
}

void SessionResources::FreeStream(ServerStream* stream) {
  stream->~ServerStream();
  if (free_count_ >= kFreeStreamsMax) return ::operator delete(stream);
  ++free_count_;
  free_streams_ = new (stream) FreeStreamBlock{free_streams_};
}

ServerSession::ServerSession(SessionResources* resources, Socket* socket, const http::ConnectionInfo* connection,
                             ServeStream serve, void* context)
    : SessionCore(resources, socket,
                  {.write_timeout = resources->options().write_timeout,
                   .outbound_frames_max = kOutboundFramesMax + resources->options().max_concurrent_streams,
                   .credits_connection_at_once = false}),
      resources_(*resources),
      connection_(*connection),
      serve_(serve),
      context_(context),
      started_(loop_.now()),
      idle_since_(started_) {
  if (SubmitPreface() != 0) throw std::bad_alloc();
  resources_.metrics().Add(SessionCounter::kConnections, 1);
  resources_.metrics().Add(SessionCounter::kConnectionsTotal, 1);
}

ServerSession::~ServerSession() {
  // Serve has ended, and every stream with it, unless the worker itself ends.
  resources_.metrics().Add(SessionCounter::kStreams, -static_cast<int64_t>(live_));
  while (streams_ != nullptr) {
    auto* const stream = static_cast<ServerStream*>(streams_);
    Unlink(stream);
    resources_.FreeStream(stream);
  }
  resources_.metrics().Add(SessionCounter::kConnections, -1);
}

int ServerSession::OnBeginHeaders(const nghttp2_frame& frame) {
  if (frame.hd.type != NGHTTP2_HEADERS || frame.headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
  const int32_t id = frame.hd.stream_id;
  guard_.OnRequest(loop_.now());
  resources_.metrics().Add(SessionCounter::kStreamsTotal, 1);
  if (live_ >= size_t{kServedPerConcurrent} * resources_.options().max_concurrent_streams) {
    // Streams that are gone already are still being served: the client opens and resets them faster than that ends.
    return nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, id, NGHTTP2_REFUSED_STREAM);
  }
  ServerStream* const stream = resources_.MakeStream(this, id);
  Link(stream);
  resources_.metrics().Add(SessionCounter::kStreams, 1);
  return nghttp2_session_set_stream_user_data(session_, id, static_cast<StreamCore*>(stream));
}

int ServerSession::OnHeader(const nghttp2_frame& frame, std::string_view name, std::string_view value) {
  // Thousands of fields may follow, which cost the most when they are checked.
  if (abuse_ != Abuse::kNone) return NGHTTP2_ERR_CALLBACK_FAILURE;
  ServerStream* const stream = StreamOf(frame.hd.stream_id);
  if (stream == nullptr) return 0;
  const bool trailing = frame.headers.cat != NGHTTP2_HCAT_REQUEST;
  HeaderBlock& block = trailing ? stream->trailers_ : stream->block_;
  const size_t max = trailing ? http1::BodyDecoder::kTrailerBytesMax : resources_.options().max_header_list;
  switch (block.Add(name, value, max, &buffers())) {
    case HeaderBlock::Added::kYes:
      break;
    case HeaderBlock::Added::kTooLarge:
      // The rest is decoded, as HPACK wants it, and dropped; up to a point.
      if (trailing) {
        stream->detail_ = "trailer fields that are too long";
      } else if (!stream->rejection_) {
        stream->rejection_ = {Reason::kHeadersTooLarge, "the header list is too large"};
      }
      if (block.list_bytes() > kHeaderListFactor * resources_.options().max_header_list) {
        Condemn(Abuse::kHeaderList);
      }
      break;
    case HeaderBlock::Added::kNoMemory:
      if (trailing) {
        stream->overloaded_ = true;
      } else if (!stream->rejection_) {
        stream->rejection_ = {Reason::kOverloaded, "no room for the head"};
      }
      break;
  }
  return 0;
}

int ServerSession::OnInvalidHeader(const nghttp2_frame& frame) {
  ServerStream* const stream = StreamOf(frame.hd.stream_id);
  if (stream == nullptr) return 0;
  Count(Abuse::kInvalidFrames);
  if (frame.headers.cat != NGHTTP2_HCAT_REQUEST) {
    stream->detail_ = "an invalid trailer field";
  } else if (!stream->rejection_) {
    stream->rejection_ = {Reason::kBadRequest, "an invalid field in the head"};
  }
  return 0;
}

void ServerSession::OnRequest(ServerStream* stream, bool ended) {
  stream->request_read_ = true;
  const http::Rejection known = stream->rejection_;
  const http::Rejection rejection = MakeRequest(&stream->block_, ended, &buffers(), &stream->head_);
  stream->rejection_ = known ? known : rejection;
  Queue(stream);
}

int ServerSession::OnFrameReceived(const nghttp2_frame& frame) {
  switch (frame.hd.type) {
    case NGHTTP2_HEADERS: {
      ServerStream* const stream = StreamOf(frame.hd.stream_id);
      if (stream == nullptr || abuse_ != Abuse::kNone) break;
      const bool ends = (frame.hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
      if (ends) stream->remote_ended_ = true;
      stream->bytes_received_ += kFrameHeadBytes + frame.hd.length;
      if (frame.headers.cat == NGHTTP2_HCAT_REQUEST) {
        OnRequest(stream, ends);
      } else {
        const char* detail = "";
        if (!CheckTrailers(stream->trailers_, &detail)) stream->detail_ = detail;
        Queue(stream);
      }
      break;
    }
    case NGHTTP2_RST_STREAM:
      resources_.metrics().Add(SessionCounter::kResetsReceivedTotal, 1);
      if (const ServerStream* const stream = StreamOf(frame.hd.stream_id)) {
        if (guard_.OnReset(stream->started_, stream->end_sent_, loop_.now())) Condemn(Abuse::kRapidReset);
      }
      break;
    case NGHTTP2_SETTINGS:
      ((frame.hd.flags & NGHTTP2_FLAG_ACK) != 0 ? settings_acknowledged_ : settings_received_) = true;
      break;
    case NGHTTP2_PING:
      // What it had sent before it knew has come.
      if ((frame.hd.flags & NGHTTP2_FLAG_ACK) != 0 && draining_ && drain_at_ != TimePoint::max()) FinishDrain();
      break;
    default:
      break;
  }
  return 0;
}

int ServerSession::OnFrameSent(const nghttp2_frame& frame) {
  switch (frame.hd.type) {
    case NGHTTP2_RST_STREAM: {
      resources_.metrics().Add(SessionCounter::kResetsSentTotal, 1);
      ServerStream* const stream = StreamOf(frame.hd.stream_id);
      if (frame.rst_stream.error_code == NGHTTP2_REFUSED_STREAM) {
        resources_.metrics().Add(SessionCounter::kStreamsRefusedTotal, 1);
        Count(Abuse::kRefusedStreams);
      } else if (stream == nullptr || !stream->reset_by_us_) {
        Count(Abuse::kInvalidFrames);  // the client made us reset it
        if (stream != nullptr) stream->reset_by_nghttp2_ = true;
      }
      break;
    }
    case NGHTTP2_DATA:
    case NGHTTP2_HEADERS: {
      ServerStream* const stream = StreamOf(frame.hd.stream_id);
      if (stream == nullptr) break;
      stream->bytes_sent_ += kFrameHeadBytes + frame.hd.length;
      if ((frame.hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) {
        stream->end_sent_ = true;
        // The response is complete: the client may stop sending (RFC 9113, section 8.1).
        if (stream->done_ && !stream->remote_ended_) {
          stream->reset_by_us_ = true;
          return nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, frame.hd.stream_id, NGHTTP2_NO_ERROR);
        }
      }
      break;
    }
    default:
      break;
  }
  return 0;
}

void ServerSession::OnStreamClosed(StreamCore* closed, uint32_t) {
  auto* const stream = static_cast<ServerStream*>(closed);
  if (stream->reset_by_nghttp2_ && !stream->served_ && !stream->done_) {
    // A request whose header nghttp2 rejects (section 8.1.1), or its first frames. It is served like one that we
    // reject, for the access log and the metrics; there is no stream left for a response.
    if (!stream->request_read_) OnRequest(stream, stream->remote_ended_);
    if (!stream->rejection_) stream->rejection_ = {Reason::kBadRequest, "malformed HTTP/2: the stream was reset"};
  }
  if (stream->served_ || IsOnlyRecorded(*stream)) {
    Queue(stream);
  } else {
    ReleaseIfOver(stream);  // its request never came whole, or it is not served any more
  }
}

bool ServerSession::SubmitResponse(ServerStream* stream, const http::OutgoingResponse& response, Part part) {
  if (ended_ || failed_ != 0) return false;
  std::vector<nghttp2_nv>& out = core_.fields_;
  out.clear();
  const bool tunnel = response.status == 101;  // of extended CONNECT (RFC 8441, section 5)
  std::array<char, 24> digits;
  const auto number = [&digits](uint64_t value, size_t at) {
    char* const from = digits.data() + at;
    const char* const end = std::to_chars(from, digits.data() + digits.size(), value).ptr;
    return std::string_view(from, static_cast<size_t>(end - from));
  };
  out.push_back(FieldOf(":status", number(tunnel ? 200 : static_cast<uint64_t>(response.status), 0)));
  const auto add = [&](std::string_view name, std::string_view value) {
    if (IsConnectionField(name)) return;
    if (tunnel && http1::EqualsIgnoreCase(name, "sec-websocket-accept")) return;  // to a key of ours
    out.push_back(FieldOf(name, value));
  };
  for (const FieldView& field : response.fields) add(field.name, field.value);
  http::ForEachLine(response.lines, add);
  if (response.length && response.status >= 200 && response.status != 204) {
    out.push_back(FieldOf("content-length", number(*response.length, 4)));
  }
  int code;
  if (part == Part::kInterim) {
    code = nghttp2_submit_headers(session_, NGHTTP2_FLAG_NONE, stream->id_, nullptr, out.data(), out.size(), nullptr);
  } else {
    const nghttp2_data_provider provider = Provider();
    code = nghttp2_submit_response(session_, stream->id_, out.data(), out.size(),
                                   part == Part::kHead ? &provider : nullptr);
  }
  if (code != 0 && nghttp2_is_fatal(code)) Fail(code);
  return code == 0;
}

int ServerSession::SubmitPreface() {
  const SessionOptions& options = resources_.options();
  int code = nghttp2_session_server_new3(&session_, core_.callbacks_, static_cast<SessionCore*>(this),
                                         core_.nghttp2_options_, core_.memory_.functions());
  if (code != 0) return code;
  const nghttp2_settings_entry settings[] = {
      {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, options.max_concurrent_streams},
      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, options.initial_window},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, options.max_header_list},
      {NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL, 1},
      {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
  };
  code = nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings, std::size(settings));
  if (code != 0) return code;
  const auto window = static_cast<int32_t>(std::max(kConnectionWindow, options.initial_window));
  return nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, window);
}

// Resumes the coroutines that wait for what has happened to the stream.
void ServerSession::Tell(StreamCore* told) {
  auto* const stream = static_cast<ServerStream*>(told);
  if (!stream->served_ && !stream->done_ && (!stream->closed_ || IsOnlyRecorded(*stream))) {
    RunStream(stream);
    return;
  }
  const StreamCore::Watch watch(stream);
  if (stream->gone() || std::exchange(stream->cut_short_, false)) stream->TellGone();
  if (watch.gone()) return;
  if (stream->reader_.waiting() && stream->IsReadable()) stream->reader_.Resume(Wait::kReady);
  if (watch.gone()) return;
  if (stream->writer_.waiting() && (!stream->sending() || stream->closed_)) stream->writer_.Resume(Wait::kReady);
}

Detached ServerSession::RunStream(ServerStream* stream) {
  stream->served_ = true;
  try {
    co_await serve_(context_, *stream);
  } catch (const std::exception& error) {
    spdlog::error("a stream ended by an exception: {}", error.what());
  }
  // (After a Finish of its own, this one does nothing.)
  if (!stream->done_) stream->Finish(http::End::kReset);
  stream->served_ = false;
  ReleaseIfOver(stream);
}

void ServerSession::ReleaseIfOver(ServerStream* stream) {
  if (!stream->closed_ || stream->served_) return;
  stream->DropInput();
  Unlink(stream);
  resources_.FreeStream(stream);
  resources_.metrics().Add(SessionCounter::kStreams, -1);
  if (live_ > 0) return;
  idle_since_ = loop_.now();
  socket_.ExtendRead(over() ? loop_.now() : NextDeadline());
  if (ending_) std::exchange(ending_, nullptr).resume();
}

void ServerSession::CutShort() {
  ForEachStream([this](StreamCore* stream) {
    static_cast<ServerStream*>(stream)->cut_short_ = true;
    Queue(stream);
  });
}

TimePoint ServerSession::NextDeadline() const {
  const SessionOptions& options = resources_.options();
  TimePoint next = drain_at_;
  if (!settings_received_ || !settings_acknowledged_) next = std::min(next, started_ + options.header_timeout);
  if (headers_since_ != TimePoint::max()) next = std::min(next, headers_since_ + options.header_timeout);
  if (live_ == 0) return std::min(next, idle_since_ + options.idle_timeout);
  return std::min(next, pinged_ != TimePoint::max() ? pinged_ + kPingTimeout : heard_ + options.idle_timeout);
}

bool ServerSession::CheckDeadlines() {
  const SessionOptions& options = resources_.options();
  const TimePoint now = loop_.now();
  const auto end = [&](uint32_t code) {
    if (code != NGHTTP2_NO_ERROR) resources_.metrics().Add(SessionCounter::kTimeoutsTotal, 1);
    (void)nghttp2_session_terminate_session(session_, code);  // out of memory: it ends without
    return false;
  };
  if ((!settings_received_ || !settings_acknowledged_) && now >= started_ + options.header_timeout) {
    return end(NGHTTP2_SETTINGS_TIMEOUT);
  }
  if (headers_since_ != TimePoint::max() && now >= headers_since_ + options.header_timeout) {
    return end(NGHTTP2_PROTOCOL_ERROR);
  }
  if (now >= drain_at_) FinishDrain();
  if (live_ == 0) return now < idle_since_ + options.idle_timeout || end(NGHTTP2_NO_ERROR);
  if (pinged_ != TimePoint::max()) return now < pinged_ + kPingTimeout || end(NGHTTP2_INTERNAL_ERROR);
  if (now >= heard_ + options.idle_timeout) {
    // A peer that is there responds.
    pinged_ = now;
    if (const int code = nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, nullptr); code != 0) Fail(code);
  }
  return true;
}

void ServerSession::Drain() {
  if (draining_ || ended_) return;
  draining_ = true;
  drain_at_ = loop_.now() + kDrainNotice;
  int code = nghttp2_submit_shutdown_notice(session_);
  if (code == 0) code = nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, nullptr);
  if (code != 0) Fail(code);
  Pump();
  socket_.ExtendRead(NextDeadline());
}

void ServerSession::FinishDrain() {
  drain_at_ = TimePoint::max();
  const int32_t last = nghttp2_session_get_last_proc_stream_id(session_);
  const int code = nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE, last, NGHTTP2_NO_ERROR, nullptr, 0);
  if (code != 0) Fail(code);
  Flush();
}

Task<ServerSession::End> ServerSession::Serve(Buffer first) {
  co_return co_await Converse(std::move(first)) ? End::kGone : End::kClosed;
}

// Those that serve a stream learn that it is gone; waits for all of them.
Task<void> ServerSession::EndStreams() {
  struct LastStream {
    ServerSession& session;
    bool await_ready() const noexcept { return session.live_ == 0; }
    void await_suspend(std::coroutine_handle<> self) const noexcept { session.ending_ = self; }
    void await_resume() const noexcept {}
  };
  CloseAll();
  co_await LastStream{*this};
}

}  // namespace gateway::dataplane::http2
