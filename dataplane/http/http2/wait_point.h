// A wait that somebody on the same loop ends, or its deadline.
#ifndef GATEWAY_DATAPLANE_HTTP_HTTP2_WAIT_POINT_H_
#define GATEWAY_DATAPLANE_HTTP_HTTP2_WAIT_POINT_H_

#include <coroutine>
#include <utility>

#include "dataplane/net/event_loop.h"
#include "dataplane/net/io.h"

namespace gateway::dataplane::http2 {

// One wait of one coroutine: ended by what it waits for, or by its deadline.
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
  // Nothing if no coroutine waits.
  void Resume(Wait result) {
    if (!waiter_) return;
    timer_.Disarm();
    result_ = result;
    std::exchange(waiter_, nullptr).resume();
  }
  Wait result() const { return result_; }
  // Moves the deadline of the current wait.
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

}  // namespace gateway::dataplane::http2

#endif  // GATEWAY_DATAPLANE_HTTP_HTTP2_WAIT_POINT_H_
