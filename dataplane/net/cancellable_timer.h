// A wait that ends at its deadline, or before that when it is cancelled on the same loop.
#ifndef GATEWAY_DATAPLANE_NET_CANCELLABLE_TIMER_H_
#define GATEWAY_DATAPLANE_NET_CANCELLABLE_TIMER_H_

#include <coroutine>
#include <utility>

#include "dataplane/net/event_loop.h"

namespace gateway::dataplane {

// Belongs to one loop. One coroutine waits at a time.
class CancellableTimer {
 public:
  explicit CancellableTimer(EventLoop* loop) : timer_(loop, &CancellableTimer::OnTimer, this) {}
  CancellableTimer(const CancellableTimer&) = delete;
  CancellableTimer& operator=(const CancellableTimer&) = delete;

  // Ends the current wait, if there is one, and each later one at once. On the loop.
  void Cancel() {
    cancelled_ = true;
    timer_.Disarm();
    if (waiting_) std::exchange(waiting_, nullptr).resume();
  }

  // Awaited: whether it was cancelled before `deadline`.
  auto Until(TimePoint deadline) {
    struct Awaiter {
      CancellableTimer& timer;
      TimePoint deadline;
      bool await_ready() const noexcept { return timer.cancelled_; }
      void await_suspend(std::coroutine_handle<> caller) noexcept {
        timer.waiting_ = caller;
        timer.timer_.Arm(deadline);
      }
      bool await_resume() const noexcept { return timer.cancelled_; }
    };
    return Awaiter{*this, deadline};
  }

 private:
  static void OnTimer(void* self) {
    auto& timer = *static_cast<CancellableTimer*>(self);
    if (timer.waiting_) std::exchange(timer.waiting_, nullptr).resume();
  }

  Timer timer_;
  std::coroutine_handle<> waiting_;
  bool cancelled_ = false;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_NET_CANCELLABLE_TIMER_H_
