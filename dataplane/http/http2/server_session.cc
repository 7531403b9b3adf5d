#include "dataplane/http/http2/server_session.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <new>
#include <utility>

#include "dataplane/http/http1/body.h"
#include "dataplane/http/http1/head.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane::http2 {
namespace {

constexpr size_t kFrameHeadBytes = 9;

std::string_view ViewOf(nghttp2_rcbuf* text) {
  const nghttp2_vec bytes = nghttp2_rcbuf_get_buf(text);
  return {reinterpret_cast<const char*>(bytes.base), bytes.len};
}

nghttp2_nv FieldOf(std::string_view name, std::string_view value) {
  // nghttp2 copies both, names in lower case.
  return {reinterpret_cast<uint8_t*>(const_cast<char*>(name.data())),
          reinterpret_cast<uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(), NGHTTP2_NV_FLAG_NONE};
}

// Fields of a connection have no place in HTTP/2 (RFC 9113, section 8.2.2), whoever would send them.
bool IsConnectionField(std::string_view name) {
  switch (http::ClassifyField(name)) {
    case http::FieldKind::kConnection:
    case http::FieldKind::kTransferEncoding:
    case http::FieldKind::kUpgrade:
    case http::FieldKind::kContentLength:  // as the message's length is known
      return true;
    case http::FieldKind::kHopByHop:
      return http1::EqualsIgnoreCase(name, "keep-alive") || http1::EqualsIgnoreCase(name, "proxy-connection");
    default:
      return false;
  }
}

}  // namespace

Preface MatchPreface(std::string_view input) {
  if (input.size() >= kClientPreface.size())
    return input.starts_with(kClientPreface) ? Preface::kHttp2 : Preface::kOther;
  return kClientPreface.starts_with(input) ? Preface::kMore : Preface::kOther;
}

SessionResources::SessionResources(EventLoop* loop, BufferPool* buffers, SessionMetrics* metrics,
                                   const SessionOptions& options)
    : loop_(loop), buffers_(buffers), metrics_(metrics), options_(options), read_buffer_(new char[kReadBytes]) {
  if (nghttp2_session_callbacks_new(&callbacks_) != 0 || nghttp2_option_new(&nghttp2_options_) != 0) {
    throw std::bad_alloc();
  }
  nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks_, &ServerSession::OnBeginFrame);
  nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks_, &ServerSession::OnBeginHeaders);
  nghttp2_session_callbacks_set_on_header_callback2(callbacks_, &ServerSession::OnHeader);
  nghttp2_session_callbacks_set_on_invalid_header_callback2(callbacks_, &ServerSession::OnInvalidHeader);
  nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks_, &ServerSession::OnFrameReceived);
  nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks_, &ServerSession::OnInvalidFrame);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks_, &ServerSession::OnDataChunk);
  nghttp2_session_callbacks_set_on_frame_send_callback(callbacks_, &ServerSession::OnFrameSent);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks_, &ServerSession::OnStreamClosed);
  nghttp2_session_callbacks_set_send_data_callback(callbacks_, &ServerSession::OnSendData);
  nghttp2_session_callbacks_set_unpack_extension_callback(callbacks_, &ServerSession::OnUnknownFrame);

  nghttp2_option_set_no_auto_window_update(nghttp2_options_, 1);
  nghttp2_option_set_no_closed_streams(nghttp2_options_, 1);
  nghttp2_option_set_builtin_recv_extension_type(nghttp2_options_, NGHTTP2_PRIORITY_UPDATE);
  // nghttp2 would pass over frames of other types without a word.
  for (int type = NGHTTP2_CONTINUATION + 1; type <= 0xff; ++type) {
    if (type != NGHTTP2_PRIORITY_UPDATE) {
      nghttp2_option_set_user_recv_extension_type(nghttp2_options_, static_cast<uint8_t>(type));
    }
  }
  nghttp2_option_set_max_continuations(nghttp2_options_, kContinuationsMax);
  nghttp2_option_set_max_outbound_ack(nghttp2_options_, kOutboundAcksMax);
  nghttp2_option_set_max_settings(nghttp2_options_, kSettingsMax);
  nghttp2_option_set_stream_reset_rate_limit(nghttp2_options_, kResetBurst, kResetsPerSecond);
}

