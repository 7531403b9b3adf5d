// Rate limiting for one RateLimit, over all workers of the process: three algorithms, one table of bounded keys.
#ifndef GATEWAY_DATAPLANE_LIMITS_RATE_LIMITER_H_
#define GATEWAY_DATAPLANE_LIMITS_RATE_LIMITER_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "common/base/key_shares.h"
#include "common/base/time.h"

namespace gateway::dataplane {

enum class LimitAlgorithm : uint8_t {
  kSlidingWindow,  // never more than `requests` in any window
  kTokenBucket,    // `requests` a window on average, `burst` of them at once
  kFixedWindow,    // never more than `requests` in a window that begins at a multiple of its length on the wall clock
};

struct RateLimitDecision {
  bool allowed = true;
  uint32_t limit = 0;      // RateLimit-Limit
  uint32_t remaining = 0;  // RateLimit-Remaining, after this request
  // Until nothing of now counts any more (RateLimit-Reset) where allowed; until a request will be allowed (Retry-After)
  // where not. Rounded up.
  std::chrono::milliseconds reset{};
};

// Whether a client should hear of `a` rather than of `b`: of a refusal first, of the one with the longest wait; else of
// the one that leaves the fewest requests.
bool IsTighter(const RateLimitDecision& a, const RateLimitDecision& b);

// A refused request consumes nothing. Thread-safe: keys are spread over shards, each with its own lock. Never reads a
// clock.
//
// Keys are bounded, and so is what one client can occupy (KeyShares). New keys of a client that has exhausted its share
// count in an overflow bucket: its own, except for collisions of a keyed hash. So a flood of made-up keys limits the
// client that makes them up, and no other. Fully recovered keys are dropped first; where the table is full, a client
// within its share takes the place of an old key that has used little. A key that has used more than half of its limit
// is never dropped before it has recovered, so made-up keys free no client.
//
// The sliding window remembers when each request came, exactly for up to 64 different moments in a window; of a busier
// key, requests within 1/192 of the window are taken for as late as the last of them. So it is never early, and late by
// at most that.
class RateLimiter {
 public:
  struct Options {
    LimitAlgorithm algorithm = LimitAlgorithm::kSlidingWindow;
    uint32_t requests = 1000;
    std::chrono::milliseconds window{60000};
    uint32_t burst = 0;  // of a token bucket; 0: `requests`
    // Of the fixed windows: what has to be added to `now` for the time since the wall clock's epoch.
    std::chrono::nanoseconds wall_offset{0};
    size_t keys_max = 100'000;
  };
  explicit RateLimiter(const Options& options);
  ~RateLimiter();
  RateLimiter(const RateLimiter&) = delete;
  RateLimiter& operator=(const RateLimiter&) = delete;

  struct Check {
    RateLimiter* limiter;
    std::string_view key;
    bool shadow = false;       // its refusal is counted, and the request passes
    ClientPrefix client = {};  // whose share a new key counts in; without one the table's bound alone holds
    RateLimitDecision decision =
        {};  // out; of a limit that would allow what another one refuses: as if it had allowed it
  };
  // Asks several limits at once, under the locks of all of their keys: exact over threads. Where one of them refuses
  // (false), none is consumed. Requires: every check has another limiter.
  static bool AdmitTogether(std::span<Check> checks, TimePoint now);

  // Of this limit alone. `key` is copied only when it is new. Allocates nothing for a known key (amortised).
  RateLimitDecision Admit(std::string_view key, TimePoint now, const ClientPrefix& client = {});
  // What Admit would say.
  RateLimitDecision Peek(std::string_view key, TimePoint now, const ClientPrefix& client = {});

  // Gives back a request that was admitted at `admitted` and refused by somebody else afterwards. What of it can't be
  // told from later requests stays consumed.
  void Refund(std::string_view key, TimePoint admitted);

  // Counts a decision about this limit that was made elsewhere.
  void Note(bool allowed, bool shadow);

  // New parameters for the same keys: what was admitted so far still counts. To another algorithm goes what it can say:
  // from a sliding window every request with its time; from a token bucket what it has not recovered, from a fixed
  // window its count, both as if they were of now.
  void Reconfigure(const Options& options, TimePoint now);

  struct Stats {
    size_t keys = 0;
    uint64_t evicted = 0;
    uint64_t overflowed = 0;  // requests that were counted in an overflow bucket
    uint64_t allowed = 0;
    uint64_t refused = 0;
    uint64_t shadow_refused = 0;
  };
  Stats stats() const;

 private:
  struct Shard;
  struct Impl;
  struct Plan;
  class PlanList;
  void AdmitAlone(Check* check, TimePoint now);
  std::unique_ptr<Impl> impl_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_LIMITS_RATE_LIMITER_H_
