// One stream of a client's HTTP/2 connection: the request path sees a request and takes a response.
#ifndef GATEWAY_DATAPLANE_HTTP_HTTP2_SERVER_STREAM_H_
#define GATEWAY_DATAPLANE_HTTP_HTTP2_SERVER_STREAM_H_

#include <chrono>
#include <coroutine>
#include <cstdint>
#include <utility>

#include "dataplane/http/http2/header_block.h"
#include "dataplane/http/http2/stream_core.h"
#include "dataplane/http/stream.h"
#include "dataplane/net/buffer_pool.h"
#include "dataplane/net/event_loop.h"
#include "dataplane/net/io.h"

namespace gateway::dataplane::http2 {

class ServerSession;

// In the worker's slab from the first HEADERS frame until both the stream has closed and it is no longer served.
//
// How its bodies flow: stream_core.h.
class ServerStream final : public http::DownstreamStream, public StreamCore {
 public:
  ServerStream(ServerSession* session, int32_t id);
  ~ServerStream();
  ServerStream(const ServerStream&) = delete;
  ServerStream& operator=(const ServerStream&) = delete;

  // http::BodySource.
  http::BodyRead Read(http::BodyForms, http::BodyPiece* piece) override {
    return ReadBody(std::exchange(read_begun_, true) ? &given_ : &first_, piece);
  }
  void ExtendRead(TimePoint deadline) override { reader_.Extend(deadline); }
  void Interrupt() override { reader_.Resume(Wait::kCancelled); }
  void Pause() override;
  const char* detail() const override { return detail_; }

  // http::BodySink.
  http::BodyForms takes() const override { return {}; }
  Io Write(const http::BodyPiece& piece) override { return WriteBody(piece); }
  Task<Io> Flush(std::chrono::milliseconds stall, TimePoint until) override { return FlushBody(stall, until); }

  // http::DownstreamStream.
  void ReleaseRequest() override;
  Io SendInterim(const http::OutgoingResponse& response) override;
  Io Begin(const http::OutgoingResponse& response, const http::BodyPiece& first) override;
  void Finish(http::End end) override;
  bool gone() const override { return closed_ && !end_sent_; }
  void WatchGone(GoneWatch watch, void* owner) override {
    gone_watch_ = watch;
    gone_owner_ = owner;
  }
  void Cancel() override;
  bool cancelled() const override { return cancelled_; }

 private:
  friend class ServerSession;
  friend class SessionResources;

  bool IsReadable() const override { return IsBodyReadable(); }
  void SuspendRead(std::coroutine_handle<> caller, TimePoint deadline) override { reader_.Suspend(caller, deadline); }
  Wait ResumeRead(bool suspended) override { return EndOfRead(suspended); }

  ServerSession& session() const;
  void TellGone() {
    if (gone_watch_ != nullptr) std::exchange(gone_watch_, nullptr)(gone_owner_);
  }

  http::Request head_;
  HeaderBlock block_;
  Buffer first_;  // what the first Read gave, to the end of the request: it may be sent again
  bool read_begun_ = false;

  bool request_read_ = false;      // the request's header section has ended
  bool reset_by_nghttp2_ = false;  // it broke the protocol
  bool served_ = false;            // a coroutine of ServeStream has it
  bool response_begun_ = false;    // its final header was submitted
  bool cut_short_ = false;         // to be told as if the client were gone
  GoneWatch gone_watch_ = nullptr;
  void* gone_owner_ = nullptr;
};

}  // namespace gateway::dataplane::http2

#endif  // GATEWAY_DATAPLANE_HTTP_HTTP2_SERVER_STREAM_H_
