// An HTTP/2 connection (RFC 9113) on either side of the gateway: frames to streams and back, over a socket, in
// cleartext or TLS.
//
// nghttp2 knows the frames, HPACK, windows and the states of streams; this and the sessions made of it are the only
// code that speaks to it.
#ifndef GATEWAY_DATAPLANE_HTTP_HTTP2_SESSION_CORE_H_
#define GATEWAY_DATAPLANE_HTTP_HTTP2_SESSION_CORE_H_

#include <nghttp2/nghttp2.h>

#include <chrono>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "dataplane/http/fields.h"
#include "dataplane/http/http2/abuse_guard.h"
#include "dataplane/http/http2/session_memory.h"
#include "dataplane/http/http2/stream_core.h"
#include "dataplane/net/buffer_pool.h"
#include "dataplane/net/event_loop.h"
#include "dataplane/net/socket.h"
#include "dataplane/net/task.h"

namespace gateway::dataplane::http2 {

// What the sessions of one worker share, one set for clients and one for endpoints. Outlives them.
class CoreResources {
 public:
  static constexpr size_t kReadBytes = 64 * 1024;
  // Of nghttp2: what would be checked too late if it leads to a whole batch of frames.
  static constexpr size_t kContinuationsMax = 8;
  static constexpr size_t kOutboundAcksMax = 256;
  static constexpr size_t kSettingsMax = 32;  // entries of a frame
  // A header section that leaves, of what others have sent and the gateway adds; both are bounded before.
  static constexpr size_t kSentHeaderListMax = 1 << 20;
  // RST_STREAM frames of a peer, whatever the share of its requests: AbuseGuard is asked first.
  static constexpr uint64_t kResetBurst = 10'000;
  static constexpr uint64_t kResetsPerSecond = 1'000;

  // Throws std::bad_alloc.
  CoreResources(EventLoop* loop, BufferPool* buffers);
  CoreResources(const CoreResources&) = delete;
  CoreResources& operator=(const CoreResources&) = delete;

  EventLoop& loop() const { return *loop_; }
  BufferPool& buffers() const { return *buffers_; }

 protected:
  ~CoreResources();
  nghttp2_option* nghttp2_options() { return nghttp2_options_; }

 private:
  friend class SessionCore;
  friend class ServerSession;
  friend class ClientSession;
  EventLoop* const loop_;
  BufferPool* const buffers_;
  SessionMemory memory_;
  nghttp2_session_callbacks* callbacks_ = nullptr;
  nghttp2_option* nghttp2_options_ = nullptr;
  // What a session reads is decoded at once, so that all share this.
  const std::unique_ptr<char[]> read_buffer_;
  std::vector<nghttp2_nv> fields_;  // scratch for one header section
};

// Belongs to one worker. Reads in the coroutine of Converse, writes in one of its own: what a turn of the loop brings
// about leaves at its end, in one write. Callbacks of nghttp2 only note what there is to do; no coroutine is resumed
// from inside it.
class SessionCore {
 public:
  // What leaves in one write; what is not written is at most this and a frame.
  static constexpr size_t kOutputHighWater = 47 * 1024;
  static constexpr size_t kBytesPerTurnMax = 256 * 1024;
  // A DATA frame that a window cut down to less does not count as work (AbuseGuard).
  static constexpr size_t kTinyFrame = 128;
  static constexpr std::chrono::seconds kLastWordsTimeout{2};
  static constexpr size_t kFrameHeadBytes = 9;

  SessionCore(const SessionCore&) = delete;
  SessionCore& operator=(const SessionCore&) = delete;

  // What it was closed for; kNone: nothing.
  Abuse abuse() const { return abuse_; }

  // For streams.
  EventLoop& loop() const { return loop_; }
  BufferPool& buffers() const { return core_.buffers(); }
  void Pump();
  void ResumeData(int32_t id);
  void Consume(int32_t id, size_t bytes);
  void Reset(StreamCore* stream, uint32_t code);
  bool SubmitTrailers(int32_t id, std::span<const FieldView> trailers);
  // Tells it, soon, what has happened to it.
  void Queue(StreamCore* stream);

 protected:
  struct Limits {
    std::chrono::milliseconds write_timeout;  // the longest stall of the connection
    size_t outbound_frames_max;               // that wait behind a peer that reads nothing
    // The connection's window opens as bytes come, so that a stream that is not read does not block others; only its
    // own window holds its sender back.
    bool credits_connection_at_once;
  };
  SessionCore(CoreResources* resources, Socket* socket, Limits limits);
  ~SessionCore();

