// One stream of a client's HTTP/2 connection: the request path sees a request and takes a response.
#ifndef GATEWAY_DATAPLANE_HTTP_HTTP2_SERVER_STREAM_H_
#define GATEWAY_DATAPLANE_HTTP_HTTP2_SERVER_STREAM_H_

#include <sys/types.h>

#include <chrono>
#include <coroutine>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "dataplane/http/http2/header_block.h"
#include "dataplane/http/stream.h"
#include "dataplane/net/buffer_pool.h"
#include "dataplane/net/event_loop.h"
#include "dataplane/net/io.h"

namespace gateway::dataplane::http2 {

class ServerSession;

// One wait of one coroutine: ended by whoever it waits for, or by its deadline.
class WaitPoint {
 public:
  explicit WaitPoint(EventLoop* loop) : timer_(loop, &WaitPoint::OnTimer, this) {}
  WaitPoint(const WaitPoint&) = delete;
  WaitPoint& operator=(const WaitPoint&) = delete;

  bool waiting() const { return static_cast<bool>(waiter_); }
  void Suspend(std::coroutine_handle<> caller, TimePoint deadline) {
    waiter_ = caller;
    timer_.Arm(deadline);
  }
  // Nothing where nobody waits.
  void Resume(Wait result) {
    if (!waiter_) return;
    timer_.Disarm();
    result_ = result;
    std::exchange(waiter_, nullptr).resume();
  }
  Wait result() const { return result_; }
  // Moves the deadline of a wait that goes on.
  void Extend(TimePoint deadline) {
    if (waiter_) timer_.Arm(deadline);
  }

  struct Awaiter {
    WaitPoint& point;
    TimePoint deadline;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> caller) { point.Suspend(caller, deadline); }
    Wait await_resume() const noexcept { return point.result(); }
  };
  Awaiter Until(TimePoint deadline) { return {*this, deadline}; }

 private:
  static void OnTimer(void* self) { static_cast<WaitPoint*>(self)->Resume(Wait::kTimeout); }

  std::coroutine_handle<> waiter_;
  Wait result_ = Wait::kReady;
  Timer timer_;
};

// In the worker's slab from the first HEADERS frame until both the stream has closed and whoever serves it is done.
//
// What comes of the request's body waits in a buffer that is as long as the stream's window at most; the window opens
// again when the reader asks for more. The response's body is framed straight from where the writer has it into the
// connection's output, as far as windows and the output's bound allow.
class ServerStream final : public http::DownstreamStream {
 public:
  ServerStream(ServerSession* session, int32_t id);
  ~ServerStream();
  ServerStream(const ServerStream&) = delete;
  ServerStream& operator=(const ServerStream&) = delete;

  int32_t id() const { return id_; }

  // http::BodySource.
  http::BodyRead Read(http::BodyForms takes, http::BodyPiece* piece) override;
  void ExtendRead(TimePoint deadline) override { reader_.Extend(deadline); }
  void Interrupt() override { reader_.Resume(Wait::kCancelled); }
  void Pause() override;
  const char* detail() const override { return detail_; }

  // http::BodySink.
  http::BodyForms takes() const override { return {}; }
  Io Write(const http::BodyPiece& piece) override;
  Task<Io> Flush(std::chrono::milliseconds stall, TimePoint until) override;

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

  bool IsReadable() const override;
  void SuspendRead(std::coroutine_handle<> caller, TimePoint deadline) override { reader_.Suspend(caller, deadline); }
  Wait ResumeRead(bool suspended) override;

  // Of the session, in callbacks of nghttp2.
  bool Store(std::string_view data);  // false: the buffer budget is spent
  ssize_t ReadSource(size_t size, uint32_t* flags);
  // `size` bytes of what is being written have gone into the output.
  void Sent(size_t size);

  void Credit();  // the reader has done with what it got: the client may send as much again
  void DropInput();
  bool sending() const { return !source_.empty() || source_last_; }
  void AbandonSource();
  void TellGone() {
    if (gone_watch_ != nullptr) std::exchange(gone_watch_, nullptr)(gone_owner_);
  }

  ServerSession* const session_;
  const int32_t id_;
  http::Request head_;
  HeaderBlock block_;

  // The request's body.
  HeaderBlock trailers_;
  absl::InlinedVector<FieldView, 4> trailer_views_;
  Buffer input_;           // has come, and was not read
  Buffer first_;           // what the first Read gave, to the end of the request: it may be sent again
  Buffer given_;           // what a later one gave, until the next
  size_t uncredited_ = 0;  // bytes that were given and are still taken off the window
  bool read_begun_ = false;
  const char* detail_ = "";
  bool overloaded_ = false;

  // The response's body.
  std::string_view source_;  // what is being written: the writer's, until Flush has returned
  bool source_last_ = false;
  std::span<const FieldView> source_trailers_;
  std::chrono::milliseconds stall_{0};
  TimePoint until_ = TimePoint::max();

  bool served_ = false;  // somebody serves it now
  bool done_ = false;    // nobody does any more
  bool closed_ = false;  // as far as nghttp2 is concerned, or the connection is gone
  bool cancelled_ = false;
  bool remote_ended_ = false;    // the client has sent everything
  bool response_begun_ = false;  // its final head was submitted
  bool deferred_ = false;        // nghttp2 waits for more of the body
  bool end_submitted_ = false;   // nothing more of the response will follow
  bool end_sent_ = false;        // END_STREAM has left nghttp2
  bool reset_by_us_ = false;
  bool queued_ = false;     // in the session's list of those to be told
  bool pinned_ = false;     // being told
  bool cut_short_ = false;  // to be told as if the client were gone
  bool starved_ = false;    // the frame being sent is cut short by a tiny window

  WaitPoint reader_;
  WaitPoint writer_;
  GoneWatch gone_watch_ = nullptr;
  void* gone_owner_ = nullptr;

  ServerStream* previous_ = nullptr;  // the session's list
  ServerStream* next_ = nullptr;
  ServerStream* next_queued_ = nullptr;
  ServerStream* previous_queued_ = nullptr;
};

}  // namespace gateway::dataplane::http2

#endif  // GATEWAY_DATAPLANE_HTTP_HTTP2_SERVER_STREAM_H_
