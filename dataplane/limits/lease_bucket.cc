#include "dataplane/limits/lease_bucket.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <list>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/hash/hash.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "common/base/digest.h"
#include "common/base/text.h"

namespace gateway::dataplane {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;

constexpr int kShardBits = 4;
constexpr int kTableShift = 44;  // an id: which table, which of its keys, in which shard
constexpr size_t kShards = 1 << kShardBits;
// A target is this much of what a key uses between two grants.
constexpr double kTargetFactor = 1.5;
// The rate of a key is its mean over about this many ticks; a rise by many requests at once is believed sooner.
constexpr double kRateTicks = 5;
constexpr double kRiseTicks = 2;
constexpr uint32_t kRiseMin = 5;
// Of a limit below this, a few requests in a row shall not meet a grant that is still on its way.
constexpr uint32_t kSmallLimit = 500;
// Less than this many requests between two grants is no demand: the overdraft serves them.
constexpr double kDemandMin = 0.05;
// An unused key is forgotten after this, and once the control plane knows all of it. Not sooner: by then it has been
// told how much there is.
constexpr int64_t kIdleNs = 10'000'000'000;
constexpr size_t kEvictionsPerCollect = 256;
// How the keys begin that count for a client past its share. No key of a request begins like this: 's' would be the
// length of its next part.
constexpr std::string_view kSharedKey("\0shared", 7);
// So many clients have one each; past that, a keyed hash says which clients share one.
constexpr size_t kSharedKeysMax = 1024;
constexpr size_t kSharedHashed = 256;
// Of so many keys of a full shard that have been idle for longest, the one that has used least gives its place away.
constexpr size_t kCheapCandidates = 16;
// Keys that a shard has forgotten and the control plane was not told of.
constexpr size_t kDropsMax = 1024;
// While the control plane is away: tokens of at most this time are saved up.
constexpr double kShareSeconds = 1;

struct KeyHash {
  size_t operator()(std::string_view key) const {
    return absl::Hash<absl::string_view>()(absl::string_view(key.data(), key.size()));
  }
};

int64_t Ns(TimePoint now) { return std::max<int64_t>(0, nanoseconds(now.time_since_epoch()).count()); }

milliseconds CeilMs(int64_t ns) { return std::chrono::ceil<milliseconds>(nanoseconds(std::max<int64_t>(0, ns))); }

// As LeaseTable::OverdraftOf, of what may come at once.
uint32_t OverdraftFrom(uint32_t at_once, uint32_t data_planes) {
  if (data_planes <= 1) return std::max<uint32_t>(1, at_once);
  const uint32_t small = at_once < kSmallLimit ? std::min<uint32_t>(4, at_once / data_planes) : 0;
  return std::max({uint32_t{1}, at_once / (20 * data_planes), small});
}

// When the requests of the last window were let through, by sixteenths of it.
class RecentUse {
 public:
  void Add(int64_t now_ns, int64_t window_ns) {
    Advance(now_ns, window_ns);
    ++counts_[static_cast<size_t>(slot_ % kSlots)];
  }
  // Of the oldest sixteenth, the part that is still in the window.
  double Count(int64_t now_ns, int64_t window_ns) {
    Advance(now_ns, window_ns);
    double count = 0;
    for (const uint32_t each : counts_) count += each;
    const double gone = static_cast<double>(now_ns % SlotNs(window_ns)) / static_cast<double>(SlotNs(window_ns));
    return count - gone * counts_[static_cast<size_t>((slot_ + 1) % kSlots)];
  }
  // Until the first of them leaves the window; the whole window if there are none.
  int64_t FreesIn(int64_t now_ns, int64_t window_ns) {
    Advance(now_ns, window_ns);
    for (int64_t back = kSlots - 1; back >= 0; --back) {
      if (counts_[static_cast<size_t>((slot_ - back + kSlots) % kSlots)] == 0) continue;
      const int64_t end_ns = (slot_ - back + 1) * SlotNs(window_ns);
      return std::clamp<int64_t>(end_ns + window_ns - now_ns, 1, window_ns);
    }
    return window_ns;
  }
  // Twice their mean age: as if they had come evenly over that time.
  int64_t Span(int64_t now_ns, int64_t window_ns) {
    Advance(now_ns, window_ns);
    double count = 0, age = 0;
    for (int64_t back = 0; back < kSlots; ++back) {
      const double each = counts_[static_cast<size_t>((slot_ - back + kSlots) % kSlots)];
      // The middle of the slot; of the last one that which has been of it.
      const int64_t middle = back == 0 ? (now_ns % SlotNs(window_ns)) / 2
                                       : now_ns % SlotNs(window_ns) + (2 * back - 1) * SlotNs(window_ns) / 2;
      count += each;
      age += each * static_cast<double>(middle);
    }
    return count == 0 ? 0 : std::min(window_ns, static_cast<int64_t>(2 * age / count));
  }

