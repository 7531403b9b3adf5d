// A wait that ends at a deadline, or earlier when it is cancelled on the same loop.
#ifndef GATEWAY_DATAPLANE_NET_ALARM_H_
#define GATEWAY_DATAPLANE_NET_ALARM_H_

#include <coroutine>
#include <utility>

#include "common/base/time.h"
#include "dataplane/net/event_loop.h"

namespace gateway::dataplane {

// Belongs to one loop. One coroutine waits at a time.
class Alarm {
 public:
  explicit Alarm(EventLoop* loop) : timer_(loop, &Alarm::OnTimer, this) {}
  Alarm(const Alarm&) = delete;
  Alarm& operator=(const Alarm&) = delete;

  // Ends the current wait, if any, and makes each later one end at once. On the loop.
  void Ring() {
    rung_ = true;
    timer_.Disarm();
    if (waiting_) std::exchange(waiting_, nullptr).resume();
  }

  // Whether it was rung before `deadline`.
  auto Until(TimePoint deadline) {
    struct Awaiter {
      Alarm& alarm;
      TimePoint deadline;
      bool await_ready() const noexcept { return alarm.rung_; }
      void await_suspend(std::coroutine_handle<> caller) noexcept {
        alarm.waiting_ = caller;
        alarm.timer_.Arm(deadline);
      }
      bool await_resume() const noexcept { return alarm.rung_; }
    };
    return Awaiter{*this, deadline};
  }

 private:
  static void OnTimer(void* self) {
    auto& alarm = *static_cast<Alarm*>(self);
    if (alarm.waiting_) std::exchange(alarm.waiting_, nullptr).resume();
  }

  Timer timer_;
  std::coroutine_handle<> waiting_;
  bool rung_ = false;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_NET_ALARM_H_
