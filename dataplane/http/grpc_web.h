// gRPC-Web (grpc/doc/PROTOCOL-WEB.md): calls of browsers, which see no trailers and may send no binary bodies. A body's
// messages are gRPC's; trailers stand behind them, as one more message, and all of it may be base64.
#ifndef GATEWAY_DATAPLANE_HTTP_GRPC_WEB_H_
#define GATEWAY_DATAPLANE_HTTP_GRPC_WEB_H_

#include <chrono>
#include <coroutine>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "dataplane/http/stream.h"
#include "dataplane/net/io.h"
#include "dataplane/net/task.h"

namespace gateway::dataplane::http {

struct GrpcWebType {
  bool text = false;        // base64
  std::string_view suffix;  // "+proto"; a view into the Content-Type
};
// Of "application/grpc-web+proto", "application/grpc-web-text" and the like. Nothing: it is not one.
std::optional<GrpcWebType> ParseGrpcWebType(std::string_view content_type);

// Base64 that comes bit by bit, padded anywhere at a whole group: senders flush.
class Base64Reader {
 public:
  // Appends to `*out`. False: it is not base64.
  bool Read(std::string_view text, std::string* out);
  // At the end: whether nothing is left that means no byte. Appends the last ones, where their padding lacks.
  bool Finish(std::string* out);

 private:
  uint32_t bits_ = 0;
  int count_ = 0;    // digits of a group that is not whole
  int padding_ = 0;  // of it
};

// A request's body as gRPC has it. Belongs to the exchange that relays it; views it gives hold until the next Read.
class GrpcWebSource final : public BodySource {
 public:
  // `source` gives base64, and outlives this. `reader`: has read what came before.
  GrpcWebSource(BodySource* source, const Base64Reader& reader) : source_(*source), reader_(reader) {}

  BodyRead Read(BodyForms takes, BodyPiece* piece) override;
  void ExtendRead(TimePoint deadline) override { source_.ExtendRead(deadline); }
  void Interrupt() override { source_.Interrupt(); }
  void Pause() override { source_.Pause(); }
  const char* detail() const override { return *detail_ != '\0' ? detail_ : source_.detail(); }

 private:
  bool IsReadable() const override { return source_.Readable({}).await_ready(); }
  void SuspendRead(std::coroutine_handle<> caller, TimePoint deadline) override {
    waiting_.emplace(source_.Readable(deadline));
    waiting_->await_suspend(caller);
  }
  Wait ResumeRead(bool suspended) override {
    return suspended ? waiting_->await_resume() : source_.Readable({}).await_resume();
  }

  BodySource& source_;
  Base64Reader reader_;
  std::string decoded_;
  std::optional<Readiness> waiting_;
  const char* detail_ = "";
};

// A response's body as gRPC-Web has it.
class GrpcWebSink final : public BodySink {
 public:
  // `sink` outlives this.
  GrpcWebSink(BodySink* sink, bool text) : sink_(*sink), text_(text) {}

  BodyForms takes() const override { return {}; }
  Io Write(const BodyPiece& piece) override { return sink_.Write(Encode(piece)); }
  Task<Io> Flush(std::chrono::milliseconds stall, TimePoint until) override { return sink_.Flush(stall, until); }

  // What Write hands on. Views hold until the next call.
  BodyPiece Encode(const BodyPiece& piece);

 private:
  BodySink& sink_;
  const bool text_;
  std::string encoded_;
};

}  // namespace gateway::dataplane::http

#endif  // GATEWAY_DATAPLANE_HTTP_GRPC_WEB_H_
