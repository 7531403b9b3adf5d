// What a coroutine of a worker waits for while another thread works it out.
#ifndef GATEWAY_DATAPLANE_NET_ARRIVAL_H_
#define GATEWAY_DATAPLANE_NET_ARRIVAL_H_

#include <coroutine>
#include <memory>
#include <optional>
#include <utility>

#include "dataplane/net/event_loop.h"

namespace gateway::dataplane {

// Shared by the one who waits, on its loop, and the one who delivers, on any thread. The loop has to outlive the one
// who may still deliver; the coroutine need not: what arrives for one that is gone is dropped.
template <typename T>
class Arrival : public std::enable_shared_from_this<Arrival<T>> {
 public:
  explicit Arrival(EventLoop* loop) : loop_(loop) {}

  // Any thread. Of several, the first that arrives counts.
  void Deliver(T value) {
    loop_->Post([self = this->shared_from_this(), value = std::move(value)] {
      if (!self->value_) self->value_ = value;
      if (self->waiter_) std::exchange(self->waiter_, nullptr).resume();
    });
  }

  // `Wait wait(arrival); co_await wait;`. It is a variable since GCC 12 destroys temporaries of such an expression
  // twice.
  class Wait {
   public:
    explicit Wait(std::shared_ptr<Arrival> arrival) : arrival_(std::move(arrival)) {}
    Wait(const Wait&) = delete;
    Wait& operator=(const Wait&) = delete;
    ~Wait() { arrival_->waiter_ = nullptr; }
    bool await_ready() const noexcept { return arrival_->value_.has_value(); }
    void await_suspend(std::coroutine_handle<> caller) noexcept { arrival_->waiter_ = caller; }
    T await_resume() { return std::move(*arrival_->value_); }

   private:
    std::shared_ptr<Arrival> arrival_;
  };

 private:
  EventLoop* const loop_;
  // Of the loop's thread.
  std::optional<T> value_;
  std::coroutine_handle<> waiter_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_NET_ARRIVAL_H_
