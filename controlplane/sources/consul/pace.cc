#include "controlplane/sources/consul/pace.h"

#include <algorithm>

namespace gateway::controlplane {

namespace {
constexpr std::chrono::milliseconds kResponseSlack{5000};  // a busy agent, a busy machine
}

uint64_t NextIndex(uint64_t asked, uint64_t got) {
  if (got < asked) return 0;
  return std::max<uint64_t>(got, 1);
}

LoopPace::Clock::duration LoopPace::Take(Clock::time_point now) {
  full_at_ = std::max(full_at_, now) + interval_;
  // The bucket may lack kBurst tokens at most after this turn.
  return std::max(full_at_ - now - interval_ * kBurst, Clock::duration::zero());
}

std::chrono::milliseconds RetryDelay::Next(double unit) {
  const auto delay = step_ / 2 + std::chrono::duration_cast<std::chrono::milliseconds>(step_ / 2 * unit);
  step_ = std::min(step_ * 2, kMax);
  return delay;
}

std::chrono::milliseconds SpreadWait(std::chrono::milliseconds wait, double unit) {
  return wait - std::chrono::duration_cast<std::chrono::milliseconds>(wait / 10 * unit);
}

std::chrono::milliseconds ResponseDeadline(std::chrono::milliseconds wait) { return wait + wait / 16 + kResponseSlack; }

}  // namespace gateway::controlplane
