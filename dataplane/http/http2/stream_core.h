// What a stream is made of on either side of the gateway: a body that comes, a body that goes, and who waits for them.
#ifndef GATEWAY_DATAPLANE_HTTP_HTTP2_STREAM_CORE_H_
#define GATEWAY_DATAPLANE_HTTP_HTTP2_STREAM_CORE_H_

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "absl/container/inlined_vector.h"
#include "dataplane/http/http2/header_block.h"
#include "dataplane/http/http2/wait_point.h"
#include "dataplane/http/stream.h"
#include "dataplane/net/buffer_pool.h"
#include "dataplane/net/event_loop.h"
#include "dataplane/net/io.h"
#include "dataplane/net/task.h"

namespace gateway::dataplane::http2 {

class SessionCore;

// What comes waits in a buffer that is as long as the stream's window at most; the window opens again when the reader
// asks for more. What goes is framed straight from where the writer has it into the connection's output, as far as
// windows and the output's bound allow.
//
// Belongs to one session and its loop. The session links it, tells it what nghttp2 says, and resumes who waits.
class StreamCore {
 public:
  int32_t id() const { return id_; }

 protected:
  StreamCore(SessionCore* session, int32_t id);
  ~StreamCore();
  StreamCore(const StreamCore&) = delete;
  StreamCore& operator=(const StreamCore&) = delete;

  // As http::BodySource::Read; `*holder` keeps what the piece points to.
  http::BodyRead ReadBody(Buffer* holder, http::BodyPiece* piece);
  bool IsBodyReadable() const {
    return !input_.empty() || remote_ended_ || closed_ || cancelled_ || overloaded_ || *detail_ != '\0';
  }
  Wait EndOfRead(bool suspended) const {
    if (cancelled_) return Wait::kCancelled;
    return suspended ? reader_.result() : Wait::kReady;
  }
  // As http::BodySink.
  Io WriteBody(const http::BodyPiece& piece);
  Task<Io> FlushBody(std::chrono::milliseconds stall, TimePoint until);
  // Ends all waits, of now and of later. False: that was the end of the stream.
  bool CancelWaits();

  // Whether a stream is still there after something that may have been its end.
  class Watch {
   public:
    explicit Watch(StreamCore* stream) : stream_(stream), outer_(stream->watch_) { stream->watch_ = this; }
    ~Watch() {
      if (stream_ != nullptr) stream_->watch_ = outer_;
    }
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;
    bool gone() const { return stream_ == nullptr; }

   private:
    friend class StreamCore;
    StreamCore* stream_;
    Watch* const outer_;
  };

  void Credit();  // the reader has done with what it got: the sender may send as much again
  void DropInput();
  bool sending() const { return !source_.empty() || source_last_; }
  void AbandonSource();

  SessionCore* session_;
  int32_t id_;  // 0: nghttp2 does not know it yet

  // The body that comes.
  HeaderBlock trailers_;
  absl::InlinedVector<FieldView, 4> trailer_views_;
  Buffer input_;           // has come, and was not read
  Buffer given_;           // what was read, until the next read
  size_t uncredited_ = 0;  // bytes that were given and are still taken off the window
  const char* detail_ = "";
  bool overloaded_ = false;
  bool drops_trailers_ = false;  // those that may not stand behind a body, instead of rejecting them

  bool closed_ = false;  // as far as nghttp2 is concerned, or the connection is gone
  bool cancelled_ = false;
  bool done_ = false;           // what still comes is dropped
  bool remote_ended_ = false;   // the other side has sent everything
  bool takes_no_more_ = false;  // it has responded: nothing waits any more for it to read
  bool end_submitted_ = false;  // nothing more will follow from here
  bool end_sent_ = false;       // END_STREAM has left nghttp2
  bool reset_by_us_ = false;

  WaitPoint reader_;
  WaitPoint writer_;

 private:
  friend class SessionCore;

  // Of the session, in callbacks of nghttp2.
  bool Store(std::string_view data);  // false: the buffer budget is spent
  ssize_t ReadSource(size_t size, uint32_t* flags);
  // `size` bytes of what is being written have gone into the output.
  void Sent(size_t size);

  // The body that goes.
  std::string_view source_;  // what is being written: the writer's, until Flush has returned
  bool source_last_ = false;
  std::span<const FieldView> source_trailers_;
  std::chrono::milliseconds stall_{0};
  TimePoint until_ = TimePoint::max();
  bool deferred_ = false;  // nghttp2 waits for more of the body
  bool starved_ = false;   // the frame being sent is cut short by a tiny window

  // The session's list, and its list of those to be told.
  StreamCore* previous_ = nullptr;
  StreamCore* next_ = nullptr;
  bool linked_ = false;
  bool queued_ = false;
  StreamCore* previous_queued_ = nullptr;
  StreamCore* next_queued_ = nullptr;

  Watch* watch_ = nullptr;
};

}  // namespace gateway::dataplane::http2

#endif  // GATEWAY_DATAPLANE_HTTP_HTTP2_STREAM_CORE_H_
