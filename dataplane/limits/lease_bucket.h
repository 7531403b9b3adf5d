// One fleet-wide rate limit as a data plane has it: the tokens that the control plane has leased to it.
#ifndef GATEWAY_DATAPLANE_LIMITS_LEASE_BUCKET_H_
#define GATEWAY_DATAPLANE_LIMITS_LEASE_BUCKET_H_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "common/base/quota.h"
#include "dataplane/limits/rate_limiter.h"

namespace gateway::dataplane {

// What all tables know of the control plane. Written by the thread that talks to it, read by every worker.
struct LeaseLink {
  // 0: none yet. A new number for each stream.
  std::atomic<uint64_t> stream{0};
  std::atomic<bool> up{false};
  std::atomic<int64_t> heard_ns{0};  // when the control plane was heard last (steady clock)
  std::atomic<uint32_t> data_planes{1};
  std::atomic<int64_t> tick_ns{20'000'000};
  std::atomic<int64_t> round_trip_ns{1'000'000};
  std::atomic<uint64_t> tables{0};  // made so far: the ids of no two of them are the same

  // Called by a worker, at most once between two calls of Listen: a key needs tokens before the next tick. Set before
  // any worker runs; outlives them.
  std::function<void()> wake;
  std::atomic<bool> woken{false};
  void Wake() {
    if (wake && !woken.exchange(true, std::memory_order_acq_rel)) wake();
  }
  // The thread that talks is about to look at every table.
  void Listen() { woken.store(false, std::memory_order_release); }
};

// Lets through what has been leased, synchronously. A key that the control plane has not spoken about yet, and one that
// it has not called scarce, may be overdrawn a little (OverdraftOf): the next grant repays it.
//
// While the control plane is away (no stream, or silence), a key continues at its last share of the limit, at an even
// pace and without a burst; after one lease TTL `on_unavailable` decides. It stays so until the control plane has
// granted the key something again, so that its return causes no burst either.
//
// Thread-safe; keys are spread over shards, each with its own lock. Keys are bounded, and so is what one client can
// occupy: new keys of a client that has exhausted its share count in one bucket of that client, the same on every data
// plane. Where the table is full, a client within its share takes the place of an old key that has used little. Never
// reads a clock.
class LeaseTable {
 public:
  enum class OnUnavailable : uint8_t { kLastShare, kAllow, kDeny };
  struct Options {
    FleetLimit limit;
    OnUnavailable on_unavailable = OnUnavailable::kLastShare;
    size_t keys_max = 100'000;
  };
  // `link` outlives the table. `now`: when the process may first expect a control plane.
  LeaseTable(const Options& options, std::shared_ptr<LeaseLink> link, TimePoint now);
  ~LeaseTable();
  LeaseTable(const LeaseTable&) = delete;
  LeaseTable& operator=(const LeaseTable&) = delete;

  // As SlidingWindowLimiter's. Allocates nothing for a known key.
  RateLimitDecision Admit(std::string_view key, TimePoint now, const ClientPrefix& client = {});
  RateLimitDecision Peek(std::string_view key, TimePoint now);
  // Gives back a request that Admit let through and something else refused.
  void Refund(std::string_view key, const ClientPrefix& client = {});
  void Reconfigure(const Options& options, TimePoint now);

  // How many requests a key may be ahead of its grants, in a fleet of so many: a 20th of the limit over all of them;
  // of limits below 500 more, but never more than 4 each; the whole limit if there is no other. The limit is what
  // may come at once: of a token bucket no more than its burst.
  static uint32_t OverdraftOf(const FleetLimit& limit, uint32_t data_planes);

  // ---- For the thread that talks to the control plane.

  // Appends at most `max` demands of keys that have something to say, on a new stream those of all keys that were used
  // of late. Gives back what is too much, and forgets keys that are idle. False: there was more to say; it comes first
  // the next time.
  bool Collect(TimePoint now, size_t max, std::vector<KeyDemand>* demands);
  // Whether a key has something to say, or will: call Collect each tick.
  bool live() const;
  void OnGrant(const KeyGrant& grant, TimePoint now);

  struct Stats {
    size_t keys = 0;
    uint64_t evicted = 0;
    uint64_t overflowed = 0;  // requests that were counted in the bucket of their client
    uint64_t overdrawn = 0;   // requests let through ahead of a grant
    uint64_t by_share = 0;    // requests decided without the control plane
    uint64_t allowed = 0;
    uint64_t refused = 0;
  };
  Stats stats() const;
  // Its lease is void: on_unavailable holds.
  bool unavailable(TimePoint now) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_LIMITS_LEASE_BUCKET_H_
