// One request on an HTTP/2 connection to an endpoint, and its response.
#ifndef GATEWAY_DATAPLANE_HTTP_HTTP2_CLIENT_STREAM_H_
#define GATEWAY_DATAPLANE_HTTP_HTTP2_CLIENT_STREAM_H_

#include <chrono>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "dataplane/http/http2/header_block.h"
#include "dataplane/http/http2/stream_core.h"
#include "dataplane/http/stream.h"
#include "dataplane/net/task.h"

namespace gateway::dataplane::http2 {

class ClientSession;

// A nonce of HTTP/1.1 alone (RFC 8441, section 5).
inline constexpr std::string_view kWebSocketKey = "sec-websocket-key";

// From ClientSession::Open; counts against the session's streams until its end. Its end before the response's resets
// the stream. How its bodies flow: stream_core.h.
class ClientStream final : public http::UpstreamStream, public StreamCore {
 public:
  static constexpr size_t kInterimBytesMax = 64 * 1024;  // of all interim responses, as header lists
  static constexpr size_t kInterimHeadsMax = 16;         // that wait to be read

  explicit ClientStream(ClientSession* session);
  ~ClientStream() override;

  // http::BodySource.
  http::BodyRead Read(http::BodyForms takes, http::BodyPiece* piece) override;
  void ExtendRead(TimePoint deadline) override { reader_.Extend(deadline); }
  void Interrupt() override { reader_.Resume(Wait::kCancelled); }
  void Pause() override;
  const char* detail() const override { return *detail_ != '\0' ? detail_ : end_detail_; }

  // http::BodySink.
  http::BodyForms takes() const override { return {}; }
  Io Write(const http::BodyPiece& piece) override { return WriteBody(piece); }
  Task<Io> Flush(std::chrono::milliseconds stall, TimePoint until) override { return FlushBody(stall, until); }

  // http::UpstreamStream.
  bool connected() const override;
  Task<Io> Connect(TimePoint deadline) override;
  void ExpectProtocol() override { needs_settings_ = true; }
  const char* tls_failure() const override;
  Io Begin(const http::OutgoingRequest& request, const http::BodyPiece& first) override;
  http::HeadRead ReadHead(http::Response** response) override;
  bool sent() const override { return sent_; }
  bool heard() const override { return heard_; }
  bool stale() const override;
  bool refused() const override { return refused_ || (!sent_ && closed_); }
  bool carries_trailers() const override { return true; }
  void Finish() override {}  // the connection carries other requests, whatever became of this one
  void Cancel() override { (void)CancelWaits(); }
  bool cancelled() const override { return cancelled_; }

  // Recycled as the frames of coroutines are.
  static void* operator new(size_t bytes) { return FramePool::Allocate(bytes); }
  static void operator delete(void* stream, size_t bytes) noexcept { FramePool::Free(stream, bytes); }

 private:
  friend class ClientSession;
  struct Interim {
    HeaderBlock block;
    http::Response response;
  };

  ClientSession& session() const;
  bool IsReadable() const override;
  void SuspendRead(std::coroutine_handle<> caller, TimePoint deadline) override { reader_.Suspend(caller, deadline); }
  Wait ResumeRead(bool suspended) override { return EndOfRead(suspended); }
  // A header section has come whole.
  void TakeHead(bool ended);
  void Reject(const char* detail);  // the endpoint's response is invalid

  HeaderBlock block_;  // of the header that comes, or has come
  http::Response head_;
  std::vector<std::unique_ptr<Interim>> interims_;  // not read yet; the first one may be
  bool interim_given_ = false;
  size_t interim_bytes_ = 0;
  const char* end_detail_ = "";  // of a response that breaks off

  const bool reused_;            // the connection had carried a request before
  bool to_head_ = false;         // the request is a HEAD
  bool sent_ = false;            // its header has left nghttp2
  bool heard_ = false;           // a header section has begun
  bool final_ = false;           // the final header has come
  bool head_given_ = false;      // and was read
  bool bodyless_ = false;        // whatever the stream says
  bool refused_ = false;         // the endpoint has not looked at it
  bool reset_received_ = false;  // by RST_STREAM
  bool connecting_ = false;      // its reader waits for the connection
  bool needs_settings_ = false;  // and for the endpoint's SETTINGS
  std::string accept_;           // of extended CONNECT: what a client of HTTP/1.1 expects; else empty
  bool session_over_ = false;    // the connection ended before it
};

}  // namespace gateway::dataplane::http2

#endif  // GATEWAY_DATAPLANE_HTTP_HTTP2_CLIENT_STREAM_H_