 private:
  // One more than fits, for the part of the oldest.
  static constexpr int64_t kSlots = 17;

  static int64_t SlotNs(int64_t window_ns) { return std::max<int64_t>(1, window_ns / (kSlots - 1)); }

  void Advance(int64_t now_ns, int64_t window_ns) {
    const int64_t slot = now_ns / SlotNs(window_ns);
    if (slot <= slot_) return;
    for (int64_t each = std::max(slot_ + 1, slot - kSlots + 1); each <= slot; ++each) {
      counts_[static_cast<size_t>(each % kSlots)] = 0;
    }
    slot_ = slot;
  }

  std::array<uint32_t, kSlots> counts_{};
  int64_t slot_ = 0;
};

struct Entry {
  std::string key;
  uint64_t id = 0;
  bool live = false;    // in ShardState::live, else in ShardState::idle
  bool shared = false;  // of a client past its share
  ClientPrefix client;

  // With the control plane, on stream `stream`.
  uint64_t stream = 0;
  bool named = false;     // demands of this stream have begun
  bool answered = false;  // and were granted or denied
  uint64_t used = 0;
  uint64_t used_at_begin = 0;  // of the stream
  uint64_t used_before = 0;    // its first demand, which tells of them
  uint64_t used_told = 0;
  uint64_t returned = 0;
  uint64_t granted = 0;
  uint32_t target = 0;
  double rate = 0;
  uint32_t asked_for = 0;  // requests since the last Collect, refused ones included
  uint32_t refused = 0;    // likewise
  uint32_t refunded = 0;   // used, and not needed: the next ones use nothing
  int64_t collected_ns = 0;
  int64_t last_used_ns = 0;  // asked for
  RecentUse recent;

  // What it said last.
  bool scarce = false;
  int64_t scarce_until_ns = 0;
  int64_t wait_until_ns = 0;
  int64_t full_at_ns = 0;
  uint64_t available = 0;

  // While it is away.
  double share = -1;  // tokens a second; below 0: never told
  double share_level = 0;
  int64_t share_ns = 0;  // 0: not in use

  int64_t Balance() const {
    return static_cast<int64_t>(granted) - static_cast<int64_t>(returned) - static_cast<int64_t>(used - used_before) +
           static_cast<int64_t>(refunded);
  }
};

}  // namespace

struct alignas(64) ShardState {
  using Entries = std::list<Entry>;
  absl::Mutex mutex;
  Entries live ABSL_GUARDED_BY(mutex);
  Entries idle ABSL_GUARDED_BY(mutex);  // in the order of their becoming so
  absl::flat_hash_map<std::string_view, Entries::iterator, KeyHash, std::equal_to<>> by_key ABSL_GUARDED_BY(mutex);
  absl::flat_hash_map<uint64_t, Entries::iterator> by_id ABSL_GUARDED_BY(mutex);
  uint64_t stream_seen ABSL_GUARDED_BY(mutex) = 0;
  uint64_t ids ABSL_GUARDED_BY(mutex) = 0;
  std::vector<KeyDemand> drops ABSL_GUARDED_BY(mutex);  // of stream_seen
};

namespace {

// What one client's keys count in that find no place.
std::string SharedKeyOf(const ClientPrefix& client) {
  std::string key(kSharedKey);
  if (client.kind != ClientPrefix::Kind::kNone) Append(&key, std::string_view("c"), client.ToBytes());
  return key;
}

// Requires: nothing of it is leased.
KeyDemand DropOf(const Entry& entry) {
  KeyDemand demand;
  demand.id = entry.id;
  demand.used = entry.used;
  demand.returned = entry.returned;
  demand.dropped = true;
  return demand;
}

}  // namespace

struct LeaseTable::Impl {
  Impl(const Options& given, std::shared_ptr<LeaseLink> shared, TimePoint now)
      : link(std::move(shared)),
        created_ns(Ns(now)),
        first_id((link->tables.fetch_add(1, std::memory_order_relaxed) + 1) << kTableShift) {
    Set(given);
  }

