#include "dataplane/net/event_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <stdexcept>
#include <utility>

namespace gateway::dataplane {

void Timer::Arm(TimePoint deadline) {
  const uint64_t tick = std::max(loop_->TickOf(deadline) + 1, loop_->current_tick_ + 1);
  tick_ = tick;
  // In an earlier slot already: the wheel moves it on when it comes by.
  if (previous_ != nullptr && linked_tick_ <= tick) return;
  Unlink();
  loop_->Link(this, tick);
}

void Timer::Unlink() {
  if (previous_ == nullptr) return;
  // A slot's list is circular only in `previous_`: the first node's points at itself.
  const uint64_t slot = linked_tick_ % EventLoop::kSlots;
  if (loop_->wheel_[slot] == this) {
    loop_->wheel_[slot] = next_;
    if (next_ != nullptr) {
      next_->previous_ = next_;
    } else {
      loop_->occupied_[slot / 64] &= ~(uint64_t{1} << (slot % 64));
    }
  } else {
    previous_->next_ = next_;
    if (next_ != nullptr) next_->previous_ = previous_;
  }
  previous_ = next_ = nullptr;
}

EventLoop::EventLoop() : start_(std::chrono::steady_clock::now()) {
  ReadClock();
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  event.data.ptr = nullptr;
  if (epoll_ < 0 || wake_ < 0 || epoll_ctl(epoll_, EPOLL_CTL_ADD, wake_, &event) != 0) {
    throw std::runtime_error("cannot make an event loop: out of descriptors or memory");
  }
}

EventLoop::~EventLoop() {
  close(wake_);
  close(epoll_);
}

void EventLoop::ReadClock() {
  now_ = std::chrono::steady_clock::now();
  wall_now_ = std::chrono::system_clock::now();
  turned_.store(now_.time_since_epoch().count(), std::memory_order_relaxed);
}

uint64_t EventLoop::TickOf(TimePoint t) const {
  if (t <= start_) return 0;
  return static_cast<uint64_t>((t - start_) / kTick);
}

void EventLoop::Link(Timer* timer, uint64_t tick) {
  tick = std::min(tick, current_tick_ + kSlots - 1);
  const uint64_t slot = tick % kSlots;
  timer->linked_tick_ = tick;
  timer->next_ = wheel_[slot];
  timer->previous_ = timer;
  if (timer->next_ != nullptr) timer->next_->previous_ = timer;
  wheel_[slot] = timer;
  occupied_[slot / 64] |= uint64_t{1} << (slot % 64);
}

void EventLoop::AdvanceTimers() {
  const uint64_t tick_now = TickOf(now_);
  // After a long sleep one whole turn visits every slot.
  if (tick_now > current_tick_ + kSlots) current_tick_ = tick_now - kSlots;
  while (current_tick_ < tick_now) {
    const uint64_t slot = ++current_tick_ % kSlots;
    // One by one: what fires may destroy any other timer of the slot.
    while (Timer* timer = wheel_[slot]) {
      const uint64_t tick = timer->tick_;
      timer->Unlink();
      if (tick == Timer::kNever) continue;
      if (tick > tick_now) {
        Link(timer, tick);
      } else {
        timer->tick_ = Timer::kNever;
        timer->fire_(timer->owner_);
      }
    }
  }
}

int EventLoop::SleepMillis() const {
  // The first occupied slot after the current tick, going round once.
  constexpr uint64_t kWords = kSlots / 64;
  const uint64_t first = (current_tick_ + 1) % kSlots;
  for (uint64_t i = 0; i <= kWords; ++i) {
    const uint64_t word = (first / 64 + i) % kWords;
    uint64_t bits = occupied_[word];
    if (i == 0) bits &= ~uint64_t{0} << (first % 64);
    if (i == kWords) bits &= (uint64_t{1} << (first % 64)) - 1;
    if (bits == 0) continue;
    const uint64_t slot = word * 64 + static_cast<uint64_t>(std::countr_zero(bits));
    const uint64_t ticks = (slot + kSlots - current_tick_ % kSlots) % kSlots;
    const TimePoint wake = start_ + kTick * static_cast<int64_t>(current_tick_ + ticks);
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(wake - now_).count();
    return static_cast<int>(std::clamp<int64_t>(left, 0, 60'000));
  }
  return -1;
}

void EventLoop::RunPosted() {
  std::vector<std::function<void()>> work;
  {
    absl::MutexLock lock(&mutex_);
    work.swap(posted_);
  }
  for (auto& each : work) each();
}

void EventLoop::Run() {
  std::array<epoll_event, kEventsMax> events;
  for (;;) {
    const int count = epoll_wait(epoll_, events.data(), kEventsMax, deferred_.empty() ? SleepMillis() : 0);
    ReadClock();
    if (count < 0) continue;  // interrupted (stopped and continued, say): look for events again before any deadline
    Turn(events.data(), count);
    if (stopped_.load(std::memory_order_relaxed)) return;
  }
}

void EventLoop::TurnAt(TimePoint now) {
  std::array<epoll_event, kEventsMax> events;
  const int count = epoll_wait(epoll_, events.data(), kEventsMax, 0);
  wall_now_ += std::chrono::duration_cast<std::chrono::system_clock::duration>(now - now_);
  now_ = now;
  Turn(events.data(), std::max(count, 0));
}

void EventLoop::Turn(const epoll_event* events, int count) {
  for (int i = 0; i < count; ++i) {
    auto* slot = static_cast<IoSlot*>(events[i].data.ptr);
    if (slot == nullptr) {
      uint64_t value;
      (void)!read(wake_, &value, sizeof value);  // only wakes; the work is in posted_
      RunPosted();
    } else if (slot->owner != nullptr) {
      slot->on_events(slot->owner, events[i].events);
    }
  }
  // Deadlines come after events: after a pause of the whole process, what has arrived meanwhile is no timeout. If there
  // are more events than fit, those that wait go first, within reason.
  if (count < kEventsMax || ++full_turns_ >= kFullTurnsMax) {
    full_turns_ = 0;
    AdvanceTimers();
  }
  if (!deferred_.empty()) {
    // What this defers again has its turn after the events of the next.
    due_.swap(deferred_);
    for (auto& each : due_) each();
    due_.clear();
  }
  free_slots_.insert(free_slots_.end(), released_.begin(), released_.end());
  released_.clear();
}

void EventLoop::Stop() {
  stopped_.store(true, std::memory_order_relaxed);
  const uint64_t one = 1;
  (void)!write(wake_, &one, sizeof one);  // full counter: awake anyway
}

void EventLoop::Post(std::function<void()> work) {
  {
    absl::MutexLock lock(&mutex_);
    posted_.push_back(std::move(work));
  }
  const uint64_t one = 1;
  (void)!write(wake_, &one, sizeof one);  // full counter: awake anyway
}

IoSlot* EventLoop::Add(int fd, void (*on_events)(void*, uint32_t), void* owner) {
  return AddWith(EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, fd, on_events, owner);
}

IoSlot* EventLoop::AddListener(int fd, bool shared, void (*on_events)(void*, uint32_t), void* owner) {
  // EPOLLEXCLUSIVE goes with EPOLLIN and EPOLLOUT alone (epoll_ctl(2)).
  return AddWith(EPOLLIN | EPOLLET | (shared ? static_cast<uint32_t>(EPOLLEXCLUSIVE) : 0u), fd, on_events, owner);
}

IoSlot* EventLoop::AddWith(uint32_t events, int fd, void (*on_events)(void*, uint32_t), void* owner) {
  IoSlot* slot;
  if (free_slots_.empty()) {
    slots_.push_back(std::make_unique<IoSlot>());
    slot = slots_.back().get();
  } else {
    slot = free_slots_.back();
    free_slots_.pop_back();
  }
  slot->on_events = on_events;
  slot->owner = owner;
  epoll_event event{};
  event.events = events;
  event.data.ptr = slot;
  if (epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) != 0) {
    slot->owner = nullptr;
    free_slots_.push_back(slot);
    return nullptr;
  }
  return slot;
}

bool EventLoop::RequeueListener(int fd, IoSlot* slot) {
  (void)epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr);  // EPOLLEXCLUSIVE goes with no EPOLL_CTL_MOD
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET | EPOLLEXCLUSIVE;
  event.data.ptr = slot;
  return epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) == 0;
}

void EventLoop::RemoveListener(int fd, IoSlot* slot) {
  (void)epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr);  // fails only where it was never added
  Release(slot);
}

void EventLoop::Release(IoSlot* slot) {
  slot->owner = nullptr;
  released_.push_back(slot);
}

}  // namespace gateway::dataplane
