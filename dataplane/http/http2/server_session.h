// One client's HTTP/2 connection (RFC 9113): frames to streams and back, over a socket, in cleartext or TLS.
//
// nghttp2 knows the frames, HPACK, windows and the states of streams. This is the only code that speaks to it for
// clients; what is served (proxy/) sees streams.
#ifndef GATEWAY_DATAPLANE_HTTP_HTTP2_SERVER_SESSION_H_
#define GATEWAY_DATAPLANE_HTTP_HTTP2_SERVER_SESSION_H_

#include <nghttp2/nghttp2.h>

#include <chrono>
#include <coroutine>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "dataplane/http/connection_info.h"
#include "dataplane/http/http2/abuse_guard.h"
#include "dataplane/http/http2/server_stream.h"
#include "dataplane/http/http2/session_memory.h"
#include "dataplane/http/http2/session_metrics.h"
#include "dataplane/http/http2/session_options.h"
#include "dataplane/net/buffer_pool.h"
#include "dataplane/net/event_loop.h"
#include "dataplane/net/socket.h"
#include "dataplane/net/task.h"

namespace gateway::dataplane::http2 {

class ServerSession;

// What a client that knows beforehand begins with (RFC 9113, section 3.4).
inline constexpr std::string_view kClientPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
enum class Preface : uint8_t { kMore, kHttp2, kOther };
Preface MatchPreface(std::string_view input);

// What the sessions of one worker share: memory, streams to reuse, room to read into. Outlives them.
class SessionResources {
 public:
  static constexpr size_t kReadBytes = 64 * 1024;
  static constexpr size_t kFreeStreamsMax = 1024;
  // Of nghttp2: what would be checked too late where it leads to a whole batch of frames.
  static constexpr size_t kContinuationsMax = 8;
  static constexpr size_t kOutboundAcksMax = 256;
  static constexpr size_t kSettingsMax = 32;  // entries of a frame
  // RST_STREAM frames of a client, whatever the share of its requests: AbuseGuard is asked first.
  static constexpr uint64_t kResetBurst = 10'000;
  static constexpr uint64_t kResetsPerSecond = 1'000;

  SessionResources(EventLoop* loop, BufferPool* buffers, SessionMetrics* metrics, const SessionOptions& options);
  ~SessionResources();
  SessionResources(const SessionResources&) = delete;
  SessionResources& operator=(const SessionResources&) = delete;

  EventLoop& loop() const { return *loop_; }
  BufferPool& buffers() const { return *buffers_; }
  SessionMetrics& metrics() const { return *metrics_; }
  const SessionOptions& options() const { return options_; }

 private:
  friend class ServerSession;
  ServerStream* MakeStream(ServerSession* session, int32_t id);
  void FreeStream(ServerStream* stream);
  struct FreeStreamBlock {
    FreeStreamBlock* next;
  };

  EventLoop* const loop_;
  BufferPool* const buffers_;
  SessionMetrics* const metrics_;
  const SessionOptions options_;
  SessionMemory memory_;
  nghttp2_session_callbacks* callbacks_ = nullptr;
  nghttp2_option* nghttp2_options_ = nullptr;
  // What a session reads is decoded at once, so that all share this.
  const std::unique_ptr<char[]> read_buffer_;
  FreeStreamBlock* free_streams_ = nullptr;
  size_t free_count_ = 0;
  std::vector<nghttp2_nv> fields_;  // scratch for one header section
};

class ServerSession {
 public:
  // Serves one stream to its end: begun as soon as the request's header section has come.
  using ServeStream = Task<void> (*)(void* context, http::DownstreamStream& stream);

  // Window of the connection: several streams may fill theirs before they are in each other's way.
  static constexpr uint32_t kConnectionWindow = 1 << 20;
  // Streams that are gone while somebody still serves them count against this, together with the others.
  static constexpr uint32_t kServedPerConcurrent = 2;
  // What leaves in one write; what is not written is at most this and a frame.
  static constexpr size_t kOutputHighWater = 47 * 1024;
  static constexpr size_t kBytesPerTurnMax = 256 * 1024;
  // Frames that may wait behind a client that reads nothing, besides those of max_concurrent_streams.
  static constexpr size_t kOutboundFramesMax = 1000;
  // A header list this many times as long as was advertised closes the connection; a shorter one gets 431.
  static constexpr size_t kHeaderListFactor = 4;
  // A DATA frame that a window cut down to less is no work (AbuseGuard).
  static constexpr size_t kTinyFrame = 128;
  static constexpr std::chrono::seconds kPingTimeout{20};
  // Between the two GOAWAY frames of a drain, where the client does not answer the PING between them.
  static constexpr std::chrono::seconds kDrainNotice{1};
  static constexpr std::chrono::seconds kLastWordsTimeout{2};

  // All of them outlive it. Throws std::bad_alloc.
  ServerSession(SessionResources* resources, Socket* socket, const http::ConnectionInfo* connection, ServeStream serve,
                void* context);
  ~ServerSession();
  ServerSession(const ServerSession&) = delete;
  ServerSession& operator=(const ServerSession&) = delete;

  enum class End : uint8_t {
    kGone,    // the client closed the connection, or it broke
    kClosed,  // it is to be closed, lingering: the client may still be sending
  };
  // From the client's preface to the end of all streams. `first`: what has been read already.
  Task<End> Serve(Buffer first);