  void Set(const Options& given) {
    requests.store(given.limit.requests, std::memory_order_relaxed);
    capacity.store(given.limit.capacity(), std::memory_order_relaxed);
    window_ns.store(std::max<int64_t>(1'000'000, nanoseconds(given.limit.window).count()), std::memory_order_relaxed);
    windowed.store(given.limit.algorithm != FleetAlgorithm::kTokenBucket, std::memory_order_relaxed);
    on_unavailable.store(given.on_unavailable, std::memory_order_relaxed);
    keys_max.store(given.keys_max, std::memory_order_relaxed);
  }

  double PerSecond() const { return requests.load(std::memory_order_relaxed) * 1e9 / static_cast<double>(Window()); }
  int64_t Window() const { return window_ns.load(std::memory_order_relaxed); }
  uint32_t Capacity() const { return capacity.load(std::memory_order_relaxed); }
  uint32_t AtOnce() const { return std::min(requests.load(std::memory_order_relaxed), Capacity()); }
  bool Heard(int64_t now_ns) const {
    const int64_t heard = std::max(created_ns, link->heard_ns.load(std::memory_order_relaxed));
    return now_ns - heard < nanoseconds(kLeaseTtl).count();
  }
  // No wait is longer: a window; of a token bucket the time in which all of it flows in.
  milliseconds Bound(int64_t ns) const {
    const double windows = std::max(1.0, static_cast<double>(Capacity()) / requests.load(std::memory_order_relaxed));
    return std::min(CeilMs(ns), CeilMs(static_cast<int64_t>(windows * static_cast<double>(Window()))));
  }
  // Until there is one more, as far as this data plane can tell by itself.
  int64_t FreesIn(Entry& entry, int64_t now_ns) const {
    if (windowed.load(std::memory_order_relaxed)) return entry.recent.FreesIn(now_ns, Window());
    return static_cast<int64_t>(1e9 / PerSecond());
  }
  // Between a demand and the end of what it brings.
  double Horizon() const {
    return static_cast<double>(link->tick_ns.load(std::memory_order_relaxed) +
                               2 * link->round_trip_ns.load(std::memory_order_relaxed)) /
           1e9;
  }

