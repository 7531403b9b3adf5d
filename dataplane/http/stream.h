// The seams of the request path: what an exchange knows of its client's side and of its endpoint's. HTTP/1 and HTTP/2
// implement them; the exchange, its relays and their tests know nothing else of a protocol.
//
// Thread: everything here belongs to one worker and is called on its loop. Nothing here throws but std::bad_alloc.
//
// Lifetime: a stream outlives the exchange that uses it, and its connection outlives the stream. Views that a stream
// gives away hold as long as is said with each. Views that it is given hold during the call, or, if it could not
// take everything (Io::kAgain), until Flush has returned.
//
// Both directions of a stream are independent: one coroutine may read while another one writes, for hours. Of each
// direction one coroutine waits at a time.
//
// Errors: a stream tells what happened (enums below), never what it means for the request. Deadlines are the caller's;
// no stream reads a clock but that of its loop, through the deadlines it is given.
#ifndef GATEWAY_DATAPLANE_HTTP_STREAM_H_
#define GATEWAY_DATAPLANE_HTTP_STREAM_H_

#include <chrono>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "dataplane/http/connection_info.h"
#include "dataplane/http/message.h"
#include "dataplane/net/event_loop.h"
#include "dataplane/net/io.h"
#include "dataplane/net/splice_pipe.h"
#include "dataplane/net/task.h"

namespace gateway::dataplane::http {

// In which forms a body may pass from a source to a sink, besides payload as views, which each of them has.
struct BodyForms {
  bool framed = false;  // with the framing of HTTP/1 chunks, as the source found it
  bool pipe = false;    // in a pipe, uncopied

  // What both sides of a relay have.
  friend BodyForms operator&(BodyForms a, BodyForms b) { return {a.framed && b.framed, a.pipe && b.pipe}; }
};

// A part of a body, on its way from a source to a sink.
struct BodyPiece {
  // The bytes that are passed on, one view behind the other. Payload is in `bytes` alone; where the piece is framed,
  // chunk framing may be in all three, and together they are valid chunks, or the continuation of one, and with `last`
  // the last chunk too.
  std::string_view before{};
  std::string_view bytes{};
  std::string_view after{};
  SplicePipe* pipe = nullptr;  // the payload is in it instead
  size_t payload = 0;          // bytes of the body in this piece, without framing
  bool framed = false;
  bool last = false;  // the body ends with it; it may be empty
  // With `last`: fields behind the body. Never the hop-by-hop ones, nor such that frame, route or authenticate a
  // message (RFC 9110, section 6.5.1). HTTP/1 drops them.
  std::span<const FieldView> trailers{};

  size_t size() const { return before.size() + bytes.size() + after.size(); }
};

enum class BodyRead : uint8_t {
  kPiece,       // the piece is set; it may be empty only with `last`
  kWait,        // nothing now: await Readable. The source holds no buffer meanwhile
  kCutShort,    // the sender closed, or reset, before the end of the body
  kInvalid,     // its framing is wrong: detail() says why
  kOverloaded,  // the buffer budget is spent
};

class BodySource;

// Awaited until a source can be read. `co_await source.Readable(deadline)` gives a Wait.
class Readiness {
 public:
  inline bool await_ready() const;
  inline void await_suspend(std::coroutine_handle<> caller);
  inline Wait await_resume();

 private:
  friend class BodySource;
  Readiness(BodySource* source, TimePoint deadline) : source_(source), deadline_(deadline) {}
  BodySource* source_;
  TimePoint deadline_;
  bool suspended_ = false;
};

// Where a body comes from.
class BodySource {
 public:
  // Reads what is there, in one of the forms `takes` or as plain payload, without waiting and without a coroutine
  // frame. As much as the flow has earned: a source grows its buffer while bytes flow (Flow), and gives it back when it
  // has to wait. Views, and what is in a pipe, hold until the next call that gives a piece, or Pause. Not called again
  // after `last` or an error.
  virtual BodyRead Read(BodyForms takes, BodyPiece* piece) = 0;

  // Until Read has something, or can report an end. Waits while a piece is still being written are allowed.
  Readiness Readable(TimePoint deadline) { return Readiness(this, deadline); }

