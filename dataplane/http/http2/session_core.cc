#include "dataplane/http/http2/session_core.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <utility>

#include "dataplane/http/http1/head.h"

namespace gateway::dataplane::http2 {

bool IsConnectionField(std::string_view name) {
  switch (http::ClassifyField(name)) {
    case http::FieldKind::kConnection:
    case http::FieldKind::kTransferEncoding:
    case http::FieldKind::kUpgrade:
    case http::FieldKind::kContentLength:
      return true;
    case http::FieldKind::kHopByHop:
      return http1::EqualsIgnoreCase(name, "keep-alive") || http1::EqualsIgnoreCase(name, "proxy-connection");
    default:
      return false;
  }
}

// ---- Callbacks of nghttp2.

struct SessionCore::Callbacks {
  static SessionCore& Of(void* self) { return *static_cast<SessionCore*>(self); }

  static int OnBeginFrame(nghttp2_session*, const nghttp2_frame_hd* head, void* self) {
    SessionCore& session = Of(self);
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

  static int OnUnknownFrame(nghttp2_session*, void**, const nghttp2_frame_hd*, void* self) {
    Of(self).Count(Abuse::kUnknownFrames);
    return NGHTTP2_ERR_CANCEL;  // it is ignored (RFC 9113, section 5.5)
  }

  static int OnBeginHeaders(nghttp2_session*, const nghttp2_frame* frame, void* self) {
    return Of(self).OnBeginHeaders(*frame);
  }

  static int OnHeader(nghttp2_session*, const nghttp2_frame* frame, nghttp2_rcbuf* name, nghttp2_rcbuf* value, uint8_t,
                      void* self) {
    return Of(self).OnHeader(*frame, ViewOf(name), ViewOf(value));
  }

  // nghttp2 would leave the field out and continue.
  static int OnInvalidHeader(nghttp2_session*, const nghttp2_frame* frame, nghttp2_rcbuf*, nghttp2_rcbuf*, uint8_t,
                             void* self) {
    return Of(self).OnInvalidHeader(*frame);
  }

  static int OnFrameReceived(nghttp2_session*, const nghttp2_frame* frame, void* self) {
    SessionCore& session = Of(self);
    const bool ends = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
    switch (frame->hd.type) {
      case NGHTTP2_HEADERS:
        session.headers_since_ = TimePoint::max();
        break;
      case NGHTTP2_DATA:
        if (frame->hd.length > frame->data.padlen) {
          session.guard_.OnData(session.loop_.now());
        } else if (!ends) {
          session.Count(Abuse::kEmptyData);
        }
        if (StreamCore* const stream = ends ? session.StreamOf(frame->hd.stream_id) : nullptr) {
          stream->remote_ended_ = true;
          session.Queue(stream);
        }
        break;
      case NGHTTP2_SETTINGS:
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) == 0) session.Count(Abuse::kSettings);
        break;
      case NGHTTP2_PING:
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) == 0) session.Count(Abuse::kPing);
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
    return session.OnFrameReceived(*frame);
  }

  static int OnInvalidFrame(nghttp2_session*, const nghttp2_frame*, int code, void* self) {
    SessionCore& session = Of(self);
    // (A refused stream is counted as one, when its RST_STREAM leaves.)
    if (code != NGHTTP2_ERR_REFUSED_STREAM) {
      session.OnInvalidFrame();
      session.Count(Abuse::kInvalidFrames);
    }
    return 0;
  }

  static int OnDataChunk(nghttp2_session* nghttp2, uint8_t, int32_t id, const uint8_t* data, size_t size, void* self) {
    SessionCore& session = Of(self);
    const bool at_once = session.limits_.credits_connection_at_once;
    if (at_once) {
      if (const int code = nghttp2_session_consume_connection(nghttp2, size); code != 0) return code;
    }
    StreamCore* const stream = session.StreamOf(id);
    if (stream != nullptr && !stream->done_ && !stream->overloaded_ && session.Wants(stream)) {
      session.Queue(stream);
      if (stream->Store({reinterpret_cast<const char*>(data), size})) {
        session.OnStored(stream, size);
        return 0;
      }
      stream->overloaded_ = true;
    }
    return at_once ? nghttp2_session_consume_stream(nghttp2, id, size) : nghttp2_session_consume(nghttp2, id, size);
  }

  static int OnFrameSent(nghttp2_session*, const nghttp2_frame* frame, void* self) {
    SessionCore& session = Of(self);
    if (frame->hd.type == NGHTTP2_DATA) {
      const StreamCore* const stream = session.StreamOf(frame->hd.stream_id);
      if (stream != nullptr && !stream->starved_) session.guard_.OnData(session.loop_.now());
    }
    return session.OnFrameSent(*frame);
  }

  static int OnStreamClosed(nghttp2_session*, int32_t id, uint32_t code, void* self) {
    SessionCore& session = Of(self);
    if (StreamCore* const stream = session.StreamOf(id)) {
      stream->closed_ = true;
      session.OnStreamClosed(stream, code);
    }
    return 0;
  }

  // (By its id: the stream may be gone, and its RST_STREAM on the way.)
  static ssize_t OnReadSource(nghttp2_session*, int32_t id, uint8_t*, size_t size, uint32_t* flags,
                              nghttp2_data_source*, void* self) {
    StreamCore* const stream = Of(self).StreamOf(id);
    return stream == nullptr ? ssize_t{NGHTTP2_ERR_DEFERRED} : stream->ReadSource(size, flags);
  }

  static int OnSendData(nghttp2_session*, nghttp2_frame* frame, const uint8_t* head, size_t size, nghttp2_data_source*,
                        void* self) {
    SessionCore& session = Of(self);
    StreamCore* const stream = session.StreamOf(frame->hd.stream_id);
    // Its writer has given up since the frame was begun.
    if (stream == nullptr || stream->source_.size() < size) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    // nghttp2_session_mem_send continues from one DATA frame to the next.
    if (session.out_.size() >= kOutputHighWater) return NGHTTP2_ERR_WOULDBLOCK;
    if (!session.AppendOutput(head, kFrameHeadBytes) || !session.AppendOutput(stream->source_.data(), size)) {
      return NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    stream->Sent(size);
    return 0;
  }
};

