// One worker's loop: readiness by epoll, coarse deadlines by a timer wheel, one clock read a turn.
//
// Every descriptor is added once, edge-triggered for both directions, and never touched again: waiting costs no system
// call, and an idle connection needs no buffer to read into. (Asio's async_wait costs an epoll_ctl each, its reads a
// buffer each: see ARCHITECTURE.md.)
#ifndef GATEWAY_DATAPLANE_NET_EVENT_LOOP_H_
#define GATEWAY_DATAPLANE_NET_EVENT_LOOP_H_

#include <array>
#include <atomic>
#include <chrono>
#include <coroutine>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/base/time.h"

struct epoll_event;

namespace gateway::dataplane {

class EventLoop;

// A deadline that is moved often and seldom met: moving it later only writes a number. Embedded in its owner; belongs
// to one loop.
class Timer {
 public:
  using Callback = void (*)(void* owner);
  Timer(EventLoop* loop, Callback fire, void* owner) : loop_(loop), fire_(fire), owner_(owner) {}
  ~Timer() { Unlink(); }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  // Fires once, on the loop, not before `deadline` and at most two ticks (8 ms) after it.
  void Arm(TimePoint deadline);
  void Disarm() { tick_ = kNever; }  // stays in its slot until the wheel comes by

 private:
  friend class EventLoop;
  static constexpr uint64_t kNever = ~uint64_t{0};
  void Unlink();
  EventLoop* loop_;
  Callback fire_;
  void* owner_;
  Timer* previous_ = nullptr;
  Timer* next_ = nullptr;
  uint64_t tick_ = kNever;    // when to fire
  uint64_t linked_tick_ = 0;  // whose slot it is in
};

// What a descriptor's events are told to. Lives in the loop, so that an event of this turn never reaches an owner that
// is gone.
struct IoSlot {
  void (*on_events)(void* owner, uint32_t events) = nullptr;
  void* owner = nullptr;  // null: released
};

class EventLoop {
 public:
  static constexpr std::chrono::milliseconds kTick{4};

  EventLoop();
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Serves until Stop. The calling thread becomes the loop's.
  void Run();
  void Stop();  // any thread
  // For tests with a clock of their own: one turn at `now` (not before the last turn's), without sleeping: the events
  // that are there, then the deadlines that have passed, then deferred work.
  void TurnAt(TimePoint now);

  // Runs `work` on the loop, in order. Any thread.
  void Post(std::function<void()> work);
  // Runs `work` on the loop at the end of this turn, before it sleeps. Only on the loop.
  void Defer(std::function<void()> work) { deferred_.push_back(std::move(work)); }

  // Of this turn. `now` before Run is the construction's.
  TimePoint now() const { return now_; }
  std::chrono::system_clock::time_point wall_now() const { return wall_now_; }
  // For a loop that does not run: tests pass time as they like.
  void SetNow(TimePoint now) { now_ = now; }
  // When the newest turn began. Any thread.
  TimePoint last_turn() const { return TimePoint(TimePoint::duration(turned_.load(std::memory_order_relaxed))); }

  // Edge-triggered, both directions, until the descriptor is closed. Null: out of memory or descriptors (errno).
  IoSlot* Add(int fd, void (*on_events)(void*, uint32_t), void* owner);
  // The owner hears nothing any more; it closes the descriptor itself.
  void Release(IoSlot* slot);
  // A listening socket: connections to accept are its only events. `shared`: other loops, or other processes, have the
  // same socket; one of those that wait is woken for each connection, not all.
  IoSlot* AddListener(int fd, bool shared, void (*on_events)(void*, uint32_t), void* owner);
  // Puts this loop behind the others that wait for the same socket: the kernel wakes the first of them. False: it is
  // lost to this loop (errno).
  bool RequeueListener(int fd, IoSlot* slot);
  // Closing would not do: the socket lives on where another process has it, and with it what epoll knows.
  void RemoveListener(int fd, IoSlot* slot);

 private:
  friend class Timer;
  static constexpr uint64_t kSlots = 2048;  // a turn of the wheel: 8.2 s; later deadlines go round
  static constexpr int kEventsMax = 256;
  static constexpr int kFullTurnsMax = 4;  // turns full of events before deadlines have theirs

  uint64_t TickOf(TimePoint t) const;
  void Link(Timer* timer, uint64_t tick);
  void AdvanceTimers();
  int SleepMillis() const;
  void ReadClock();
  void Turn(const epoll_event* events, int count);
  void RunPosted();
  IoSlot* AddWith(uint32_t events, int fd, void (*on_events)(void*, uint32_t), void* owner);

  int epoll_ = -1;
  int wake_ = -1;  // eventfd
  TimePoint start_;
  TimePoint now_;
  std::chrono::system_clock::time_point wall_now_;
  int full_turns_ = 0;
  uint64_t current_tick_ = 0;  // the wheel's: everything up to here has fired
  std::array<Timer*, kSlots> wheel_{};
  std::array<uint64_t, kSlots / 64> occupied_{};

  std::vector<std::unique_ptr<IoSlot>> slots_;
  std::vector<IoSlot*> free_slots_;
  std::vector<IoSlot*> released_;  // in this turn; free at its end
  std::vector<std::function<void()>> deferred_;
  std::vector<std::function<void()>> due_;  // of this turn; keeps its memory from turn to turn

  absl::Mutex mutex_;
  std::vector<std::function<void()>> posted_ ABSL_GUARDED_BY(mutex_);
  std::atomic<bool> stopped_{false};
  std::atomic<TimePoint::rep> turned_{0};
};

// Awaited by a coroutine that would otherwise never wait: it goes on at the end of this turn.
struct Yield {
  explicit Yield(EventLoop* on) : loop(on) {}
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> caller) {
    loop->Defer([caller] { caller.resume(); });
  }
  void await_resume() const noexcept {}
  EventLoop* loop;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_NET_EVENT_LOOP_H_
