// A request on a client's HTTP/1 connection, and its response.
#ifndef GATEWAY_DATAPLANE_HTTP_HTTP1_SERVER_STREAM_H_
#define GATEWAY_DATAPLANE_HTTP_HTTP1_SERVER_STREAM_H_

#include <optional>

#include "dataplane/http/connection.h"
#include "dataplane/http/http1/body_reader.h"
#include "dataplane/http/http1/head.h"
#include "dataplane/http/http1/piece_writer.h"
#include "dataplane/http/stream.h"
#include "dataplane/http/stream_resources.h"
#include "dataplane/net/socket.h"

namespace gateway::dataplane::http1 {

// Lives in the coroutine of its connection from the request's first byte to the end of the response, so that an idle
// connection has no memory for it.
class ServerStream final : public http::DownstreamStream {
 public:
  ServerStream(const http::StreamResources& resources, http::Connection* connection)
      : DownstreamStream(&head_, &connection->info),
        resources_(resources),
        connection_(*connection),
        body_(&connection->socket, resources.buffers, resources.pipes),
        writer_(&connection->socket) {}
  // What was used goes; what the client sent ahead stays for the next request.
  ~ServerStream();

  // Reads the request's header. False: there is none.
  Task<bool> ReadHead();

  http::BodyRead Read(http::BodyForms takes, http::BodyPiece* piece) override;
  void ExtendRead(TimePoint deadline) override { connection_.socket.ExtendRead(deadline); }
  void Interrupt() override { connection_.socket.Interrupt(); }
  void Pause() override { body_.Pause(); }
  const char* detail() const override { return body_.detail(); }

  http::BodyForms takes() const override { return writer_.takes(); }
  Io Write(const http::BodyPiece& piece) override { return Send({}, {}, piece); }
  Task<Io> Flush(std::chrono::milliseconds stall, TimePoint until) override;

  void ReleaseRequest() override;
  Io SendInterim(const http::OutgoingResponse& response) override;
  Io Begin(const http::OutgoingResponse& response, const http::BodyPiece& first) override;
  void Finish(http::End end) override;
  bool gone() const override { return connection_.socket.broken(); }
  void WatchGone(GoneWatch watch, void* owner) override { connection_.socket.WatchReset(watch, owner); }
  void Cancel() override { connection_.socket.Cancel(); }
  bool cancelled() const override { return connection_.socket.cancelled(); }

 private:
  bool IsReadable() const override { return connection_.socket.Readable({}).await_ready(); }
  void SuspendRead(std::coroutine_handle<> caller, TimePoint deadline) override {
    waiting_.emplace(connection_.socket.Readable(deadline));
    waiting_->await_suspend(caller);
  }
  Wait ResumeRead(bool suspended) override {
    if (!suspended) return connection_.socket.cancelled() ? Wait::kCancelled : Wait::kReady;
    return waiting_->await_resume();
  }

  void Reject(Reason reason, const char* detail = "") { rejection_ = {reason, detail}; }
  void EndAfterThis() { connection_.ending = connection_.lingers = true; }
  Io Send(Buffer head, std::string spare_head, const http::BodyPiece& piece);
  bool BeginTunnel();
  Io EndOfWrite(Io io);

  const http::StreamResources& resources_;
  http::Connection& connection_;
  RequestHead head_;
  size_t input_used_ = 0;  // of the connection's input: the header and what was decoded
  bool read_begun_ = false;
  BodyReader body_;
  PieceWriter writer_;
  bool close_delimited_ = false;  // only the connection's end says how long the response is
  bool stalled_ = false;          // the client did not take the response
  bool tunnel_ = false;
  bool last_written_ = false;
  std::optional<Socket::Awaiter> waiting_;
};

}  // namespace gateway::dataplane::http1

#endif  // GATEWAY_DATAPLANE_HTTP_HTTP1_SERVER_STREAM_H_