  // Moves the deadline of a wait that goes on; nothing if no coroutine waits.
  virtual void ExtendRead(TimePoint deadline) = 0;
  // Ends the wait of now (Wait::kCancelled or kReady), not later ones.
  virtual void Interrupt() = 0;

  // Everything of the last piece has gone on, and others have their turn: a source with an empty buffer gives it to
  // them.
  virtual void Pause() {}

  // After kInvalid: a constant.
  virtual const char* detail() const { return ""; }

 protected:
  ~BodySource() = default;

 private:
  // Of Readiness. `ResumeRead` is told whether it was suspended.
  friend class Readiness;
  virtual bool IsReadable() const = 0;
  virtual void SuspendRead(std::coroutine_handle<> caller, TimePoint deadline) = 0;
  virtual Wait ResumeRead(bool suspended) = 0;
};

inline bool Readiness::await_ready() const { return source_->IsReadable(); }
inline void Readiness::await_suspend(std::coroutine_handle<> caller) {
  suspended_ = true;
  source_->SuspendRead(caller, deadline_);
}
inline Wait Readiness::await_resume() { return source_->ResumeRead(suspended_); }

// Where a body goes.
class BodySink {
 public:
  // What it can take besides payload. Asked once the message's header was given to it.
  virtual BodyForms takes() const = 0;

  // Takes the piece, adding what framing it lacks. kDone: all of it; kAgain: not all: await Flush, and keep what the
  // views point to; kError: the receiver is gone, or takes no more. A piece that is `last` ends the message.
  virtual Io Write(const BodyPiece& piece) = 0;

  // Until what the last call left is out. Each stall lasts at most `stall`, the whole not beyond `until`; then kAgain.
  // kError as above, also after Cancel.
  virtual Task<Io> Flush(std::chrono::milliseconds stall, TimePoint until) = 0;

 protected:
  ~BodySink() = default;
};

// How an exchange ends its response.
enum class End : uint8_t {
  kComplete,    // all of it was given to the stream, also by Begin
  kCutShort,    // the response breaks off, and the client must be able to see that
  kReset,       // the same, and whatever is on its way may be lost: RST, RST_STREAM
  kUnanswered,  // there is no response: the client is gone
};

// One request of a client and its response. The worker makes an exchange of it when the request's header is here, or
// was rejected: ServeRequest(resources, stream).
//
// As a source it gives the request's body, as a sink it takes the response's. The first Read gives what came with the
// header, decoded, without a system call; its views hold until the end of the stream, or ReleaseRequest. After Begin of
// a 101 both are the tunnel: plain bytes, whose `last` is a half-close.
class DownstreamStream : public BodySource, public BodySink {
 public:
  // Holds until ReleaseRequest, or the end of the stream. The exchange may take fields out of it.
  Request& request() { return *request_; }
  // Why the request could not be read. It is then unspecified, except method and target if they could be read; no
  // body is read, and a response is still sent.
  const Rejection& rejection() const { return rejection_; }
  const ConnectionInfo& connection() const { return *connection_; }
  // When the request's first byte came.
  TimePoint started() const { return started_; }
  std::chrono::system_clock::time_point started_wall() const { return started_wall_; }
  // On the wire, of this request and this response so far, with headers and framing.
  uint64_t bytes_received() const { return bytes_received_; }
  uint64_t bytes_sent() const { return bytes_sent_; }

  // Frees the memory of the request's header for the rest of a long stream (a tunnel). Its views end.
  virtual void ReleaseRequest() = 0;

  // An interim response: 100 or 103. Nothing is sent to HTTP/1.0. As Write.
  virtual Io SendInterim(const OutgoingResponse& response) = 0;

  // The response's header and the first piece of its body, in one system call if the transport allows that. `first`
  // may be empty. If the body ends with it (`last`), so does the response: a stream that closes its connection after
  // it sends both together. kAgain and kError as Write; kEnd: no memory for the header, and nothing was sent. Whether
  // HTTP/1 keeps its connection is decided here: not where the request's body has not been read to its end, nor while
  // the worker drains.
  virtual Io Begin(const OutgoingResponse& response, const BodyPiece& first) = 0;

