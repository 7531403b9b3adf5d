#include "dataplane/policy/circuit_breaker.h"

#include <algorithm>

namespace gateway::dataplane {
namespace {

int64_t SecondOf(TimePoint now) { return std::chrono::floor<std::chrono::seconds>(now.time_since_epoch()).count(); }

// A probe older than this is given up.
Millis ProbePatience(const BreakerPolicy& policy) { return std::max(policy.sleep_window, policy.timeout); }

Millis LongestSleep(const BreakerPolicy& policy) { return std::max(policy.sleep_window, policy.max_sleep_window); }

}  // namespace

CircuitBreaker::Permit::Permit(Permit&& other) noexcept
    : breaker_(std::move(other.breaker_)),
      generation_(other.generation_),
      probe_(other.probe_),
      reported_(other.reported_) {
  other.breaker_ = nullptr;
}

CircuitBreaker::Permit& CircuitBreaker::Permit::operator=(Permit&& other) noexcept {
  if (this == &other) return *this;
  Release();
  breaker_ = std::move(other.breaker_);
  other.breaker_ = nullptr;
  generation_ = other.generation_;
  probe_ = other.probe_;
  reported_ = other.reported_;
  return *this;
}

CircuitBreaker::Permit::~Permit() { Release(); }

void CircuitBreaker::Permit::Release() {
  if (breaker_ == nullptr) return;
  Report(Outcome::kCancelled, TimePoint());
  breaker_->Leave();
  breaker_ = nullptr;
}

void CircuitBreaker::Permit::Report(Outcome outcome, TimePoint now, std::chrono::nanoseconds latency) {
  if (breaker_ == nullptr || reported_) return;
  reported_ = true;
  breaker_->Settle(probe_, generation_, outcome, latency, now);
}

BreakerVerdict CircuitBreaker::Acquire(TimePoint now, Permit* permit) {
  Permit replaced;  // declared before the lock: what `permit` held may be this breaker's, and reports after it
  absl::MutexLock lock(&mutex_);
  if (policy_.force == v1::CircuitBreaker::OPEN) return BreakerVerdict::kOpen;
  bool probe = false;
  if (policy_.force != v1::CircuitBreaker::CLOSED) {
    // With time alone, successes may have left the window that failures are still in.
    if (state_ == BreakerState::kClosed) OpenIfFailing(now);
    if (state_ == BreakerState::kOpen) {
      if (now - opened_at_ < sleep_) return BreakerVerdict::kOpen;
      probe = true;
    } else if (state_ == BreakerState::kHalfOpen) {
      // (Only of one that is under way: where requests are rare, those that succeeded wait for the next one.)
      const bool given_up = probes_sent_ > probes_succeeded_ && now - probe_at_ >= ProbePatience(policy_);
      if (probes_sent_ >= policy_.probes && !given_up) return BreakerVerdict::kOpen;
      if (given_up) state_ = BreakerState::kOpen;  // and half-open again, below
      probe = true;
    }
  }
  if (in_flight_ >= policy_.max_concurrent_requests) return BreakerVerdict::kTooMany;
  if (probe) {
    if (state_ == BreakerState::kOpen) {
      state_ = BreakerState::kHalfOpen;
      ++generation_;
      probes_sent_ = probes_succeeded_ = 0;
    }
    ++probes_sent_;
    probe_at_ = now;
  }
  ++in_flight_;
  replaced = std::move(*permit);
  permit->breaker_ = shared_from_this();
  permit->generation_ = generation_;
  permit->probe_ = probe;
  permit->reported_ = false;
  return BreakerVerdict::kAllowed;
}

void CircuitBreaker::Leave() {
  absl::MutexLock lock(&mutex_);
  --in_flight_;
}

void CircuitBreaker::Settle(bool probe, uint64_t generation, Outcome outcome, std::chrono::nanoseconds latency,
                            TimePoint now) {
  absl::MutexLock lock(&mutex_);
  // Let through before the last change of state: it tells nothing about now.
  if (generation != generation_) return;
  const bool slow = policy_.slow_call_duration.count() > 0 && latency >= policy_.slow_call_duration;
  if (probe) return SettleProbe(outcome, slow, now);
  if (outcome == Outcome::kCancelled) return;
  Bucket& bucket = buckets_[SecondOf(now) % kBuckets];
  // A worker's `now` may be a little behind another's: then the request counts in the newer second.
  if (bucket.second < SecondOf(now)) bucket = {SecondOf(now), 0, 0, 0};
  ++bucket.requests;
  if (outcome == Outcome::kFailure) ++bucket.failures;
  if (slow) ++bucket.slow;
  if (policy_.force == v1::CircuitBreaker::FORCE_UNSPECIFIED) OpenIfFailing(now);
}

void CircuitBreaker::SettleProbe(Outcome outcome, bool slow, TimePoint now) {
  if (outcome == Outcome::kCancelled) {
    --probes_sent_;  // the next request is a probe in its place
    return;
  }
  if (outcome == Outcome::kSuccess && !slow) {
    if (++probes_succeeded_ < policy_.probes) return;
    ++generation_;
    state_ = BreakerState::kClosed;
    sleep_ = policy_.sleep_window;
    std::fill(std::begin(buckets_), std::end(buckets_), Bucket());
    return;
  }
  ++generation_;
  state_ = BreakerState::kOpen;
  opened_at_ = now;
  ++opened_;
  sleep_ = std::clamp(sleep_ * 2, policy_.sleep_window, LongestSleep(policy_));
}

void CircuitBreaker::OpenIfFailing(TimePoint now) {
  const Bucket sum = Sum(now);
  if (sum.requests < policy_.request_volume_threshold) return;
  const bool failing = uint64_t{sum.failures} * 100 >= uint64_t{policy_.error_percent_threshold} * sum.requests;
  const bool slow = policy_.slow_call_duration.count() > 0 &&
                    uint64_t{sum.slow} * 100 >= uint64_t{policy_.slow_call_percent_threshold} * sum.requests;
  if (!failing && !slow) return;
  state_ = BreakerState::kOpen;
  ++generation_;
  opened_at_ = now;
  ++opened_;
  opening_ = sum;
  sleep_ = policy_.sleep_window;
}

CircuitBreaker::Bucket CircuitBreaker::Sum(TimePoint now) const {
  const int64_t oldest = SecondOf(now) - kBuckets + 1;
  Bucket sum;
  for (const Bucket& bucket : buckets_) {
    if (bucket.second < oldest) continue;
    sum.requests += bucket.requests;
    sum.failures += bucket.failures;
    sum.slow += bucket.slow;
  }
  return sum;
}

void CircuitBreaker::Reconfigure(const BreakerPolicy& policy) {
  absl::MutexLock lock(&mutex_);
  policy_ = policy;
  sleep_ = std::clamp(sleep_, policy.sleep_window, LongestSleep(policy));
}

CircuitBreaker::View CircuitBreaker::view(TimePoint now) const {
  absl::MutexLock lock(&mutex_);
  const Bucket sum = Sum(now);
  View view{.state = state_,
            .in_flight = in_flight_,
            .requests = sum.requests,
            .failures = sum.failures,
            .slow = sum.slow,
            .opened = opened_,
            .forced = false,
            .opening_requests = opening_.requests,
            .opening_failures = opening_.failures,
            .opening_slow = opening_.slow};
  if (policy_.force != v1::CircuitBreaker::FORCE_UNSPECIFIED) {
    view.forced = true;
    view.state = policy_.force == v1::CircuitBreaker::OPEN ? BreakerState::kOpen : BreakerState::kClosed;
  }
  return view;
}

std::chrono::milliseconds CircuitBreaker::RetryAfter(TimePoint now) const {
  absl::MutexLock lock(&mutex_);
  if (policy_.force == v1::CircuitBreaker::OPEN) return policy_.sleep_window;
  if (state_ == BreakerState::kClosed) return Millis(0);
  const TimePoint probe = state_ == BreakerState::kOpen ? opened_at_ + sleep_ : probe_at_ + ProbePatience(policy_);
  return std::max(Millis(0), std::chrono::ceil<Millis>(probe - now));
}

}  // namespace gateway::dataplane