CoreResources::CoreResources(EventLoop* loop, BufferPool* buffers)
    : loop_(loop), buffers_(buffers), read_buffer_(new char[kReadBytes]) {
  if (nghttp2_session_callbacks_new(&callbacks_) != 0) throw std::bad_alloc();
  if (nghttp2_option_new(&nghttp2_options_) != 0) {
    nghttp2_session_callbacks_del(callbacks_);
    throw std::bad_alloc();
  }
  using Callbacks = SessionCore::Callbacks;
  nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks_, &Callbacks::OnBeginFrame);
  nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks_, &Callbacks::OnBeginHeaders);
  nghttp2_session_callbacks_set_on_header_callback2(callbacks_, &Callbacks::OnHeader);
  nghttp2_session_callbacks_set_on_invalid_header_callback2(callbacks_, &Callbacks::OnInvalidHeader);
  nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks_, &Callbacks::OnFrameReceived);
  nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks_, &Callbacks::OnInvalidFrame);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks_, &Callbacks::OnDataChunk);
  nghttp2_session_callbacks_set_on_frame_send_callback(callbacks_, &Callbacks::OnFrameSent);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks_, &Callbacks::OnStreamClosed);
  nghttp2_session_callbacks_set_send_data_callback(callbacks_, &Callbacks::OnSendData);
  nghttp2_session_callbacks_set_unpack_extension_callback(callbacks_, &Callbacks::OnUnknownFrame);

  nghttp2_option_set_no_auto_window_update(nghttp2_options_, 1);
  nghttp2_option_set_no_closed_streams(nghttp2_options_, 1);
  // nghttp2 would pass over frames of other types without a word.
  for (int type = NGHTTP2_CONTINUATION + 1; type <= 0xff; ++type) {
    if (type != NGHTTP2_PRIORITY_UPDATE) {
      nghttp2_option_set_user_recv_extension_type(nghttp2_options_, static_cast<uint8_t>(type));
    }
  }
  nghttp2_option_set_max_continuations(nghttp2_options_, kContinuationsMax);
  nghttp2_option_set_max_outbound_ack(nghttp2_options_, kOutboundAcksMax);
  nghttp2_option_set_max_settings(nghttp2_options_, kSettingsMax);
  nghttp2_option_set_max_send_header_block_length(nghttp2_options_, kSentHeaderListMax);
  nghttp2_option_set_stream_reset_rate_limit(nghttp2_options_, kResetBurst, kResetsPerSecond);
}

