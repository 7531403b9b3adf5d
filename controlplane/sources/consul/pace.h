// How fast the loops of blocking queries turn. Pure: `now` and random numbers are passed in.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_CONSUL_PACE_H_
#define GATEWAY_CONTROLPLANE_SOURCES_CONSUL_PACE_H_

#include <chrono>
#include <cstdint>

namespace gateway::controlplane {

// The index for the next blocking query, after one that had `asked` and whose response (of 200) has `got`: 0,
// which reads at once, if it went backwards (a restored or restarted Consul; an index from the future would block
// silently), never another 0, which would turn the loop into polling.
uint64_t NextIndex(uint64_t asked, uint64_t got);

// Token bucket of two: the first two wakes pass at once; a service that changes all the time is
// read `interval` apart.
class LoopPace {
 public:
  using Clock = std::chrono::steady_clock;
  explicit LoopPace(Clock::duration interval) : interval_(interval) {}

  // How long to wait before the next turn; the turn is taken.
  Clock::duration Take(Clock::time_point now);

 private:
  static constexpr int kBurst = 2;
  const Clock::duration interval_;
  Clock::time_point full_at_{};  // when the bucket will be full again
};

// Between failed tries: doubles from 100 ms to 5 s, the second half of each step at random.
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

// The wait to ask for: up to a tenth below `wait`, so that watches begun together don't end together. `unit` in [0, 1).
std::chrono::milliseconds SpreadWait(std::chrono::milliseconds wait, double unit);

// How long to wait for the response to a blocking query: Consul itself adds up to a sixteenth, and may hang.
std::chrono::milliseconds ResponseDeadline(std::chrono::milliseconds wait);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_PACE_H_