  // How many of these bytes nghttp2 gets; fewer: `*error`, of HTTP/2, ends the session behind them.
  virtual size_t Check(std::string_view bytes, uint32_t*) { return bytes.size(); }
  // What nghttp2 says; see its documentation. Nonzero ends the session.
  virtual int OnBeginHeaders(const nghttp2_frame& frame) = 0;
  virtual int OnHeader(const nghttp2_frame& frame, std::string_view name, std::string_view value) = 0;
  virtual int OnInvalidHeader(const nghttp2_frame& frame) = 0;
  virtual int OnFrameReceived(const nghttp2_frame& frame) = 0;
  virtual int OnFrameSent(const nghttp2_frame& frame) = 0;
  virtual void OnStreamClosed(StreamCore* stream, uint32_t code) = 0;
  // DATA for `stream`; false: it is not wanted.
  virtual bool Wants(StreamCore* stream) = 0;
  // Bytes of a body, framing included, went through.
  virtual void OnStored(StreamCore*, size_t) {}
  virtual void OnInvalidFrame() = 0;
  virtual void OnAbuse(Abuse kind) = 0;
  // The stream has been queued: resumes who waits for what has happened.
  virtual void Tell(StreamCore* stream) = 0;
  // It was told, and is still there.
  virtual void AfterTold(StreamCore*) {}
  // When to look at deadlines again, and what they say: false ends the session.
  virtual TimePoint NextDeadline() const = 0;
  virtual bool CheckDeadlines() = 0;
  // Nothing more is read, and nghttp2 is called no more. Every stream is to learn that it has ended.
  virtual Task<void> EndStreams() = 0;

  // From the first bytes (read already: `first`) to the end of the connection. True: the peer is gone, or the
  // connection broke; else it is to be closed, and the peer may still be sending.
  Task<bool> Converse(Buffer first);

  StreamCore* StreamOf(int32_t id) const {
    return static_cast<StreamCore*>(nghttp2_session_get_stream_user_data(session_, id));
  }
  // `visit` may queue it.
  template <typename Visit>  // void(StreamCore*)
  void ForEachStream(const Visit& visit) {
    for (StreamCore* stream = streams_; stream != nullptr; stream = stream->next_) visit(stream);
  }
  void Link(StreamCore* stream);
  void Unlink(StreamCore* stream);
  void Count(Abuse kind);
  void Condemn(Abuse kind);
  void Fail(int code);
  void Flush();
  void RunQueued();
  // Queues all streams as closed, and tells them.
  void CloseAll();
  bool over() const;
  // Its coroutines are not on the stack, and nothing of it waits for the end of the turn.
  bool settled() const { return telling_ == 0 && yielding_ == 0 && !flush_scheduled_; }
  nghttp2_data_provider Provider() const;

  CoreResources& core_;
  EventLoop& loop_;
  Socket& socket_;
  const Limits limits_;
  nghttp2_session* session_ = nullptr;
  bool inside_ = false;  // nghttp2 is being called: it must not be called again
  bool ended_ = false;   // nor any more
  int failed_ = 0;       // nghttp2's error, which is final

  StreamCore* streams_ = nullptr;
  size_t live_ = 0;  // streams in the list

  AbuseGuard guard_;
  Abuse abuse_ = Abuse::kNone;
  TimePoint heard_;  // bytes came
  TimePoint pinged_ = TimePoint::max();
  // A header section has begun and is not complete.
  TimePoint headers_since_ = TimePoint::max();

 private:
  friend class CoreResources;  // names the callbacks
  struct Callbacks;

  void Feed(const char* data, size_t size);
  bool AppendOutput(const void* data, size_t size);
  Task<void> GiveTurn();
  Task<void> WriteLoop();
  void Unqueue(StreamCore* stream);
  void SayGoodbye();

  bool refused_ = false;  // nothing more is fed
  Buffer out_;
  bool flush_scheduled_ = false;
  bool stopping_ = false;
  bool writer_idle_ = false;
  std::coroutine_handle<> writer_;
  bool write_failed_ = false;

  int telling_ = 0;   // RunQueued is on the stack
  int yielding_ = 0;  // GiveTurn is waiting
  StreamCore* queue_first_ = nullptr;
  StreamCore* queue_last_ = nullptr;
};

// For sessions: what nghttp2 has.
inline std::string_view ViewOf(nghttp2_rcbuf* text) {
  const nghttp2_vec bytes = nghttp2_rcbuf_get_buf(text);
  return {reinterpret_cast<const char*>(bytes.base), bytes.len};
}
// nghttp2 copies both, names in lower case.
inline nghttp2_nv FieldOf(std::string_view name, std::string_view value) {
  return {reinterpret_cast<uint8_t*>(const_cast<char*>(name.data())),
          reinterpret_cast<uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(), NGHTTP2_NV_FLAG_NONE};
}
// Fields of a connection have no place in HTTP/2 (RFC 9113, section 8.2.2), in either direction; the message's
// length is known apart from its field.
bool IsConnectionField(std::string_view name);

}  // namespace gateway::dataplane::http2

#endif  // GATEWAY_DATAPLANE_HTTP_HTTP2_SESSION_CORE_H_
