// Sliding-window rate limiting for one RateLimit, over all workers of the process.
#ifndef GATEWAY_DATAPLANE_POLICY_RATE_LIMITER_H_
#define GATEWAY_DATAPLANE_POLICY_RATE_LIMITER_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

namespace gateway::dataplane {

// Steady time since an arbitrary start; what every policy object is told as `now`.
using TimePoint = std::chrono::steady_clock::time_point;

struct RateLimitDecision {
  bool allowed = true;
  uint32_t limit = 0;      // RateLimit-Limit
  uint32_t remaining = 0;  // RateLimit-Remaining, after this request
  // Until the window holds nothing of now (RateLimit-Reset) where allowed; until a request will be allowed
  // (Retry-After) where not.
  std::chrono::milliseconds reset{};
};

// Never admits more than `requests` of a key in any window. A refused request consumes nothing. Thread-safe: keys are
// spread over shards, each with its own lock. Keys are bounded: only fully recovered ones are dropped, and past the
// bound new keys share one overflow bucket, so that made-up keys free nobody. Never reads a clock.
class SlidingWindowLimiter {
 public:
  struct Options {
    uint32_t requests = 1000;
    std::chrono::milliseconds window{60000};
    size_t keys_max = 100'000;
  };
  explicit SlidingWindowLimiter(const Options& options);
  ~SlidingWindowLimiter();
  SlidingWindowLimiter(const SlidingWindowLimiter&) = delete;
  SlidingWindowLimiter& operator=(const SlidingWindowLimiter&) = delete;

  // `key` is copied only when it is new. Allocates nothing for a known key (amortised).
  RateLimitDecision Admit(std::string_view key, TimePoint now);

  // Several limits are checked together: first Peek all of them, then Admit all. Consumes nothing.
  RateLimitDecision Peek(std::string_view key, TimePoint now);

  // New parameters for the same keys: what was admitted so far still counts.
  void Reconfigure(const Options& options, TimePoint now);

  struct Stats {
    size_t keys = 0;
    uint64_t evicted = 0;
    uint64_t overflowed = 0;  // requests that were counted in the overflow bucket
  };
  Stats stats() const;

 private:
  struct Shard;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_POLICY_RATE_LIMITER_H_