  RateLimitDecision Decide(Entry& entry, int64_t now_ns, bool consume) const;
  RateLimitDecision DecideByShare(Entry& entry, int64_t now_ns, bool consume, bool awaits_answer = false) const;
  RateLimitDecision Count(std::string_view key, const ClientPrefix& client, TimePoint now, bool consume);
  RateLimitDecision CountIn(ShardState& shard, ShardState::Entries::iterator found, int64_t now_ns, bool* wake)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(shard.mutex);
  KeyShares::Answer Reserve(ShardState& shard, const ClientPrefix& client, int64_t now_ns)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(shard.mutex);
  ShardState::Entries::iterator Add(ShardState& shard, std::string_view key, const ClientPrefix& client, bool shared)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(shard.mutex);
  void Forget(ShardState& shard, ShardState::Entries::iterator entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(shard.mutex);
  bool EvictCheap(ShardState& shard, int64_t now_ns) ABSL_EXCLUSIVE_LOCKS_REQUIRED(shard.mutex);
  RateLimitDecision CountShared(const ClientPrefix& client, int64_t now_ns, bool* wake);
  std::string HashedSharedKey(const ClientPrefix& client) const;
  ShardState& ShardOf(size_t hash) { return shards[hash >> (8 * sizeof hash - kShardBits)]; }
  void Spend(Entry& entry, int64_t now_ns) const {
    if (entry.refunded > 0) {
      --entry.refunded;
      return;
    }
    ++entry.used;
    entry.recent.Add(now_ns, Window());
  }
  // Says whether there is something to tell, and makes it.
  bool MakeDemand(Entry& entry, int64_t now_ns, uint64_t stream, bool up, KeyDemand* demand) const;

  const std::shared_ptr<LeaseLink> link;
  const int64_t created_ns;
  const uint64_t first_id;
  std::atomic<uint32_t> requests{0};
  std::atomic<uint32_t> capacity{0};  // of a token bucket; else `requests`
  std::atomic<int64_t> window_ns{0};
  std::atomic<bool> windowed{true};
  std::atomic<OnUnavailable> on_unavailable{OnUnavailable::kLastShare};
  std::atomic<size_t> keys_max{0};

  std::array<ShardState, kShards> shards;
  KeyShares shares;
  const KeyedDigest digest = KeyedDigest::Random();
  std::atomic<size_t> keys{0};
  std::atomic<size_t> shared_keys{0};
  std::atomic<size_t> live{0};
  std::atomic<uint64_t> evicted{0};
  mutable std::atomic<uint64_t> overflowed{0}, overdrawn{0}, by_share{0}, allowed{0}, refused{0};
  size_t first_shard = 0;  // of the next Collect
};

uint32_t LeaseTable::OverdraftOf(const FleetLimit& limit, uint32_t data_planes) {
  return OverdraftFrom(std::min(limit.requests, limit.capacity()), data_planes);
}

// The last share, at an even pace. What was leased before is used first.
RateLimitDecision LeaseTable::Impl::DecideByShare(Entry& entry, int64_t now_ns, bool consume,
                                                  bool awaits_answer) const {
  RateLimitDecision decision;
  decision.limit = Capacity();
  if (consume) by_share.fetch_add(1, std::memory_order_relaxed);
  if (!Heard(now_ns)) {
    const OnUnavailable policy = on_unavailable.load(std::memory_order_relaxed);
    if (policy != OnUnavailable::kLastShare) {
      decision.allowed = policy == OnUnavailable::kAllow;
      decision.remaining = decision.allowed ? decision.limit - 1 : 0;
      decision.reset = decision.allowed ? std::chrono::ceil<milliseconds>(nanoseconds(Window())) : milliseconds(1000);
      if (consume && decision.allowed) Spend(entry, now_ns);
      return decision;
    }
  }
  const uint32_t planes = std::max<uint32_t>(1, link->data_planes.load(std::memory_order_relaxed));
  const double share = entry.share >= 0 ? std::max(entry.share, PerSecond() / (100.0 * planes)) : PerSecond() / planes;
  const double seconds = std::min(kShareSeconds, static_cast<double>(Window()) / 1e9);
  const double most = std::max(1.0, std::min<double>(share * seconds, AtOnce()));
  if (entry.share_ns == 0) {
    const bool fresh = entry.used == 0;
    entry.share_level = fresh ? 1 : std::clamp(static_cast<double>(entry.Balance()), 0.0, most);
    entry.share_ns = now_ns;
  } else if (now_ns > entry.share_ns) {
    entry.share_level = std::min(most, entry.share_level + static_cast<double>(now_ns - entry.share_ns) * share / 1e9);
    entry.share_ns = now_ns;
  }
  decision.allowed = entry.share_level >= 1;
  // (Also while the first response of the control plane is on its way: it has all that was used.)
  bool used_up = awaits_answer;
  if (decision.allowed && windowed.load(std::memory_order_relaxed)) {
    // What was let through before the control plane went still counts, also if it all came at once.
    const double recent = entry.recent.Count(now_ns, Window());
    decision.allowed = recent < std::max(1.0, share * static_cast<double>(Window()) / 1e9);
    used_up = !decision.allowed;
  }
  if (decision.allowed) {
    decision.remaining = static_cast<uint32_t>(entry.share_level - 1);
    decision.reset = Bound(static_cast<int64_t>((most - entry.share_level + 1) / share * 1e9));
    if (consume) {
      entry.share_level -= 1;
      Spend(entry, now_ns);
    }
  } else if (used_up) {
    decision.reset = Bound(FreesIn(entry, now_ns));
  } else {
    decision.reset = Bound(static_cast<int64_t>(std::max(1 - entry.share_level, 1.0) / share * 1e9));
  }
  return decision;
}

RateLimitDecision LeaseTable::Impl::Decide(Entry& entry, int64_t now_ns, bool consume) const {
  const uint64_t stream = link->stream.load(std::memory_order_acquire);
  const bool up = link->up.load(std::memory_order_acquire) && Heard(now_ns);
  if (entry.stream != stream) {
    // Leases end with their stream.
    entry.stream = stream;
    entry.named = entry.answered = false;
    entry.granted = entry.returned = 0;
    entry.used_at_begin = entry.used_before = entry.used;
  }
  RateLimitDecision decision;
  decision.limit = Capacity();
  if (!up || (!entry.answered && entry.share >= 0)) return DecideByShare(entry, now_ns, consume);
  int64_t overdraft = OverdraftFrom(AtOnce(), link->data_planes.load(std::memory_order_relaxed));
  const int64_t ahead =
      entry.answered ? -entry.Balance()
                     : static_cast<int64_t>(entry.used - entry.used_at_begin) - static_cast<int64_t>(entry.refunded);
  // A control plane that is back grants nothing before all data planes have reported.
  if (!entry.answered && ahead >= overdraft) return DecideByShare(entry, now_ns, consume, true);
  entry.share_ns = 0;

  const int64_t balance = entry.Balance();
  const bool scarce = entry.scarce && now_ns < entry.scarce_until_ns;
  bool overdraws = false;
  if (balance > 0) {
    decision.allowed = true;
  } else if (scarce) {
    decision.allowed = false;
  } else {
    // Never more than was there to lease.
    if (entry.answered) overdraft = std::min(overdraft, static_cast<int64_t>(entry.available));
    overdraws = ahead < overdraft;
    decision.allowed = overdraws;
  }
  if (decision.allowed) {
    const int64_t left = (entry.answered ? static_cast<int64_t>(entry.available) + balance
                                         : decision.limit - static_cast<int64_t>(entry.used)) -
                         1;
    decision.remaining = static_cast<uint32_t>(std::clamp<int64_t>(left, 0, decision.limit - 1));
    decision.reset = Bound(entry.full_at_ns > now_ns ? entry.full_at_ns - now_ns : Window());
    if (consume) {
      if (overdraws) overdrawn.fetch_add(1, std::memory_order_relaxed);
      Spend(entry, now_ns);
    }
  } else {
    // Where the control plane has named no wait there is either something to lease, at the next tick, or nothing.
    const int64_t tick_ns = link->tick_ns.load(std::memory_order_relaxed);
    const bool to_lease = entry.answered && entry.available > 0;
    const int64_t named_ns = entry.wait_until_ns - now_ns;
    decision.reset = Bound(named_ns > 0 ? std::max(named_ns, tick_ns) : to_lease ? tick_ns : FreesIn(entry, now_ns));
  }
  return decision;
}

// A place for one more key of `client`; else in whose bucket it counts.
KeyShares::Answer LeaseTable::Impl::Reserve(ShardState& shard, const ClientPrefix& client, int64_t now_ns) {
  const size_t taken = keys.fetch_add(1, std::memory_order_relaxed);
  const size_t most = keys_max.load(std::memory_order_relaxed);
  KeyShares::Answer answer = shares.Take(client, taken < most ? most - taken : 0);
  if (answer.granted && taken < most) return answer;
  if (answer.granted && client.kind != ClientPrefix::Kind::kNone && EvictCheap(shard, now_ns)) return answer;
  keys.fetch_sub(1, std::memory_order_relaxed);
  if (answer.granted) {
    shares.Release(client);
    answer = {false, client};
  }
  return answer;
}

ShardState::Entries::iterator LeaseTable::Impl::Add(ShardState& shard, std::string_view key, const ClientPrefix& client,
                                                    bool shared) {
  shard.live.emplace_back();
  const auto added = std::prev(shard.live.end());
  added->key = key;
  added->id = first_id | (++shard.ids << kShardBits) | static_cast<size_t>(&shard - shards.data());
  added->live = true;
  added->shared = shared;
  added->client = client;
  live.fetch_add(1, std::memory_order_relaxed);
  shard.by_key.emplace(std::string_view(added->key), added);
  shard.by_id.emplace(added->id, added);
  return added;
}

// Requires: it is idle.
void LeaseTable::Impl::Forget(ShardState& shard, ShardState::Entries::iterator entry) {
  shard.by_key.erase(std::string_view(entry->key));
  shard.by_id.erase(entry->id);
  if (entry->shared) {
    shared_keys.fetch_sub(1, std::memory_order_relaxed);
  } else {
    keys.fetch_sub(1, std::memory_order_relaxed);
    shares.Release(entry->client);
  }
  evicted.fetch_add(1, std::memory_order_relaxed);
  shard.idle.erase(entry);
}

// Of the keys that have been idle for longest, forgets the one that has used least, if that is no more than half of the
// limit. The control plane, if it is there, knows all of it.
bool LeaseTable::Impl::EvictCheap(ShardState& shard, int64_t now_ns) {
  if (shard.drops.size() >= kDropsMax) return false;
  auto cheapest = shard.idle.end();
  double least = 0;
  size_t looked = 0;
  for (auto at = shard.idle.begin(); at != shard.idle.end() && looked < kCheapCandidates; ++at, ++looked) {
    if (at->shared || (at->scarce && now_ns < at->scarce_until_ns)) continue;
    const double used = at->recent.Count(now_ns, Window());
    if (2 * used > Capacity() || (cheapest != shard.idle.end() && used >= least)) continue;
    cheapest = at;
    least = used;
  }
  if (cheapest == shard.idle.end()) return false;
  if (cheapest->named && cheapest->stream == shard.stream_seen) shard.drops.push_back(DropOf(*cheapest));
  Forget(shard, cheapest);
  return true;
}

std::string LeaseTable::Impl::HashedSharedKey(const ClientPrefix& client) const {
  return Concat(kSharedKey, std::string_view("h"), DigestHash()(digest.Of({client.ToBytes()})) % kSharedHashed);
}

// The bucket of a client past its share.
RateLimitDecision LeaseTable::Impl::CountShared(const ClientPrefix& client, int64_t now_ns, bool* wake) {
  overflowed.fetch_add(1, std::memory_order_relaxed);
  for (const std::string& key : {SharedKeyOf(client), HashedSharedKey(client)}) {
    const size_t hash = KeyHash()(key);
    ShardState& shard = ShardOf(hash);
    absl::MutexLock lock(&shard.mutex);
    const auto found = shard.by_key.find(std::string_view(key), hash);
    if (found != shard.by_key.end()) return CountIn(shard, found->second, now_ns, wake);
    const bool own = key.size() == kSharedKey.size() || key[kSharedKey.size()] == 'c';
    if (own && shared_keys.load(std::memory_order_relaxed) >= kSharedKeysMax) continue;
    shared_keys.fetch_add(1, std::memory_order_relaxed);
    *wake = true;
    return CountIn(shard, Add(shard, key, own ? client : ClientPrefix(), true), now_ns, wake);
  }
  return {};  // not reached: the hashed one is always found or made
}

RateLimitDecision LeaseTable::Impl::CountIn(ShardState& shard, ShardState::Entries::iterator found, int64_t now_ns,
                                            bool* wake) {
  Entry& entry = *found;
  const RateLimitDecision decision = Decide(entry, now_ns, true);
  (decision.allowed ? allowed : refused).fetch_add(1, std::memory_order_relaxed);
  ++entry.asked_for;
  if (!decision.allowed) ++entry.refused;
  entry.last_used_ns = now_ns;
  if (!entry.live) {
    entry.live = true;
    live.fetch_add(1, std::memory_order_relaxed);
    shard.live.splice(shard.live.end(), shard.idle, found);
    *wake = true;
  }
  if (entry.answered && (!entry.scarce || now_ns >= entry.scarce_until_ns)) {
    const int64_t balance = entry.Balance();
    *wake = *wake || balance <= 0 || 2 * balance < static_cast<int64_t>(entry.target);
  }
  return decision;
}

RateLimitDecision LeaseTable::Impl::Count(std::string_view key, const ClientPrefix& client, TimePoint now,
                                          bool consume) {
  const int64_t now_ns = Ns(now);
  bool wake = false;
  RateLimitDecision decision;
  KeyShares::Answer answer;
  {
    const size_t hash = KeyHash()(key);
    ShardState& shard = ShardOf(hash);
    absl::MutexLock lock(&shard.mutex);
    const auto found = shard.by_key.find(key, hash);
    if (!consume) {
      Entry unknown;
      return Decide(found == shard.by_key.end() ? unknown : *found->second, now_ns, false);
    }
    if (found != shard.by_key.end()) {
      decision = CountIn(shard, found->second, now_ns, &wake);
    } else if (answer = Reserve(shard, client, now_ns); answer.granted) {
      wake = true;
      decision = CountIn(shard, Add(shard, key, client, false), now_ns, &wake);
    }
  }
  if (!answer.granted) decision = CountShared(answer.whose, now_ns, &wake);
  if (wake) link->Wake();
  return decision;
}

bool LeaseTable::Impl::MakeDemand(Entry& entry, int64_t now_ns, uint64_t stream, bool up, KeyDemand* demand) const {
  const int64_t tick_ns = link->tick_ns.load(std::memory_order_relaxed);
  if (entry.stream != stream) {
    entry.stream = stream;
    entry.named = entry.answered = false;
    entry.granted = entry.returned = 0;
    entry.used_at_begin = entry.used_before = entry.used;
  }
  // The rate, and from it what should be held.
  const int64_t elapsed_ns = std::max<int64_t>(1'000'000, now_ns - entry.collected_ns);
  const double seconds =
      entry.collected_ns == 0 ? static_cast<double>(tick_ns) / 1e9 : static_cast<double>(elapsed_ns) / 1e9;
  const double rate = entry.asked_for / seconds;
  const double ticks = rate > entry.rate && entry.asked_for >= kRiseMin ? kRiseTicks : kRateTicks;
  entry.rate += (rate - entry.rate) * (1 - std::exp(-seconds * 1e9 / (ticks * static_cast<double>(tick_ns))));
  entry.collected_ns = now_ns;
  entry.asked_for = 0;
  const double between = entry.rate * Horizon();
  // A quarter of what may come at once; but no less than flows in until the next grant, where the burst is short.
  const auto flow = static_cast<uint32_t>(std::min(std::ceil(kTargetFactor * PerSecond() * Horizon()), 1e9));
  const uint32_t most =
      std::max<uint32_t>(1, std::min(requests.load(std::memory_order_relaxed) / 4, std::max(AtOnce() / 4, flow)));
  entry.target = between < kDemandMin
                     ? 0
                     : std::clamp<uint32_t>(
                           static_cast<uint32_t>(std::ceil(kTargetFactor * between + std::sqrt(between))), 1, most);
  const bool refused = std::exchange(entry.refused, 0) > 0;
  if (!up) return false;

  if (!entry.named) {
    entry.named = true;
    demand->first = true;
    demand->key = entry.key;
    demand->client = entry.client;
    demand->recent = static_cast<uint64_t>(std::ceil(entry.recent.Count(now_ns, Window())));
    demand->recent_span = CeilMs(entry.recent.Span(now_ns, Window()));
    entry.used_before = entry.used;
  } else {
    const int64_t balance = entry.Balance();
    const int64_t surplus = entry.answered ? balance - (entry.target + (entry.target + 3) / 4) : 0;
    if (surplus > 0) entry.returned += static_cast<uint64_t>(balance - entry.target);
    const bool wants = 4 * balance < 3 * static_cast<int64_t>(entry.target);
    if (entry.used == entry.used_told && surplus <= 0 && !wants && !refused) return false;
  }
  demand->id = entry.id;
  demand->used = entry.used_told = entry.used;
  demand->returned = entry.returned;
  demand->target = entry.target;
  demand->rate = static_cast<float>(entry.rate);
  return true;
}

LeaseTable::LeaseTable(const Options& options, std::shared_ptr<LeaseLink> link, TimePoint now)
    : impl_(std::make_unique<Impl>(options, std::move(link), now)) {}
LeaseTable::~LeaseTable() = default;

RateLimitDecision LeaseTable::Admit(std::string_view key, TimePoint now, const ClientPrefix& client) {
  return impl_->Count(key, client, now, true);
}
RateLimitDecision LeaseTable::Peek(std::string_view key, TimePoint now) { return impl_->Count(key, {}, now, false); }

void LeaseTable::Refund(std::string_view key, const ClientPrefix& client) {
  const auto refund = [this](std::string_view name) {
    const size_t hash = KeyHash()(name);
    ShardState& shard = impl_->ShardOf(hash);
    absl::MutexLock lock(&shard.mutex);
    const auto found = shard.by_key.find(name, hash);
    if (found == shard.by_key.end()) return false;
    Entry& entry = *found->second;
    if (entry.share_ns != 0) entry.share_level += 1;
    ++entry.refunded;
    impl_->allowed.fetch_sub(1, std::memory_order_relaxed);
    impl_->refused.fetch_add(1, std::memory_order_relaxed);
    return true;
  };
  // If none is found, the request stays counted.
  (void)(refund(key) || refund(SharedKeyOf(client)) || refund(SharedKeyOf(client.site())) ||
         refund(impl_->HashedSharedKey(client)));
}

void LeaseTable::Reconfigure(const Options& options, TimePoint now) {
  (void)now;  // what is held is the control plane's to change
  impl_->Set(options);
}

bool LeaseTable::Collect(TimePoint now, size_t max, std::vector<KeyDemand>* demands) {
  Impl& impl = *impl_;
  const int64_t now_ns = Ns(now);
  const uint64_t stream = impl.link->stream.load(std::memory_order_acquire);
  const bool up = impl.link->up.load(std::memory_order_acquire);
  const size_t begin = impl.first_shard;
  size_t evictions = kEvictionsPerCollect;
  for (size_t i = 0; i < kShards; ++i) {
    ShardState& shard = impl.shards[(begin + i) % kShards];
    absl::MutexLock lock(&shard.mutex);
    if (up && shard.stream_seen != stream) {
      shard.stream_seen = stream;
      shard.drops.clear();
      for (auto it = shard.idle.begin(); it != shard.idle.end();) {
        const auto entry = it++;
        if (entry->recent.Count(now_ns, impl.Window()) <= 0) continue;
        entry->live = true;
        impl.live.fetch_add(1, std::memory_order_relaxed);
        shard.live.splice(shard.live.end(), shard.idle, entry);
      }
    }
    while (!shard.drops.empty() && demands->size() < max) {
      if (up) demands->push_back(std::move(shard.drops.back()));
      shard.drops.pop_back();
    }
    // Each once: those looked at go to the end.
    for (size_t left = shard.live.size(); left > 0; --left) {
      if (demands->size() >= max) {
        impl.first_shard = (begin + i) % kShards;
        return false;
      }
      const auto entry = shard.live.begin();
      KeyDemand demand;
      const bool says = impl.MakeDemand(*entry, now_ns, stream, up, &demand);
      if (says) demands->push_back(std::move(demand));
      const bool done = !says && entry->target == 0 && (!up || (entry->answered && entry->Balance() == 0));
      if (done) {
        entry->live = false;
        impl.live.fetch_sub(1, std::memory_order_relaxed);
        shard.idle.splice(shard.idle.end(), shard.live, entry);
      } else {
        shard.live.splice(shard.live.end(), shard.live, entry);
      }
    }
    const int64_t idle_ns = up ? kIdleNs : std::max(kIdleNs, impl.Window());
    while (evictions > 0 && !shard.idle.empty() && demands->size() < max) {
      const auto entry = shard.idle.begin();
      if (now_ns - entry->last_used_ns < idle_ns || (entry->scarce && now_ns < entry->scarce_until_ns)) break;
      if (up && entry->stream == stream && entry->named) demands->push_back(DropOf(*entry));
      impl.Forget(shard, entry);
      --evictions;
    }
  }
  return true;
}

bool LeaseTable::live() const { return impl_->live.load(std::memory_order_relaxed) > 0; }

void LeaseTable::OnGrant(const KeyGrant& grant, TimePoint now) {
  const int64_t now_ns = Ns(now);
  ShardState& shard = impl_->shards[grant.id & (kShards - 1)];
  absl::MutexLock lock(&shard.mutex);
  const auto found = shard.by_id.find(grant.id);
  if (found == shard.by_id.end()) return;
  Entry& entry = *found->second;
  if (grant.unknown) {
    entry.named = entry.answered = false;
    entry.granted = entry.returned = 0;
    entry.used_at_begin = entry.used_before = entry.used;
    if (entry.share < 0) {
      entry.share =
          impl_->PerSecond() / std::max<uint32_t>(1, impl_->link->data_planes.load(std::memory_order_relaxed));
    }
    return;
  }
  if (!entry.named || entry.stream != impl_->link->stream.load(std::memory_order_acquire)) return;
  entry.answered = true;
  entry.granted = std::max(entry.granted, grant.granted);
  entry.scarce = grant.scarce;
  const int64_t wait_ns = nanoseconds(grant.wait).count();
  entry.wait_until_ns = now_ns + wait_ns;
  // Under demand it is sent again before this is over.
  const int64_t again_ns = 3 * impl_->link->tick_ns.load(std::memory_order_relaxed) +
                           2 * impl_->link->round_trip_ns.load(std::memory_order_relaxed);
  entry.scarce_until_ns = now_ns + std::max(wait_ns, again_ns);
  entry.full_at_ns = now_ns + nanoseconds(grant.full_in).count();
  entry.available = grant.available;
  entry.share = static_cast<double>(grant.share);
}

LeaseTable::Stats LeaseTable::stats() const {
  Stats stats;
  stats.keys = impl_->keys.load(std::memory_order_relaxed);
  stats.evicted = impl_->evicted.load(std::memory_order_relaxed);
  stats.overflowed = impl_->overflowed.load(std::memory_order_relaxed);
  stats.overdrawn = impl_->overdrawn.load(std::memory_order_relaxed);
  stats.allowed = impl_->allowed.load(std::memory_order_relaxed);
  stats.refused = impl_->refused.load(std::memory_order_relaxed);
  stats.by_share = impl_->by_share.load(std::memory_order_relaxed);
  return stats;
}

bool LeaseTable::unavailable(TimePoint now) const { return !impl_->Heard(Ns(now)); }

}  // namespace gateway::dataplane