SessionResources::~SessionResources() {
  while (free_streams_ != nullptr) ::operator delete(std::exchange(free_streams_, free_streams_->next));
  nghttp2_option_del(nghttp2_options_);
  nghttp2_session_callbacks_del(callbacks_);
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
    : resources_(*resources),
      loop_(resources->loop()),
      socket_(*socket),
      connection_(*connection),
      serve_(serve),
      context_(context),
      started_(loop_.now()),
      heard_(started_),
      idle_since_(started_) {
  if (SubmitPreface() != 0) {
    nghttp2_session_del(session_);
    throw std::bad_alloc();
  }
  resources_.metrics().Add(SessionCounter::kConnections, 1);
  resources_.metrics().Add(SessionCounter::kConnectionsTotal, 1);
}

ServerSession::~ServerSession() {
  // Serve has ended, and every stream with it, unless the worker itself ends.
  nghttp2_session_del(session_);
  while (streams_ != nullptr) resources_.FreeStream(std::exchange(streams_, streams_->next_));
  resources_.metrics().Add(SessionCounter::kStreams, -static_cast<int64_t>(live_));
  resources_.metrics().Add(SessionCounter::kConnections, -1);
}

// ---- Callbacks of nghttp2: they note what there is to do; nobody is resumed from here.

ServerStream* ServerSession::StreamOf(int32_t id) const {
  return static_cast<ServerStream*>(nghttp2_session_get_stream_user_data(session_, id));
}

int ServerSession::OnBeginFrame(nghttp2_session*, const nghttp2_frame_hd* head, void* self) {
  auto& session = *static_cast<ServerSession*>(self);
  switch (head->type) {
    case NGHTTP2_HEADERS:
      session.headers_since_ = session.loop_.now();
      return 0;
    case NGHTTP2_CONTINUATION:
      return 0;
    case NGHTTP2_PRIORITY:  // here: once we said that we don't follow it, OnFrameReceived is not told
      session.Count(Abuse::kPriority);
      break;
    default:
      break;
  }
  session.headers_since_ = TimePoint::max();
  return 0;
}

int ServerSession::OnUnknownFrame(nghttp2_session*, void**, const nghttp2_frame_hd*, void* self) {
  static_cast<ServerSession*>(self)->Count(Abuse::kUnknownFrames);
  return NGHTTP2_ERR_CANCEL;  // it is ignored (RFC 9113, section 5.5)
}

int ServerSession::OnBeginHeaders(nghttp2_session* nghttp2, const nghttp2_frame* frame, void* self) {
  auto& session = *static_cast<ServerSession*>(self);
  if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
  const int32_t id = frame->hd.stream_id;
  session.guard_.OnRequest(session.loop_.now());
  session.resources_.metrics().Add(SessionCounter::kStreamsTotal, 1);
  if (session.live_ >= size_t{kServedPerConcurrent} * session.resources_.options().max_concurrent_streams) {
    // Streams that are gone already are still being served: the client opens and resets them faster than that ends.
    return nghttp2_submit_rst_stream(nghttp2, NGHTTP2_FLAG_NONE, id, NGHTTP2_REFUSED_STREAM);
  }
  ServerStream* const stream = session.resources_.MakeStream(&session, id);
  stream->next_ = session.streams_;
  if (session.streams_ != nullptr) session.streams_->previous_ = stream;
  session.streams_ = stream;
  ++session.live_;
  session.resources_.metrics().Add(SessionCounter::kStreams, 1);
  return nghttp2_session_set_stream_user_data(nghttp2, id, stream);
}

int ServerSession::OnHeader(nghttp2_session*, const nghttp2_frame* frame, nghttp2_rcbuf* name, nghttp2_rcbuf* value,
                            uint8_t, void* self) {
  auto& session = *static_cast<ServerSession*>(self);
  ServerStream* const stream = session.StreamOf(frame->hd.stream_id);
  if (stream == nullptr || session.abuse_ != Abuse::kNone) return 0;
  const bool trailing = frame->headers.cat != NGHTTP2_HCAT_REQUEST;
  HeaderBlock& block = trailing ? stream->trailers_ : stream->block_;
  const size_t max = trailing ? http1::BodyDecoder::kTrailerBytesMax : session.resources_.options().max_header_list;
  switch (block.Add(ViewOf(name), ViewOf(value), max, &session.resources_.buffers())) {
    case HeaderBlock::Added::kYes:
      break;
    case HeaderBlock::Added::kTooLarge:
      // The rest is decoded, as HPACK wants it, and dropped; up to a point.
      if (trailing) {
        stream->detail_ = "trailer fields that are too long";
      } else if (!stream->rejection_) {
        stream->rejection_ = {Reason::kHeadersTooLarge, "the header list is too large"};
      }
      if (block.list_bytes() > kHeaderListFactor * session.resources_.options().max_header_list) {
        session.Condemn(Abuse::kHeaderList);
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

int ServerSession::OnInvalidHeader(nghttp2_session*, const nghttp2_frame* frame, nghttp2_rcbuf*, nghttp2_rcbuf*,
                                   uint8_t, void* self) {
  // nghttp2 would leave it out, and serve the rest: here the request is refused.
  auto& session = *static_cast<ServerSession*>(self);
  ServerStream* const stream = session.StreamOf(frame->hd.stream_id);
  if (stream == nullptr) return 0;
  session.Count(Abuse::kInvalidFrames);
  if (frame->headers.cat != NGHTTP2_HCAT_REQUEST) {
    stream->detail_ = "an invalid trailer field";
  } else if (!stream->rejection_) {
    stream->rejection_ = {Reason::kBadRequest, "an invalid field in the head"};
  }
  return 0;
}

void ServerSession::OnRequest(ServerStream* stream, bool ended) {
  const http::Rejection known = stream->rejection_;
  const http::Rejection rejection = MakeRequest(&stream->block_, ended, &resources_.buffers(), &stream->head_);
  stream->rejection_ = known ? known : rejection;
  Queue(stream);
}

int ServerSession::OnFrameReceived(nghttp2_session*, const nghttp2_frame* frame, void* self) {
  auto& session = *static_cast<ServerSession*>(self);
  const TimePoint now = session.loop_.now();
  const bool ends = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
  switch (frame->hd.type) {
    case NGHTTP2_HEADERS: {
      session.headers_since_ = TimePoint::max();
      ServerStream* const stream = session.StreamOf(frame->hd.stream_id);
      if (stream == nullptr || session.abuse_ != Abuse::kNone) break;
      if (ends) stream->remote_ended_ = true;
      stream->bytes_received_ += kFrameHeadBytes + frame->hd.length;
      if (frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
        session.OnRequest(stream, ends);
      } else {
        const char* detail = "";
        if (!CheckTrailers(stream->trailers_, &detail)) stream->detail_ = detail;
        session.Queue(stream);
      }
      break;
    }
    case NGHTTP2_DATA:
      if (frame->hd.length > frame->data.padlen) {
        session.guard_.OnData(now);
      } else if (!ends) {
        session.Count(Abuse::kEmptyData);
      }
      if (ServerStream* const stream = ends ? session.StreamOf(frame->hd.stream_id) : nullptr) {
        stream->remote_ended_ = true;
        session.Queue(stream);
      }
      break;
    case NGHTTP2_RST_STREAM:
      session.resources_.metrics().Add(SessionCounter::kResetsReceivedTotal, 1);
      if (const ServerStream* const stream = session.StreamOf(frame->hd.stream_id)) {
        if (session.guard_.OnReset(stream->started_, stream->end_sent_, now)) session.Condemn(Abuse::kRapidReset);
      }
      break;
    case NGHTTP2_SETTINGS:
      if ((frame->hd.flags & NGHTTP2_FLAG_ACK) != 0) {
        session.settings_acknowledged_ = true;
      } else {
        session.settings_received_ = true;
        session.Count(Abuse::kSettings);
      }
      break;
    case NGHTTP2_PING:
      if ((frame->hd.flags & NGHTTP2_FLAG_ACK) == 0) {
        session.Count(Abuse::kPing);
      } else if (session.draining_ && session.drain_at_ != TimePoint::max()) {
        session.FinishDrain();  // what it had sent before it knew has come
      }
      break;
    case NGHTTP2_PRIORITY_UPDATE:
      session.Count(Abuse::kPriority);
      break;
    case NGHTTP2_WINDOW_UPDATE:
      session.Count(Abuse::kWindowUpdate);
      break;
    default:
      break;
  }
  return 0;
}

int ServerSession::OnInvalidFrame(nghttp2_session*, const nghttp2_frame*, int code, void* self) {
  auto& session = *static_cast<ServerSession*>(self);
  // (A refused stream is counted as one, when its RST_STREAM leaves.)
  if (code != NGHTTP2_ERR_REFUSED_STREAM) {
    session.resources_.metrics().Add(SessionCounter::kInvalidFramesTotal, 1);
    session.Count(Abuse::kInvalidFrames);
  }
  return 0;
}

int ServerSession::OnDataChunk(nghttp2_session* nghttp2, uint8_t, int32_t id, const uint8_t* data, size_t size,
                               void* self) {
  auto& session = *static_cast<ServerSession*>(self);
  ServerStream* const stream = session.StreamOf(id);
  if (stream == nullptr || stream->done_ || stream->overloaded_ || stream->rejection_) {
    return nghttp2_session_consume(nghttp2, id, size);  // nobody wants it
  }
  if (!stream->Store({reinterpret_cast<const char*>(data), size})) {
    stream->overloaded_ = true;
    session.Queue(stream);
    return nghttp2_session_consume(nghttp2, id, size);
  }
  session.Queue(stream);
  return 0;
}

int ServerSession::OnFrameSent(nghttp2_session* nghttp2, const nghttp2_frame* frame, void* self) {
  auto& session = *static_cast<ServerSession*>(self);
  switch (frame->hd.type) {
    case NGHTTP2_RST_STREAM: {
      session.resources_.metrics().Add(SessionCounter::kResetsSentTotal, 1);
      const ServerStream* const stream = session.StreamOf(frame->hd.stream_id);
      if (frame->rst_stream.error_code == NGHTTP2_REFUSED_STREAM) {
        session.resources_.metrics().Add(SessionCounter::kStreamsRefusedTotal, 1);
        session.Count(Abuse::kRefusedStreams);
      } else if (stream == nullptr || !stream->reset_by_us_) {
        session.Count(Abuse::kInvalidFrames);  // the client made us reset it
      }
      break;
    }
    case NGHTTP2_DATA:
    case NGHTTP2_HEADERS: {
      ServerStream* const stream = session.StreamOf(frame->hd.stream_id);
      if (stream == nullptr) break;
      stream->bytes_sent_ += kFrameHeadBytes + frame->hd.length;
      if (frame->hd.type == NGHTTP2_DATA && !stream->starved_) session.guard_.OnData(session.loop_.now());
      if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) {
        stream->end_sent_ = true;
        // The response is complete: the client may stop sending (RFC 9113, section 8.1).
        if (stream->done_ && !stream->remote_ended_) {
          stream->reset_by_us_ = true;
          return nghttp2_submit_rst_stream(nghttp2, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
        }
      }
      break;
    }
    default:
      break;
  }
  return 0;
}

int ServerSession::OnStreamClosed(nghttp2_session*, int32_t id, uint32_t, void* self) {
  auto& session = *static_cast<ServerSession*>(self);
  ServerStream* const stream = session.StreamOf(id);
  if (stream == nullptr) return 0;
  stream->closed_ = true;
  if (stream->served_) {
    session.Queue(stream);
  } else {
    session.ReleaseIfOver(stream);  // its request never came whole, or nobody serves it any more
  }
  return 0;
}

ssize_t ServerSession::OnReadSource(nghttp2_session*, int32_t, uint8_t*, size_t size, uint32_t* flags,
                                    nghttp2_data_source* source, void*) {
  return static_cast<ServerStream*>(source->ptr)->ReadSource(size, flags);
}

int ServerSession::OnSendData(nghttp2_session*, nghttp2_frame*, const uint8_t* head, size_t size,
                              nghttp2_data_source* source, void* self) {
  auto& session = *static_cast<ServerSession*>(self);
  auto& stream = *static_cast<ServerStream*>(source->ptr);
  // nghttp2_session_mem_send goes on from one DATA frame to the next.
  if (session.out_.size() >= kOutputHighWater) return NGHTTP2_ERR_WOULDBLOCK;
  if (!session.AppendOutput(head, kFrameHeadBytes) || !session.AppendOutput(stream.source_.data(), size)) {
    return NGHTTP2_ERR_CALLBACK_FAILURE;
  }
  stream.Sent(size);
  return 0;
}

// ---- What they lead to.

void ServerSession::Count(Abuse kind) {
  if (guard_.Count(kind, loop_.now())) Condemn(kind);
}

void ServerSession::Condemn(Abuse kind) {
  if (abuse_ != Abuse::kNone) return;
  abuse_ = kind;
  resources_.metrics().CountAbuse(kind);
  (void)nghttp2_session_terminate_session(session_, NGHTTP2_ENHANCE_YOUR_CALM);  // out of memory: it ends without
  Flush();
}

void ServerSession::Fail(int code) {
  if (failed_ != 0) return;
  failed_ = code;
  if (code == NGHTTP2_ERR_FLOODED) Condemn(Abuse::kControlQueue);
  Flush();
}

bool ServerSession::SubmitResponse(ServerStream* stream, const http::OutgoingResponse& response, Part part) {
  if (ended_ || failed_ != 0) return false;
  std::vector<nghttp2_nv>& out = resources_.fields_;
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
    nghttp2_data_provider provider{};
    provider.source.ptr = stream;
    provider.read_callback = &ServerSession::OnReadSource;
    code = nghttp2_submit_response(session_, stream->id_, out.data(), out.size(),
                                   part == Part::kHead ? &provider : nullptr);
  }
  if (code != 0 && nghttp2_is_fatal(code)) Fail(code);
  return code == 0;
}

bool ServerSession::SubmitTrailers(int32_t id, std::span<const FieldView> trailers) {
  std::vector<nghttp2_nv>& out = resources_.fields_;
  out.clear();
  for (const FieldView& field : trailers) {
    if (!IsConnectionField(field.name)) out.push_back(FieldOf(field.name, field.value));
  }
  return nghttp2_submit_trailer(session_, id, out.data(), out.size()) == 0;
}

void ServerSession::ResumeData(int32_t id) {
  if (ended_ || failed_ != 0) return;
  const int code = nghttp2_session_resume_data(session_, id);
  if (code != 0 && nghttp2_is_fatal(code)) Fail(code);
}

// (Of a stream that is closed, it is the connection's window alone.)
void ServerSession::Consume(int32_t id, size_t bytes) {
  if (ended_ || failed_ != 0) return;
  if (const int code = nghttp2_session_consume(session_, id, bytes); code != 0) Fail(code);
  Flush();
}

void ServerSession::Reset(ServerStream* stream, uint32_t code) {
  if (stream->closed_ || ended_ || failed_ != 0) return;
  stream->reset_by_us_ = true;
  const int failure = nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, stream->id_, code);
  if (failure != 0 && nghttp2_is_fatal(failure)) Fail(failure);
  Pump();
}

int ServerSession::SubmitPreface() {
  const SessionOptions& options = resources_.options();
  int code = nghttp2_session_server_new3(&session_, resources_.callbacks_, this, resources_.nghttp2_options_,
                                         resources_.memory_.functions());
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

void ServerSession::Feed(const char* data, size_t size) {
  if (failed_ != 0 || size == 0) return;
  heard_ = loop_.now();
  pinged_ = TimePoint::max();
  inside_ = true;
  const ssize_t taken = nghttp2_session_mem_recv(session_, reinterpret_cast<const uint8_t*>(data), size);
  inside_ = false;
  if (taken < 0) {
    if (taken == NGHTTP2_ERR_TOO_MANY_CONTINUATIONS) Condemn(Abuse::kContinuation);
    Fail(static_cast<int>(taken));
  }
}

bool ServerSession::AppendOutput(const void* data, size_t size) {
  BufferPool& buffers = resources_.buffers();
  if (!out_) out_ = buffers.Acquire(std::max(size, BufferPool::kSmall));
  if (!out_) return false;
  if (out_.room() < size) out_.Compact();
  if (out_.room() < size && !buffers.Grow(&out_, out_.size() + size)) return false;
  if (out_.room() < size) return false;  // more than the largest block
  std::memcpy(out_.space(), data, size);
  out_.Filled(size);
  return true;
}

// Frames that are ready, into the output, as long as there is room.
void ServerSession::Pump() {
  if (!inside_ && !ended_ && failed_ == 0) {
    inside_ = true;
    while (out_.size() < kOutputHighWater) {
      const uint8_t* data = nullptr;
      const ssize_t size = nghttp2_session_mem_send(session_, &data);
      if (size < 0) Fail(static_cast<int>(size));
      if (size <= 0) break;
      if (!AppendOutput(data, static_cast<size_t>(size))) {
        Fail(NGHTTP2_ERR_NOMEM);
        break;
      }
    }
    inside_ = false;
    if (nghttp2_session_get_outbound_queue_size(session_) >
        kOutboundFramesMax + resources_.options().max_concurrent_streams) {
      Condemn(Abuse::kControlQueue);
    }
  }
  Flush();
}

// What this turn brings about leaves at its end, in one write.
void ServerSession::Flush() {
  if (flush_scheduled_ || !writer_idle_) return;
  flush_scheduled_ = true;
  loop_.Defer([this] {
    flush_scheduled_ = false;
    if (writer_) std::exchange(writer_, nullptr).resume();
  });
}

Task<void> ServerSession::WriteLoop() {
  struct Idle {
    ServerSession& session;
    bool await_ready() const noexcept { return session.stopping_; }
    void await_suspend(std::coroutine_handle<> self) const noexcept {
      session.writer_idle_ = true;
      session.writer_ = self;
    }
    void await_resume() const noexcept { session.writer_idle_ = false; }
  };
  for (;;) {
    Pump();
    size_t this_turn = 0;
    while (!out_.empty()) {
      std::array<iovec, 1> part = {{{out_.data(), out_.size()}}};
      std::span<iovec> rest(part);
      size_t written = 0;
      const Io io = socket_.Write(&rest, &written);
      out_.Consume(written);
      this_turn += written;
      if (io == Io::kError) {
        write_failed_ = true;
        break;
      }
      if (io == Io::kAgain) {
        this_turn = 0;
        const auto patience =
            stopping_ ? std::chrono::milliseconds(kLastWordsTimeout) : resources_.options().write_timeout;
        if (co_await socket_.Writable(loop_.now() + patience) != Wait::kReady) {
          write_failed_ = true;
          break;
        }
        continue;
      }
      Pump();
      RunQueued();  // who waited for room fills it again
      if (this_turn >= kBytesPerTurnMax && !out_.empty()) {
        this_turn = 0;
        co_await Yield(&loop_);
      }
    }
    if (out_.empty()) out_.Reset();
    if (write_failed_) {
      out_.Reset();
      socket_.Cancel();  // whoever reads learns of it
      co_return;
    }
    if (stopping_) co_return;
    RunQueued();
    Pump();
    if (!out_.empty()) continue;
    if (over()) socket_.ExtendRead(loop_.now());
    co_await Idle{*this};
  }
}

void ServerSession::Queue(ServerStream* stream) {
  if (stream->queued_) return;
  stream->queued_ = true;
  stream->next_queued_ = nullptr;
  stream->previous_queued_ = queue_last_;
  (queue_last_ != nullptr ? queue_last_->next_queued_ : queue_first_) = stream;
  queue_last_ = stream;
  Flush();
}

void ServerSession::Unqueue(ServerStream* stream) {
  if (!stream->queued_) return;
  stream->queued_ = false;
  (stream->previous_queued_ != nullptr ? stream->previous_queued_->next_queued_ : queue_first_) = stream->next_queued_;
  (stream->next_queued_ != nullptr ? stream->next_queued_->previous_queued_ : queue_last_) = stream->previous_queued_;
}

void ServerSession::RunQueued() {
  // One after the other: whoever is resumed may queue others, or end them.
  while (queue_first_ != nullptr && !inside_) {
    ServerStream* const stream = queue_first_;
    Unqueue(stream);
    stream->pinned_ = true;
    Tell(stream);
    stream->pinned_ = false;
    ReleaseIfOver(stream);
  }
}

// Resumes whoever waits for what has happened to the stream.
void ServerSession::Tell(ServerStream* stream) {
  if (!stream->served_ && !stream->done_ && !stream->closed_) {
    RunStream(stream);
    return;
  }
  if (stream->gone() || std::exchange(stream->cut_short_, false)) stream->TellGone();
  if (stream->reader_.waiting() && stream->IsReadable()) stream->reader_.Resume(Wait::kReady);
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
  if (!stream->closed_ || stream->served_ || stream->pinned_) return;
  Unqueue(stream);
  stream->DropInput();
  (stream->previous_ != nullptr ? stream->previous_->next_ : streams_) = stream->next_;
  if (stream->next_ != nullptr) stream->next_->previous_ = stream->previous_;
  resources_.FreeStream(stream);
  --live_;
  resources_.metrics().Add(SessionCounter::kStreams, -1);
  if (live_ > 0) return;
  idle_since_ = loop_.now();
  socket_.ExtendRead(over() ? loop_.now() : NextDeadline());
  if (ending_) std::exchange(ending_, nullptr).resume();
}

void ServerSession::CutShort() {
  for (ServerStream* stream = streams_; stream != nullptr; stream = stream->next_) {
    stream->cut_short_ = true;
    Queue(stream);
  }
}

bool ServerSession::over() const {
  return failed_ != 0 || abuse_ != Abuse::kNone || write_failed_ ||
         (nghttp2_session_want_read(session_) == 0 && nghttp2_session_want_write(session_) == 0);
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
    // Whoever is there answers.
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

// A GOAWAY frame by hand: nghttp2 makes none after an error of which it does not recover.
void ServerSession::SayGoodbye() {
  const auto last = static_cast<uint32_t>(nghttp2_session_get_last_proc_stream_id(session_));
  const uint32_t code = abuse_ != Abuse::kNone                    ? NGHTTP2_ENHANCE_YOUR_CALM
                        : failed_ == NGHTTP2_ERR_BAD_CLIENT_MAGIC ? NGHTTP2_PROTOCOL_ERROR
                                                                  : NGHTTP2_INTERNAL_ERROR;
  std::array<char, 17> frame = {0, 0, 8, NGHTTP2_GOAWAY, 0, 0, 0, 0, 0};
  for (size_t i = 0; i < 4; ++i) {
    frame[9 + i] = static_cast<char>(last >> (24 - 8 * i));
    frame[13 + i] = static_cast<char>(code >> (24 - 8 * i));
  }
  (void)AppendOutput(frame.data(), frame.size());  // no room: it ends without
}

Task<ServerSession::End> ServerSession::Serve(Buffer first) {
  Feed(first.data(), first.size());
  first.Reset();
  Task<void> writer = WriteLoop();
  writer.Start();
  bool gone = false;
  while (!over()) {
    Io io = Io::kDone;
    size_t this_turn = 0;
    while (io == Io::kDone && this_turn < kBytesPerTurnMax && !over()) {
      size_t moved = 0;
      io = socket_.Read(resources_.read_buffer_.get(), SessionResources::kReadBytes, &moved);
      if (io != Io::kDone) break;
      this_turn += moved;
      Feed(resources_.read_buffer_.get(), moved);
      Pump();
      RunQueued();
    }
    if (io == Io::kEnd || io == Io::kError) gone = true;
    if (gone || over()) break;
    if (io == Io::kDone) {
      co_await Yield(&loop_);
      continue;
    }
    const Wait wait = co_await socket_.Readable(NextDeadline());
    if (wait == Wait::kCancelled) gone = true;
    if (gone || (wait == Wait::kTimeout && !CheckDeadlines())) break;
    if (wait == Wait::kTimeout) Pump();
  }
  // What is left to say goes into the output now; then streams end, which nghttp2 need not know.
  Pump();
  if (failed_ != 0) SayGoodbye();
  ended_ = true;
  co_await EndStreams();
  stopping_ = true;
  if (gone) {
    write_failed_ = true;
    socket_.Cancel();
  }
  if (writer_ && !flush_scheduled_) std::exchange(writer_, nullptr).resume();
  co_await writer.Done();
  co_return gone || socket_.broken() ? End::kGone : End::kClosed;
}

// Whoever serves a stream learns that it is gone; waits for all of them.
Task<void> ServerSession::EndStreams() {
  struct LastStream {
    ServerSession& session;
    bool await_ready() const noexcept { return session.live_ == 0; }
    void await_suspend(std::coroutine_handle<> self) const noexcept { session.ending_ = self; }
    void await_resume() const noexcept {}
  };
  for (ServerStream* stream = streams_; stream != nullptr;) {
    ServerStream* const next = stream->next_;
    stream->closed_ = true;
    Queue(stream);
    stream = next;
  }
  RunQueued();
  co_await LastStream{*this};
}

}  // namespace gateway::dataplane::http2