CoreResources::~CoreResources() {
  nghttp2_option_del(nghttp2_options_);
  nghttp2_session_callbacks_del(callbacks_);
}

SessionCore::SessionCore(CoreResources* resources, Socket* socket, Limits limits)
    : core_(*resources), loop_(resources->loop()), socket_(*socket), limits_(limits), heard_(loop_.now()) {}

SessionCore::~SessionCore() { nghttp2_session_del(session_); }

nghttp2_data_provider SessionCore::Provider() const {
  nghttp2_data_provider provider{};
  provider.read_callback = &Callbacks::OnReadSource;
  return provider;
}

// ---- What they lead to.

void SessionCore::Count(Abuse kind) {
  if (guard_.Count(kind, loop_.now())) Condemn(kind);
}

void SessionCore::Condemn(Abuse kind) {
  if (abuse_ != Abuse::kNone) return;
  abuse_ = kind;
  OnAbuse(kind);
  (void)nghttp2_session_terminate_session(session_, NGHTTP2_ENHANCE_YOUR_CALM);  // out of memory: it ends without
  Flush();
}

void SessionCore::Fail(int code) {
  if (failed_ != 0) return;
  failed_ = code;
  if (code == NGHTTP2_ERR_FLOODED) Condemn(Abuse::kControlQueue);
  Flush();
}

bool SessionCore::SubmitTrailers(int32_t id, std::span<const FieldView> trailers) {
  std::vector<nghttp2_nv>& out = core_.fields_;
  out.clear();
  for (const FieldView& field : trailers) {
    if (!IsConnectionField(field.name)) out.push_back(FieldOf(field.name, field.value));
  }
  return nghttp2_submit_trailer(session_, id, out.data(), out.size()) == 0;
}

void SessionCore::ResumeData(int32_t id) {
  if (ended_ || failed_ != 0) return;
  const int code = nghttp2_session_resume_data(session_, id);
  if (code != 0 && nghttp2_is_fatal(code)) Fail(code);
}

// (Of a stream that is closed, it is the connection's window alone.)
void SessionCore::Consume(int32_t id, size_t bytes) {
  if (ended_ || failed_ != 0) return;
  const int code = limits_.credits_connection_at_once ? nghttp2_session_consume_stream(session_, id, bytes)
                                                      : nghttp2_session_consume(session_, id, bytes);
  if (code != 0) Fail(code);
  Flush();
}

void SessionCore::Reset(StreamCore* stream, uint32_t code) {
  if (stream->closed_ || ended_ || failed_ != 0) return;
  stream->reset_by_us_ = true;
  const int failure = nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, stream->id_, code);
  if (failure != 0 && nghttp2_is_fatal(failure)) Fail(failure);
  Pump();
}

void SessionCore::Feed(const char* data, size_t size) {
  if (failed_ != 0 || refused_ || size == 0) return;
  heard_ = loop_.now();
  pinged_ = TimePoint::max();
  uint32_t error = NGHTTP2_NO_ERROR;
  const size_t right = Check({data, size}, &error);
  inside_ = true;
  const ssize_t taken = nghttp2_session_mem_recv(session_, reinterpret_cast<const uint8_t*>(data), right);
  inside_ = false;
  if (taken < 0) {
    if (taken == NGHTTP2_ERR_TOO_MANY_CONTINUATIONS) Condemn(Abuse::kContinuation);
    Fail(static_cast<int>(taken));
  } else if (right < size) {
    refused_ = true;
    OnInvalidFrame();
    if (const int code = nghttp2_session_terminate_session(session_, error); code != 0) Fail(code);
    Flush();
  }
}

bool SessionCore::AppendOutput(const void* data, size_t size) {
  if (!out_) out_ = buffers().Acquire(std::max(size, BufferPool::kSmall));
  if (!out_) return false;
  if (out_.room() < size) out_.Compact();
  if (out_.room() < size && !buffers().Grow(&out_, out_.size() + size)) return false;
  if (out_.room() < size) return false;  // more than the largest block
  std::memcpy(out_.space(), data, size);
  out_.Filled(size);
  return true;
}

