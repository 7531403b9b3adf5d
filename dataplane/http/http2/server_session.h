// One client's HTTP/2 connection: its requests become streams, each of which is served by itself.
#ifndef GATEWAY_DATAPLANE_HTTP_HTTP2_SERVER_SESSION_H_
#define GATEWAY_DATAPLANE_HTTP_HTTP2_SERVER_SESSION_H_

#include <chrono>
#include <coroutine>
#include <cstdint>
#include <string_view>

#include "dataplane/http/connection_info.h"
#include "dataplane/http/http2/late_frames.h"
#include "dataplane/http/http2/server_stream.h"
#include "dataplane/http/http2/session_core.h"
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
class SessionResources final : public CoreResources {
 public:
  static constexpr size_t kFreeStreamsMax = 1024;

  SessionResources(EventLoop* loop, BufferPool* buffers, SessionMetrics* metrics, const SessionOptions& options);
  ~SessionResources();

  SessionMetrics& metrics() const { return *metrics_; }
  const SessionOptions& options() const { return options_; }

 private:
  friend class ServerSession;
  ServerStream* MakeStream(ServerSession* session, int32_t id);
  void FreeStream(ServerStream* stream);
  struct FreeStreamBlock {
    FreeStreamBlock* next;
  };

  SessionMetrics* const metrics_;
  const SessionOptions options_;
  FreeStreamBlock* free_streams_ = nullptr;
  size_t free_count_ = 0;
};

class ServerSession final : public SessionCore {
 public:
  // Serves one stream to its end: begun as soon as the request's header section has come.
  using ServeStream = Task<void> (*)(void* context, http::DownstreamStream& stream);

  // Window of the connection: several streams may fill theirs before they are in each other's way.
  static constexpr uint32_t kConnectionWindow = 1 << 20;
  // Streams that are gone while somebody still serves them count against this, together with the others.
  static constexpr uint32_t kServedPerConcurrent = 2;
  // Frames that may wait behind a client that reads nothing, besides those of max_concurrent_streams.
  static constexpr size_t kOutboundFramesMax = 1000;
  // A header list this many times as long as was advertised closes the connection; a shorter one gets 431.
  static constexpr size_t kHeaderListFactor = 4;
  static constexpr std::chrono::seconds kPingTimeout{20};
  // Between the two GOAWAY frames of a drain, if the client does not acknowledge the PING between them.
  static constexpr std::chrono::seconds kDrainNotice{1};

  // All of them outlive it. Throws std::bad_alloc.
  ServerSession(SessionResources* resources, Socket* socket, const http::ConnectionInfo* connection, ServeStream serve,
                void* context);
  ~ServerSession();

  enum class End : uint8_t {
    kGone,    // the client closed the connection, or it broke
    kClosed,  // it is to be closed, lingering: the client may still be sending
  };
  // From the client's preface to the end of all streams. `first`: what has been read already.
  Task<End> Serve(Buffer first);

  // Lets streams of now end, and takes no new ones: two GOAWAY frames, so that none is lost on the way.
  void Drain();
  // Services are not waited for any more: each stream that watches for it is told that its client is gone.
  void CutShort();
  // No stream is open. (A drained session without streams ends by itself.)
  bool idle() const { return live_ == 0; }
  // Since when; TimePoint::max(): it is not.
  TimePoint idle_since() const { return idle() ? idle_since_ : TimePoint::max(); }

 private:
  friend class ServerStream;

  // SessionCore's.
  size_t Check(std::string_view bytes, uint32_t* error) override { return late_frames_.Check(bytes, error); }
  int OnBeginHeaders(const nghttp2_frame& frame) override;
  int OnHeader(const nghttp2_frame& frame, std::string_view name, std::string_view value) override;
  int OnInvalidHeader(const nghttp2_frame& frame) override;
  int OnFrameReceived(const nghttp2_frame& frame) override;
  int OnFrameSent(const nghttp2_frame& frame) override;
  void OnStreamClosed(StreamCore* stream, uint32_t code) override;
  bool Wants(StreamCore* stream) override { return !static_cast<ServerStream*>(stream)->rejection_; }
  void OnStored(StreamCore* stream, size_t size) override {
    static_cast<ServerStream*>(stream)->bytes_received_ += size;
  }
  void OnInvalidFrame() override { resources_.metrics().Add(SessionCounter::kInvalidFramesTotal, 1); }
  void OnAbuse(Abuse kind) override { resources_.metrics().CountAbuse(kind); }
  void Tell(StreamCore* stream) override;
  void AfterTold(StreamCore* stream) override { ReleaseIfOver(static_cast<ServerStream*>(stream)); }
  TimePoint NextDeadline() const override;
  bool CheckDeadlines() override;
  Task<void> EndStreams() override;

  ServerStream* StreamOf(int32_t id) const { return static_cast<ServerStream*>(SessionCore::StreamOf(id)); }
  void OnRequest(ServerStream* stream, bool ended);
  // Whether it was reset before it was served: its request is recorded, and gets no response.
  static bool IsOnlyRecorded(const ServerStream& stream) {
    return stream.closed_ && stream.reset_by_nghttp2_ && !stream.done_ && stream.request_read_;
  }
  int SubmitPreface();
  Detached RunStream(ServerStream* stream);
  void ReleaseIfOver(ServerStream* stream);
  void FinishDrain();

  // For streams.
  enum class Part : uint8_t {
    kInterim,
    kHead,  // a body follows
    kAll,   // the stream ends with it
  };
  bool SubmitResponse(ServerStream* stream, const http::OutgoingResponse& response, Part part);

  SessionResources& resources_;
  const http::ConnectionInfo& connection_;
  const ServeStream serve_;
  void* const context_;
  std::coroutine_handle<> ending_;  // waits for the last stream

  LateFrames late_frames_;
  TimePoint started_;
  TimePoint idle_since_;                   // no stream was open
  TimePoint drain_at_ = TimePoint::max();  // the second GOAWAY
  bool settings_received_ = false;
  bool settings_acknowledged_ = false;
  bool draining_ = false;
};

}  // namespace gateway::dataplane::http2

#endif  // GATEWAY_DATAPLANE_HTTP_HTTP2_SERVER_SESSION_H_