  // Once, at the end, also without Begin; nothing is called after it. What is left of the request's body is no longer
  // of use: HTTP/1 closes its connection behind it, HTTP/2 resets the stream (NO_ERROR after a complete response).
  virtual void Finish(End end) = 0;

  // The client has reset the connection or the stream, or the connection has ended both ways.
  virtual bool gone() const = 0;
  // When that happens, or when the worker no longer waits for services (Worker::CutShort), `watch` is called, once and
  // at once: the response is not awaited any more. It may resume coroutines, and it may be the end of the exchange.
  // Null: no watch. If it has happened before, the watch is not called: ask gone() first.
  using GoneWatch = void (*)(void* owner);
  virtual void WatchGone(GoneWatch watch, void* owner) = 0;

  // Ends every wait of now and of later, both ways (Wait::kCancelled, Io::kError). Of a tunnel whose other side has
  // ended.
  virtual void Cancel() = 0;
  virtual bool cancelled() const = 0;

 protected:
  DownstreamStream(Request* request, const ConnectionInfo* connection) : request_(request), connection_(connection) {}
  ~DownstreamStream() = default;

  Request* const request_;
  const ConnectionInfo* const connection_;
  Rejection rejection_;
  TimePoint started_{};
  std::chrono::system_clock::time_point started_wall_{};
  uint64_t bytes_received_ = 0;
  uint64_t bytes_sent_ = 0;
};

enum class HeadRead : uint8_t {
  kFinal,       // the response's header; its body follows if has_body
  kInterim,     // a 1xx: there is another header behind it. Not 101
  kWait,        // not whole yet: await Readable
  kCutShort,    // the endpoint closed or reset before it was whole
  kInvalid,     // no valid response: detail() says why
  kOverloaded,  // the buffer budget is spent
};

// One request to an endpoint and its response: an HTTP/1 connection while it carries them, or a stream of an HTTP/2
// one. From UpstreamPool::Acquire.
//
// As a sink it takes the request's body, as a source it gives the response's header, then its body. After a 101 both
// are the tunnel, as downstream.
class UpstreamStream : public BodySource, public BodySink {
 public:
  // Without Finish: the connection ends, or HTTP/2 resets the stream (CANCEL).
  virtual ~UpstreamStream() = default;

  // Whether it can take a request now; else await Connect first. kDone: it can; kAgain: not within the deadline;
  // kError: the endpoint refused, or Cancel was called.
  virtual bool connected() const = 0;
  virtual Task<Io> Connect(TimePoint deadline) = 0;
  // Before either: the request asks for another protocol, so the endpoint's SETTINGS are waited for.
  virtual void ExpectProtocol() {}
  // After a Connect that failed: why the TLS handshake did (a constant); null: it was not that.
  virtual const char* tls_failure() const { return nullptr; }

  // The request's header and the first piece of its body, in one system call if the transport allows that. As
  // DownstreamStream::Begin.
  virtual Io Begin(const OutgoingRequest& request, const BodyPiece& first) = 0;

  // The next header. `*response` holds until the end of the stream, its views until the second Read; of an interim one
  // until the next ReadHead. The caller may take fields out of it. The first Read gives what came with the header,
  // without a system call. Headers, and all interim ones together, are bounded in bytes.
  virtual HeadRead ReadHead(Response** response) = 0;

  // Whether a byte of the request may have reached the endpoint.
  virtual bool sent() const = 0;
  // Whether a byte of a response has come.
  virtual bool heard() const = 0;
  // After a failure: the connection was a kept one and had ended before this request, or the endpoint says that it has
  // not looked at it (GOAWAY, REFUSED_STREAM). Another connection may have it, by the method's rules, or, where
  // `refused`, in any case.
  virtual bool stale() const = 0;
  virtual bool refused() const = 0;

  // Whether trailers pass in both directions. May be known only once it is connected; until then it is hoped for.
  virtual bool carries_trailers() const { return false; }

  // The response was read to its end, and the request written to its end: the one place that decides whether the
  // connection carries another one. The stream is not used after it.
  virtual void Finish() = 0;

  // Ends every wait of now and of later.
  virtual void Cancel() = 0;
  virtual bool cancelled() const = 0;
};

}  // namespace gateway::dataplane::http

#endif  // GATEWAY_DATAPLANE_HTTP_STREAM_H_
