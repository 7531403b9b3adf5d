// An HTTP/2 connection to an endpoint, which many requests share.
#ifndef GATEWAY_DATAPLANE_HTTP_HTTP2_CLIENT_SESSION_H_
#define GATEWAY_DATAPLANE_HTTP_HTTP2_CLIENT_SESSION_H_

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "dataplane/http/http2/client_stream.h"
#include "dataplane/http/http2/session_core.h"
#include "dataplane/http/http2/session_metrics.h"
#include "dataplane/http/stream.h"
#include "dataplane/net/event_loop.h"
#include "dataplane/net/socket.h"
#include "dataplane/net/task.h"

namespace gateway::dataplane::http2 {

// What the sessions of one worker with endpoints share. Outlives them.
class ClientResources final : public CoreResources {
 public:
  // `metrics` outlives it.
  ClientResources(EventLoop* loop, BufferPool* buffers, ClientMetrics* metrics)
      : CoreResources(loop, buffers), metrics_(metrics) {}
  ~ClientResources() = default;
  ClientMetrics& metrics() const { return *metrics_; }

 private:
  friend class ClientSession;
  ClientMetrics* const metrics_;
  std::string path_;  // scratch for one :path
};

// Belongs to the owner of the connection, who destroys it only when it is `disposable`; on one worker.
//
// Streams may be opened before there is a connection: they wait for it in Connect. The connection's window opens as
// bytes come, so that a response which is not read does not hold up others; what a stream holds is bounded by its own
// window, and all together by the buffer budget.
//
// An endpoint that is silent while requests wait is asked for a sign of life (PING), at most every five minutes unless
// it says something in between: servers of gRPC close connections that ask more often.
class ClientSession final : public SessionCore {
 public:
  static constexpr size_t kStreamsMax = 256;  // at once; an endpoint may ask for fewer
  static constexpr uint32_t kStreamWindow = 256 * 1024;
  static constexpr int32_t kConnectionWindow = 4 << 20;
  static constexpr uint32_t kHeaderListMax = 64 * 1024;  // of a response
  // A longer one than that closes the connection; a shorter one is an invalid response.
  static constexpr size_t kHeaderListFactor = 4;
  static constexpr size_t kOutboundFramesMax = 1000 + kStreamsMax;
  static constexpr std::chrono::seconds kWriteTimeout{30};     // the longest stall of the connection
  static constexpr std::chrono::seconds kSettingsTimeout{10};  // to the endpoint's SETTINGS
  static constexpr std::chrono::seconds kHeaderTimeout{10};    // of a header section that has begun
  static constexpr std::chrono::seconds kSilence{5};           // before a PING
  static constexpr std::chrono::seconds kPingTimeout{5};
  static constexpr std::chrono::seconds kPingInterval{310};

  // Told when a stream has ended, and with it, maybe, the need for the session. Never destroys it in that call.
  using Watch = void (*)(void* owner);
  // The socket is connecting. All of them outlive the session. Throws std::bad_alloc.
  ClientSession(ClientResources* resources, Socket* socket, Watch watch, void* owner);
  ~ClientSession();

  // Once: the connection is there (and so is TLS). Serves its streams until it ends.
  Task<void> Serve();
  // Instead of Serve: it could not be established. `tls_failure` as UpstreamStream::tls_failure.
  void FailConnect(const char* tls_failure);

  bool connecting() const { return state_ == State::kConnecting; }
  bool serving() const { return state_ == State::kServing; }
  // Whether Open may be called: the connection is there or on its way, and takes another request now.
  bool HasRoom() const;
  std::unique_ptr<http::UpstreamStream> Open();
  size_t streams() const { return live_; }

  // Takes no new requests, and ends with its last stream.
  void Retire();
  // How long it stays without streams; of the newest service that asked.
  void set_idle_timeout(std::chrono::milliseconds timeout) { idle_timeout_ = timeout; }
  // It is not used, and its coroutines are not on the stack: it may be destroyed.
  bool disposable() const { return live_ == 0 && settled(); }

 private:
  friend class ClientStream;
  enum class State : uint8_t { kConnecting, kServing, kOver };

  // SessionCore's.
  int OnBeginHeaders(const nghttp2_frame& frame) override;
  int OnHeader(const nghttp2_frame& frame, std::string_view name, std::string_view value) override;
  int OnInvalidHeader(const nghttp2_frame& frame) override;
  int OnFrameReceived(const nghttp2_frame& frame) override;
  int OnFrameSent(const nghttp2_frame& frame) override;
  void OnStreamClosed(StreamCore* stream, uint32_t code) override;
  bool Wants(StreamCore* stream) override {
    return !static_cast<ClientStream*>(stream)->bodyless_ && *static_cast<ClientStream*>(stream)->detail_ == '\0';
  }
  void OnInvalidFrame() override { metrics_.Add(ClientCounter::kInvalidFramesTotal, 1); }
  void OnAbuse(Abuse kind) override { metrics_.CountAbuse(kind); }
  void Tell(StreamCore* stream) override;
  TimePoint NextDeadline() const override;
  bool CheckDeadlines() override;
  Task<void> EndStreams() override;

  ClientStream* StreamOf(int32_t id) const { return static_cast<ClientStream*>(SessionCore::StreamOf(id)); }
  int SubmitPreface();
  void EndAll();

  // For streams.
  bool MayBegin() const;
  // Whether the endpoint has announced extended CONNECT.
  bool TakesProtocols() const;
  // False: nghttp2 has no memory, and the stream is as it was.
  bool SubmitRequest(ClientStream* stream, const http::OutgoingRequest& request, bool ends);
  void GiveUpConnecting() { gave_up_ = true; }
  void Release(ClientStream* stream);

  ClientResources& resources_;
  ClientMetrics& metrics_;
  const Watch watch_;
  void* const owner_;
  State state_ = State::kConnecting;
  const char* tls_failure_ = nullptr;
  const char* end_detail_ = "";  // why it ended, for streams without a response
  bool speaks_http2_ = true;     // as far as can be told
  bool settings_received_ = false;
  bool carried_ = false;  // a request
  bool gave_up_ = false;  // this connection is not waited for any more
  bool retired_ = false;
  std::chrono::milliseconds idle_timeout_{60'000};
  TimePoint started_{};
  TimePoint idle_since_{};  // without a stream
  TimePoint busy_since_{};  // with one
  TimePoint next_ping_{};   // not before
  TimePoint PingAt() const { return std::max({heard_ + kSilence, busy_since_ + kSilence, next_ping_}); }
};

}  // namespace gateway::dataplane::http2

#endif  // GATEWAY_DATAPLANE_HTTP_HTTP2_CLIENT_SESSION_H_
