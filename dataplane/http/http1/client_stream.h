// A request on an HTTP/1 connection to an endpoint, and its response.
#ifndef GATEWAY_DATAPLANE_HTTP_HTTP1_CLIENT_STREAM_H_
#define GATEWAY_DATAPLANE_HTTP_HTTP1_CLIENT_STREAM_H_

#include <optional>

#include "dataplane/http/http1/body_reader.h"
#include "dataplane/http/http1/piece_writer.h"
#include "dataplane/http/http1/response_reader.h"
#include "dataplane/http/stream.h"
#include "dataplane/http/stream_resources.h"
#include "dataplane/net/socket.h"

namespace gateway::dataplane::http1 {

// The connection's owner derives from it and says in Finish what becomes of it.
class ClientStream : public http::UpstreamStream {
 public:
  // `input` is empty. `reused`: the connection has carried a request before; else it is connecting.
  ClientStream(const http::StreamResources& resources, Socket* socket, Buffer* input, bool reused)
      : resources_(resources),
        socket_(*socket),
        input_(*input),
        reused_(reused),
        body_(socket, resources.buffers, resources.pipes),
        writer_(socket) {}

  bool connected() const override { return reused_; }
  Task<Io> Connect(TimePoint deadline) override;
  Io Begin(const http::OutgoingRequest& request, const http::BodyPiece& first) override;
  http::HeadRead ReadHead(http::Response** response) override;

  http::BodyRead Read(http::BodyForms takes, http::BodyPiece* piece) override {
    return body_.Read(takes, piece, &bytes_received_);
  }
  void ExtendRead(TimePoint deadline) override { socket_.ExtendRead(deadline); }
  void Interrupt() override { socket_.Interrupt(); }
  void Pause() override { body_.Pause(); }
  const char* detail() const override { return detail_[0] != '\0' ? detail_ : body_.detail(); }

  http::BodyForms takes() const override { return writer_.takes(); }
  Io Write(const http::BodyPiece& piece) override { return Send({}, piece); }
  Task<Io> Flush(std::chrono::milliseconds stall, TimePoint until) override;

  bool sent() const override { return bytes_sent_ > 0; }
  bool heard() const override { return heard_; }
  bool stale() const override { return reused_ && !heard_; }
  bool refused() const override { return false; }
  void Cancel() override { socket_.Cancel(); }
  bool cancelled() const override { return socket_.cancelled(); }

 protected:
  // After a response that was read to its end: whether the connection may carry another request.
  bool MayReuse() const { return body_.done() && MayReuseConnection(head_, to_head_) && !unsolicited(); }
  // More came than the response: bytes that belong to no request.
  bool unsolicited() const { return body_.done() && body_.has_rest(); }

 private:
  bool IsReadable() const override { return socket_.Readable({}).await_ready(); }
  void SuspendRead(std::coroutine_handle<> caller, TimePoint deadline) override {
    waiting_.emplace(socket_.Readable(deadline));
    waiting_->await_suspend(caller);
  }
  Wait ResumeRead(bool suspended) override {
    if (!suspended) return socket_.cancelled() ? Wait::kCancelled : Wait::kReady;
    return waiting_->await_resume();
  }

  http::HeadRead BeginBody(http::Response** response);
  Io Send(Buffer head, const http::BodyPiece& piece);
  Io EndOfWrite(Io io);

  const http::StreamResources& resources_;
  Socket& socket_;
  Buffer& input_;
  const bool reused_;
  bool to_head_ = false;    // the request is a HEAD
  bool upgrading_ = false;  // it asks for WebSocket
  bool tunnel_ = false;
  bool last_written_ = false;
  bool heard_ = false;
  size_t interim_bytes_ = 0;  // of the input: an interim header, read and not consumed yet
  uint64_t bytes_sent_ = 0;
  uint64_t bytes_received_ = 0;
  const char* detail_ = "";
  ResponseReader reader_;
  ResponseHead head_;
  BodyReader body_;
  PieceWriter writer_;
  std::optional<Socket::Awaiter> waiting_;
};

}  // namespace gateway::dataplane::http1

#endif  // GATEWAY_DATAPLANE_HTTP_HTTP1_CLIENT_STREAM_H_
