// How fast blocking queries repeat. Pure: `now` and random numbers are passed in.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_CONSUL_PACE_H_
#define GATEWAY_CONTROLPLANE_SOURCES_CONSUL_PACE_H_

#include <chrono>
#include <cstdint>

namespace gateway::controlplane {

// The index for the next blocking query after one with index `asked` returned `answered` (status 200). 0, which reads
// at once, if it went backwards (a restored or restarted Consul; with an index from the future it would block
// silently); never 0 twice, which would become polling.
uint64_t NextIndex(uint64_t asked, uint64_t answered);

// Token bucket of two: the first wakeup passes at once, and so does the second; a service that changes all the time is
// read every `interval`.
class LoopPace {
 public:
  using Clock = std::chrono::steady_clock;
  explicit LoopPace(Clock::duration interval) : interval_(interval) {}

  // How long to wait before the next turn; takes the turn.
  Clock::duration Take(Clock::time_point now);

 private:
  static constexpr int kBurst = 2;
  const Clock::duration interval_;
  Clock::time_point full_at_{};  // when the bucket will be full again
};

// Between failed attempts: doubles from 100 ms to 5 s, with the second half of each step random.
class RetryDelay {
 public:
  static constexpr std::chrono::milliseconds kMin{100};
  static constexpr std::chrono::milliseconds kMax{5000};

  // `unit` is uniform in [0, 1).
  std::chrono::milliseconds Next(double unit);
  void Reset() { step_ = kMin; }

 private:
  std::chrono::milliseconds step_ = kMin;
};

// The wait to request: up to a tenth below `wait`, so that watches spread out. `unit` in [0, 1).
std::chrono::milliseconds SpreadWait(std::chrono::milliseconds wait, double unit);

// How long to wait for the response to a blocking query: Consul adds up to a sixteenth itself, and may hang.
std::chrono::milliseconds AnswerDeadline(std::chrono::milliseconds wait);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_PACE_H_