  // Lets streams of now end, and takes no new ones: two GOAWAY frames, so that none is lost on the way.
  void Drain();
  // Nobody shall wait for services any more: each stream that watches for it is told that its client is gone.
  void CutShort();
  // No stream is open. (A drained session without streams ends by itself.)
  bool idle() const { return live_ == 0; }
  // Since when; TimePoint::max(): it is not.
  TimePoint idle_since() const { return idle() ? idle_since_ : TimePoint::max(); }
  // What it was closed for; kNone: nothing.
  Abuse abuse() const { return abuse_; }

 private:
  friend class ServerStream;
  friend class SessionResources;  // names the callbacks
  // Callbacks of nghttp2.
  static int OnBeginFrame(nghttp2_session*, const nghttp2_frame_hd* head, void* self);
  static int OnBeginHeaders(nghttp2_session*, const nghttp2_frame* frame, void* self);
  static int OnHeader(nghttp2_session*, const nghttp2_frame* frame, nghttp2_rcbuf* name, nghttp2_rcbuf* value, uint8_t,
                      void* self);
  static int OnInvalidHeader(nghttp2_session*, const nghttp2_frame* frame, nghttp2_rcbuf* name, nghttp2_rcbuf* value,
                             uint8_t, void* self);
  static int OnFrameReceived(nghttp2_session*, const nghttp2_frame* frame, void* self);
  static int OnInvalidFrame(nghttp2_session*, const nghttp2_frame* frame, int code, void* self);
  static int OnDataChunk(nghttp2_session*, uint8_t, int32_t id, const uint8_t* data, size_t size, void* self);
  static int OnFrameSent(nghttp2_session*, const nghttp2_frame* frame, void* self);
  static int OnStreamClosed(nghttp2_session*, int32_t id, uint32_t code, void* self);
  static ssize_t OnReadSource(nghttp2_session*, int32_t, uint8_t*, size_t size, uint32_t* flags,
                              nghttp2_data_source* source, void* self);
  static int OnUnknownFrame(nghttp2_session*, void** payload, const nghttp2_frame_hd* head, void* self);
  static int OnSendData(nghttp2_session*, nghttp2_frame* frame, const uint8_t* head, size_t size,
                        nghttp2_data_source* source, void* self);

  ServerStream* StreamOf(int32_t id) const;
  void OnRequest(ServerStream* stream, bool ended);
  void Count(Abuse kind);
  void Condemn(Abuse kind);
  void Fail(int code);

  int SubmitPreface();
  void Feed(const char* data, size_t size);
  void Pump();
  void Flush();
  bool AppendOutput(const void* data, size_t size);
  Task<void> WriteLoop();
  void Queue(ServerStream* stream);
  void Unqueue(ServerStream* stream);
  void RunQueued();
  void Tell(ServerStream* stream);
  Detached RunStream(ServerStream* stream);
  void FinishStream(ServerStream* stream);
  void ReleaseIfOver(ServerStream* stream);
  Task<void> EndStreams();
  TimePoint NextDeadline() const;
  bool CheckDeadlines();  // false: the session is over
  void FinishDrain();
  void SayGoodbye();
  bool over() const;

  // For streams.
  enum class Part : uint8_t {
    kInterim,
    kHead,  // a body follows
    kAll,   // the stream ends with it
  };
  bool SubmitResponse(ServerStream* stream, const http::OutgoingResponse& response, Part part);
  bool SubmitTrailers(int32_t id, std::span<const FieldView> trailers);
  void ResumeData(int32_t id);
  void Consume(int32_t id, size_t bytes);
  void Reset(ServerStream* stream, uint32_t code);

  SessionResources& resources_;
  EventLoop& loop_;
  Socket& socket_;
  const http::ConnectionInfo& connection_;
  const ServeStream serve_;
  void* const context_;
  nghttp2_session* session_ = nullptr;
  bool inside_ = false;  // nghttp2 is being called: it must not be called again
  bool ended_ = false;   // nor any more
  int failed_ = 0;       // nghttp2's error, of which there is no return

  Buffer out_;
  bool flush_scheduled_ = false;
  bool stopping_ = false;
  bool writer_idle_ = false;
  std::coroutine_handle<> writer_;
  bool write_failed_ = false;

  ServerStream* streams_ = nullptr;
  size_t live_ = 0;  // streams in the list
  ServerStream* queue_first_ = nullptr;
  ServerStream* queue_last_ = nullptr;
  std::coroutine_handle<> ending_;  // waits for the last one

  AbuseGuard guard_;
  Abuse abuse_ = Abuse::kNone;
  TimePoint started_;
  TimePoint heard_;                             // bytes came
  TimePoint idle_since_;                        // no stream was open
  TimePoint headers_since_ = TimePoint::max();  // a header section has begun and is not complete
  TimePoint pinged_ = TimePoint::max();
  TimePoint drain_at_ = TimePoint::max();  // the second GOAWAY
  bool settings_received_ = false;
  bool settings_acknowledged_ = false;
  bool draining_ = false;
};

}  // namespace gateway::dataplane::http2

#endif  // GATEWAY_DATAPLANE_HTTP_HTTP2_SERVER_SESSION_H_