// Frames that are ready, into the output, as long as there is room.
void SessionCore::Pump() {
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
    if (nghttp2_session_get_outbound_queue_size(session_) > limits_.outbound_frames_max) {
      Condemn(Abuse::kControlQueue);
    }
  }
  Flush();
}

void SessionCore::Flush() {
  if (flush_scheduled_ || !writer_idle_) return;
  flush_scheduled_ = true;
  loop_.Defer([this] {
    flush_scheduled_ = false;
    if (writer_) std::exchange(writer_, nullptr).resume();
  });
}

// Others have their turn. Meanwhile the loop has a handle to this.
Task<void> SessionCore::GiveTurn() {
  ++yielding_;
  co_await Yield(&loop_);
  --yielding_;
}

Task<void> SessionCore::WriteLoop() {
  struct Idle {
    SessionCore& session;
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
        const auto patience = stopping_ ? std::chrono::milliseconds(kLastWordsTimeout) : limits_.write_timeout;
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
        co_await GiveTurn();
      }
    }
    if (out_.empty()) out_.Reset();
    if (write_failed_) {
      out_.Reset();
      socket_.Cancel();  // the reader learns of it
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

void SessionCore::Link(StreamCore* stream) {
  stream->linked_ = true;
  stream->next_ = streams_;
  if (streams_ != nullptr) streams_->previous_ = stream;
  streams_ = stream;
  ++live_;
}

void SessionCore::Unlink(StreamCore* stream) {
  Unqueue(stream);
  if (!std::exchange(stream->linked_, false)) return;
  (stream->previous_ != nullptr ? stream->previous_->next_ : streams_) = stream->next_;
  if (stream->next_ != nullptr) stream->next_->previous_ = stream->previous_;
  --live_;
}

void SessionCore::Queue(StreamCore* stream) {
  if (stream->queued_) return;
  stream->queued_ = true;
  stream->next_queued_ = nullptr;
  stream->previous_queued_ = queue_last_;
  (queue_last_ != nullptr ? queue_last_->next_queued_ : queue_first_) = stream;
  queue_last_ = stream;
  Flush();
}

void SessionCore::Unqueue(StreamCore* stream) {
  if (!stream->queued_) return;
  stream->queued_ = false;
  (stream->previous_queued_ != nullptr ? stream->previous_queued_->next_queued_ : queue_first_) = stream->next_queued_;
  (stream->next_queued_ != nullptr ? stream->next_queued_->previous_queued_ : queue_last_) = stream->previous_queued_;
}

void SessionCore::RunQueued() {
  // One after the other: those that are resumed may queue others, or end them.
  ++telling_;
  while (queue_first_ != nullptr && !inside_) {
    StreamCore* const stream = queue_first_;
    Unqueue(stream);
    const StreamCore::Watch watch(stream);
    Tell(stream);
    if (!watch.gone()) AfterTold(stream);
  }
  --telling_;
}

void SessionCore::CloseAll() {
  for (StreamCore* stream = streams_; stream != nullptr; stream = stream->next_) {
    stream->closed_ = true;
    Queue(stream);
  }
  RunQueued();
}

bool SessionCore::over() const {
  return failed_ != 0 || abuse_ != Abuse::kNone || write_failed_ ||
         (nghttp2_session_want_read(session_) == 0 && nghttp2_session_want_write(session_) == 0);
}

// A GOAWAY frame by hand: nghttp2 makes none after an error of which it does not recover.
void SessionCore::SayGoodbye() {
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

Task<bool> SessionCore::Converse(Buffer first) {
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
      io = socket_.Read(core_.read_buffer_.get(), CoreResources::kReadBytes, &moved);
      if (io != Io::kDone) break;
      this_turn += moved;
      Feed(core_.read_buffer_.get(), moved);
      Pump();
      RunQueued();
    }
    if (io == Io::kEnd || io == Io::kError) gone = true;
    if (gone || over()) break;
    if (io == Io::kDone) {
      co_await GiveTurn();
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
  co_return gone || socket_.broken();
}

}  // namespace gateway::dataplane::http2
