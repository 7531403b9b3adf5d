// Fleet-wide rate limits: who may let how many requests through.
#ifndef GATEWAY_CONTROLPLANE_STREAM_QUOTA_ALLOCATOR_H_
#define GATEWAY_CONTROLPLANE_STREAM_QUOTA_ALLOCATOR_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/quota.h"
#include "common/base/time.h"

namespace gateway::controlplane {

// Owns one true count for each (limit, key) and leases parts of it to data planes, by demand. What is leased counts as
// used until it is given back, and what a data plane let through without a lease (its overdraft) counts as soon as it
// is told. So in any window W, over all data planes,
//   admitted(W) <= requests * (1 + kEarlyShare) + sum of their overdrafts (sliding_window),
//   admitted(W) <= rate * W + max(burst, kTicksLeased ticks at the rate) + half of what is leased + sum of their
//   overdrafts (token_bucket).
// Where there is enough, a demand is answered at once; where there is not, all of one tick share it in proportion.
//
// Keys are bounded over all limits, and so is what one client can occupy, over all data planes (KeyShares), and what
// one limit can. New keys past that count together with those of the same client: its own count, but for collisions of
// a keyed hash. Where the table is full, a client within its share takes the place of an idle key that has used little.
//
// After a restart the counts are gone, so nothing is leased until every data plane that is expected back has told what
// it let through of late, or kReturnWait is over. Until then each goes on at its last share.
//
// Not thread-safe; never reads a clock: callers pass `now`, and it never goes back.
class QuotaAllocator {
 public:
  using StreamId = uint64_t;

  // Of the tokens of a window, those that may be leased a little before others have left it: what makes up for the time
  // that demands and grants are on their way.
  static constexpr double kEarlyShare = 0.035;
  static constexpr double kTicksLeased = 3;
  // Longer than the longest pause between two tries of a data plane, hung connections included.
  static constexpr std::chrono::seconds kReturnWait{10};

  struct Options {
    size_t keys_max = 200'000;
    size_t holders_max = 2'000'000;     // (data plane, key) pairs; past it a demand is answered by `scarce`
    std::vector<std::string> expected;  // the data planes whose word is waited for after the start
  };

  QuotaAllocator(Options options, TimePoint now);
  ~QuotaAllocator();

  // The limits of scope `fleet`, by name. What changes keeps its counts; what is gone is forgotten.
  void SetLimits(const std::map<std::string, FleetLimit>& limits, TimePoint now);

  // A data plane's stream. A later one of the same name and process takes the place of the earlier, whose id means
  // nothing then, and goes on where that one ended.
  StreamId Attach(std::string_view name, std::string_view instance, TimePoint now);
  // What the data plane holds stays leased for one lease TTL, and counts as used then.
  void Detach(StreamId stream, TimePoint now);

  // Every demand is answered by a grant of a later Collect. False: no such stream or limit, an unknown key, or no room
  // for another holder.
  bool OnDemand(StreamId stream, std::string_view limit, const KeyDemand& demand, TimePoint now);
  // The data plane has told all keys that it knows.
  void OnToldAll(StreamId stream, TimePoint now);

  using Sink = std::function<void(StreamId, const std::string& limit, const KeyGrant&)>;
  // Answers what need not wait for others; on a tick, everything.
  void Collect(TimePoint now, bool tick, const Sink& sink);

  // Between two ticks: N / 5000 s, 20 ms to 500 ms, so that the messages a second of a large fleet are bounded.
  std::chrono::milliseconds tick() const;
  // With a stream, or, until settled, expected to have one.
  uint32_t data_planes() const;
  bool settled() const;

  struct Stats {
    size_t keys = 0;
    size_t holders = 0;
    uint64_t leased = 0;  // tokens, ever
    uint64_t overdrawn = 0;
    uint64_t overflowed = 0;  // keys that were counted with others of their client
    uint64_t evicted = 0;
  };
  Stats stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_STREAM_QUOTA_ALLOCATOR_H_
