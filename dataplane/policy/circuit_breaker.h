// Hystrix' circuit breaker for one service, over all workers of the process.
#ifndef GATEWAY_DATAPLANE_POLICY_CIRCUIT_BREAKER_H_
#define GATEWAY_DATAPLANE_POLICY_CIRCUIT_BREAKER_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "common/base/time.h"
#include "common/policy/snapshot.h"

namespace gateway::dataplane {

enum class BreakerState : uint8_t { kClosed, kOpen, kHalfOpen };
enum class BreakerVerdict : uint8_t { kAllowed, kOpen, kTooMany };
// What became of a request that was let through. kCancelled (the client went away, or the request never reached an
// endpoint for a reason of ours) counts as neither.
enum class Outcome : uint8_t { kSuccess, kFailure, kCancelled };

// Thread-safe; never reads a clock.
// More than Hystrix: slow responses open it as failures do; several probes at once, all of which have to succeed; a
// sleep window that doubles with each probe that fails (policy.max_sleep_window), and is short again after a success;
// an operator's `force`.
//
// Differs from hystrix-go on purpose: a probe that never ends is replaced after max(sleep window, timeout); a success
// of a request from before the breaker opened does not close it; rejections are not errors; concurrency counts only
// what was let through.
class CircuitBreaker : public std::enable_shared_from_this<CircuitBreaker> {
 public:
  // One admitted request: a place among the concurrent ones, from Acquire until this is destroyed, and one report, made
  // when the outcome is known (the header of a response), which may be long before its end. Never reported: kCancelled.
  // Movable; default: empty.
  class Permit {
   public:
    Permit() = default;
    Permit(Permit&& other) noexcept;
    Permit& operator=(Permit&& other) noexcept;
    ~Permit();
    explicit operator bool() const { return breaker_ != nullptr; }
    bool reported() const { return reported_; }
    // The first report counts; later ones do nothing. `latency`: of the attempt, to the header of its response.
    void Report(Outcome outcome, TimePoint now, std::chrono::nanoseconds latency = {});

   private:
    friend class CircuitBreaker;
    std::shared_ptr<CircuitBreaker> breaker_;
    uint64_t generation_ = 0;  // the breaker's, when admitted
    bool probe_ = false;
    bool reported_ = false;
    void Release();
  };

  explicit CircuitBreaker(const BreakerPolicy& policy) : policy_(policy), sleep_(policy.sleep_window) {}

  // On kAllowed, `permit` holds the request's place.
  BreakerVerdict Acquire(TimePoint now, Permit* permit);

  // New settings; the window, the state and the places taken stay.
  void Reconfigure(const BreakerPolicy& policy);

  struct View {
    BreakerState state = BreakerState::kClosed;
    uint32_t in_flight = 0;
    uint32_t requests = 0, failures = 0, slow = 0;                          // in the rolling window
    uint64_t opened = 0;                                                    // times
    bool forced = false;                                                    // `state` is an operator's word
    uint32_t opening_requests = 0, opening_failures = 0, opening_slow = 0;  // in the window that opened it last
  };
  View view(TimePoint now) const;
  // Until the next probe; 0 where closed; the sleep window where it is forced open. For Retry-After.
  std::chrono::milliseconds RetryAfter(TimePoint now) const;

 private:
  struct Bucket {
    int64_t second = -1;
    uint32_t requests = 0, failures = 0, slow = 0;
  };
  static constexpr int kBuckets = 10;  // of one second each, as Hystrix has it

  void Settle(bool probe, uint64_t generation, Outcome outcome, std::chrono::nanoseconds latency, TimePoint now);
  void SettleProbe(Outcome outcome, bool slow, TimePoint now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Leave();
  void OpenIfFailing(TimePoint now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Bucket Sum(TimePoint now) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // of the rolling window

  mutable absl::Mutex mutex_;
  BreakerPolicy policy_ ABSL_GUARDED_BY(mutex_);
  Bucket buckets_[kBuckets] ABSL_GUARDED_BY(mutex_);
  BreakerState state_ ABSL_GUARDED_BY(mutex_) = BreakerState::kClosed;
  uint32_t in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t generation_ ABSL_GUARDED_BY(mutex_) = 0;  // rises with every change of state and every new probe
  TimePoint opened_at_ ABSL_GUARDED_BY(mutex_){};
  Millis sleep_ ABSL_GUARDED_BY(mutex_){};            // the window of this time
  uint32_t probes_sent_ ABSL_GUARDED_BY(mutex_) = 0;  // of this time half-open, less those that came to nothing
  uint32_t probes_succeeded_ ABSL_GUARDED_BY(mutex_) = 0;
  TimePoint probe_at_ ABSL_GUARDED_BY(mutex_){};
  uint64_t opened_ ABSL_GUARDED_BY(mutex_) = 0;
  Bucket opening_ ABSL_GUARDED_BY(mutex_);  // the window that opened it last
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_POLICY_CIRCUIT_BREAKER_H_
