#include "dataplane/limits/rate_limiter.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <list>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/hash/hash.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "common/base/digest.h"

namespace gateway::dataplane {
namespace {

constexpr int kShards = 64;
constexpr int kShardBits = 6;

// A sliding window remembers this many moments exactly; past them it counts in parts of the window.
constexpr size_t kExactMomentsMax = 64;
constexpr int64_t kPartsOfWindow = 192;
// Exact ones, one of each part, and the two parts that the window begins and ends in.
constexpr size_t kEntriesMax = kExactMomentsMax + kPartsOfWindow + 2;
// With a third more, forgotten entries are moved away once in a while, not with each new one.
constexpr size_t kEntryRoomMax = kEntriesMax + kEntriesMax / 3 + 1;

// Recovered keys that a new one drops from its shard: more than one, so that a past burst of keys goes away.
constexpr size_t kEvictionsPerInsert = 4;
// The same from every shard, if there is no room for the new one. Bounded, since a request waits for it.
constexpr size_t kEvictionsPerSweep = 64;
// Of so many of the oldest keys of a full shard the one that has used least gives its place away.
constexpr size_t kCheapCandidates = 16;

constexpr size_t kOverflowBuckets = 1024;

// Limits that are checked together without an allocation.
constexpr size_t kPlansInline = 4;

// A token bucket's debt is below 2^61 units.
constexpr int kDebtBits = 61;
constexpr int kShiftMax = 30;

// `Options` in the units of the hot path.
struct Limit {
  LimitAlgorithm algorithm = LimitAlgorithm::kSlidingWindow;
  uint32_t requests = 0;
  int64_t window_ns = 0;
  int64_t part_ns = 0;  // of the time that a key takes to recover
  int64_t wall_offset_ns = 0;
  // A token bucket's: a nanosecond is 2^shift units, a request costs `cost`, rounded up; all of the bucket `capacity`.
  uint32_t burst = 0;
  int shift = 0;
  int64_t cost = 0;
  int64_t capacity = 0;

  Limit() = default;
  explicit Limit(const RateLimiter::Options& options)
      : algorithm(options.algorithm),
        requests(options.requests),
        window_ns(std::max<int64_t>(1, std::chrono::nanoseconds(options.window).count())),
        wall_offset_ns(options.wall_offset.count()),
        burst(options.burst > 0 ? options.burst : options.requests) {
    int64_t recovery_ns = window_ns;
    if (algorithm == LimitAlgorithm::kTokenBucket && requests > 0) {
      const double full_ns = static_cast<double>(window_ns) * std::max<double>(burst, requests) / requests;
      shift = std::clamp(kDebtBits - 1 - std::ilogb(full_ns), 0, kShiftMax);
      const int64_t scaled = window_ns << shift;
      cost = scaled / requests + (scaled % requests != 0 ? 1 : 0);
      burst = static_cast<uint32_t>(std::min<int64_t>(burst, (int64_t{1} << kDebtBits) / cost));
      capacity = cost * burst;
      recovery_ns = capacity >> shift;
    }
    part_ns = std::max<int64_t>(1, recovery_ns / kPartsOfWindow);
  }

  int64_t FixedIndex(int64_t now_ns) const {
    const int64_t wall_ns = now_ns + wall_offset_ns;
    return wall_ns >= 0 ? wall_ns / window_ns : -((-wall_ns + window_ns - 1) / window_ns);
  }
  int64_t FixedEnd(int64_t index) const { return (index + 1) * window_ns - wall_offset_ns; }
};

int64_t Debt(int64_t units, int64_t of_ns, int64_t now_ns, int shift) {
  const int64_t elapsed = std::max<int64_t>(0, now_ns - of_ns);
  return elapsed > (units >> shift) ? 0 : units - (elapsed << shift);
}
int64_t CeilShift(int64_t units, int shift) { return (units + (int64_t{1} << shift) - 1) >> shift; }

// When one key was admitted, in the order of time.
class Window {
 public:
  // Forgets what came at `horizon` or before.
  void Expire(int64_t horizon) {
    if (begin_ == entries_.size()) return;
    if (entries_.back().ns <= horizon) {
      entries_.clear();
      begin_ = 0;
      total_ = 0;
      return;
    }
    while (entries_[begin_].ns <= horizon) total_ -= entries_[begin_++].count;
  }

  // Requires: Expire was called for this time, and nothing was added at a later one.
  void Add(int64_t now_ns, uint32_t count, int64_t part_ns) {
    total_ += count;
    const size_t size = entries_.size() - begin_;
    if (size > 0) {
      Entry& last = entries_.back();
      if (last.ns == now_ns || (size >= kExactMomentsMax && last.ns / part_ns == now_ns / part_ns)) {
        last.ns = now_ns;
        last.count += count;
        return;
      }
    }
    if (entries_.size() == entries_.capacity()) {
      if (begin_ > 0 && (begin_ >= entries_.capacity() / 4 || entries_.capacity() >= kEntryRoomMax)) {
        entries_.erase(entries_.begin(), entries_.begin() + begin_);
        begin_ = 0;
      } else {
        // Once all exact moments are there, more come so seldom that each would be an allocation in a warm process.
        const size_t doubled = entries_.capacity() * 2;
        entries_.reserve(std::min(doubled == kExactMomentsMax ? doubled * 3 / 2 : doubled, kEntryRoomMax));
      }
    }
    entries_.push_back({now_ns, count});
  }

  // One of the requests of this moment, or else of the last before it.
  void Remove(int64_t at_ns) {
    for (size_t i = entries_.size(); i-- > begin_;) {
      if (entries_[i].ns > at_ns || entries_[i].count == 0) continue;
      --entries_[i].count;
      --total_;
      return;
    }
  }

  uint32_t total() const { return total_; }
  bool empty() const { return begin_ == entries_.size(); }
  int64_t last_ns() const { return entries_.back().ns; }

  // The moment with which the oldest `count` requests are gone. Requires: 0 < count <= total().
  int64_t MomentThatFrees(uint32_t count) const {
    size_t i = begin_;
    for (uint32_t freed = entries_[i].count; freed < count; freed += entries_[i].count) ++i;
    return entries_[i].ns;
  }

  template <typename Function>
  void ForEach(Function function) const {
    for (size_t i = begin_; i < entries_.size(); ++i) function(entries_[i].ns, entries_[i].count);
  }

 private:
  struct Entry {
    int64_t ns;
    uint32_t count;
  };
  absl::InlinedVector<Entry, 1> entries_;
  uint32_t begin_ = 0;  // entries before it are forgotten
  uint32_t total_ = 0;
};

// What it owes, at a time (GCRA's theoretical arrival time, taken apart so that a fraction of a nanosecond counts).
struct TokenBucket {
  int64_t debt = 0;
  int64_t of_ns = 0;
};

struct FixedWindow {
  int64_t index = 0;
  uint32_t count = 0;
};

using Bucket = std::variant<Window, TokenBucket, FixedWindow>;

Bucket EmptyBucket(LimitAlgorithm algorithm) {
  switch (algorithm) {
    case LimitAlgorithm::kTokenBucket:
      return TokenBucket();
    case LimitAlgorithm::kFixedWindow:
      return FixedWindow();
    case LimitAlgorithm::kSlidingWindow:
      break;
  }
  return Bucket(std::in_place_type<Window>);
}

// When nothing of it counts any more.
int64_t RecoveredNs(const Limit& limit, const Bucket& bucket) {
  if (const auto* tokens = std::get_if<TokenBucket>(&bucket)) {
    return tokens->of_ns + CeilShift(tokens->debt, limit.shift);
  }
  if (const auto* fixed = std::get_if<FixedWindow>(&bucket)) {
    return fixed->count == 0 ? 0 : limit.FixedEnd(fixed->index);
  }
  const auto& window = std::get<Window>(bucket);
  return window.empty() ? 0 : window.last_ns() + limit.window_ns;
}

// Says what becomes of a request at `now_ns`; Take counts it.
RateLimitDecision Look(const Limit& limit, Bucket& bucket, int64_t now_ns) {
  RateLimitDecision decision;
  int64_t reset_ns = limit.window_ns;
  if (auto* window = std::get_if<Window>(&bucket)) {
    window->Expire(now_ns - limit.window_ns);
    decision.limit = limit.requests;
    decision.allowed = window->total() < limit.requests;
    if (decision.allowed) {
      decision.remaining = limit.requests - window->total() - 1;
    } else if (limit.requests > 0) {
      reset_ns = window->MomentThatFrees(window->total() - limit.requests + 1) + limit.window_ns - now_ns;
    }
  } else if (const auto* tokens = std::get_if<TokenBucket>(&bucket)) {
    const int64_t debt = Debt(tokens->debt, tokens->of_ns, now_ns, limit.shift) + limit.cost;
    decision.limit = limit.requests == 0 ? 0 : limit.burst;
    decision.allowed = limit.requests > 0 && debt <= limit.capacity;
    if (decision.allowed) {
      decision.remaining = static_cast<uint32_t>((limit.capacity - debt) / limit.cost);
      reset_ns = CeilShift(debt, limit.shift);
    } else if (limit.requests > 0) {
      reset_ns = CeilShift(debt - limit.capacity, limit.shift);
    }
  } else {
    const auto& fixed = std::get<FixedWindow>(bucket);
    const int64_t index = limit.FixedIndex(now_ns);
    const uint32_t count = fixed.index == index ? fixed.count : 0;
    decision.limit = limit.requests;
    decision.allowed = count < limit.requests;
    if (decision.allowed) decision.remaining = limit.requests - count - 1;
    reset_ns = limit.FixedEnd(index) - now_ns;
  }
  decision.reset = std::chrono::ceil<std::chrono::milliseconds>(std::chrono::nanoseconds(reset_ns));
  return decision;
}

// Requires: Look has allowed it, at this time.
void Take(const Limit& limit, Bucket& bucket, int64_t now_ns) {
  if (auto* window = std::get_if<Window>(&bucket)) {
    window->Add(now_ns, 1, limit.part_ns);
  } else if (auto* tokens = std::get_if<TokenBucket>(&bucket)) {
    tokens->debt = Debt(tokens->debt, tokens->of_ns, now_ns, limit.shift) + limit.cost;
    tokens->of_ns = now_ns;
  } else {
    auto& fixed = std::get<FixedWindow>(bucket);
    const int64_t index = limit.FixedIndex(now_ns);
    if (fixed.index != index) fixed = {index, 0};
    ++fixed.count;
  }
}

void GiveBack(const Limit& limit, Bucket& bucket, int64_t at_ns) {
  if (auto* window = std::get_if<Window>(&bucket)) {
    window->Remove(at_ns);
  } else if (auto* tokens = std::get_if<TokenBucket>(&bucket)) {
    tokens->debt = std::max<int64_t>(0, tokens->debt - limit.cost);
  } else if (auto& fixed = std::get<FixedWindow>(bucket); fixed.count > 0 && fixed.index == limit.FixedIndex(at_ns)) {
    --fixed.count;
  }
}

// `count` requests at `ns`, whether they are allowed or not.
void Load(const Limit& limit, Bucket& bucket, int64_t ns, uint32_t count) {
  if (auto* window = std::get_if<Window>(&bucket)) {
    window->Add(ns, count, limit.part_ns);
  } else if (auto* tokens = std::get_if<TokenBucket>(&bucket)) {
    const double added = static_cast<double>(limit.cost) * count;
    const double debt = static_cast<double>(Debt(tokens->debt, tokens->of_ns, ns, limit.shift)) + added;
    tokens->debt = static_cast<int64_t>(std::min(debt, std::ldexp(1.0, kDebtBits)));
    tokens->of_ns = ns;
  } else {
    auto& fixed = std::get<FixedWindow>(bucket);
    const int64_t index = limit.FixedIndex(ns);
    if (fixed.index != index) fixed = {index, 0};
    fixed.count += count;
  }
}

// The same requests under another limit.
Bucket Converted(const Limit& from, const Limit& to, Bucket bucket, int64_t now_ns) {
  (void)Look(from, bucket, now_ns);  // forgets what has recovered under the old one
  if (std::holds_alternative<Window>(bucket) && to.algorithm == LimitAlgorithm::kSlidingWindow) {
    std::get<Window>(bucket).Expire(now_ns - to.window_ns);
    return bucket;
  }
  Bucket result = EmptyBucket(to.algorithm);
  if (const auto* window = std::get_if<Window>(&bucket)) {
    window->ForEach([&](int64_t ns, uint32_t count) { Load(to, result, ns, count); });
  } else if (const auto* tokens = std::get_if<TokenBucket>(&bucket)) {
    const int64_t debt = Debt(tokens->debt, tokens->of_ns, now_ns, from.shift);
    if (to.algorithm == LimitAlgorithm::kTokenBucket && from.cost > 0) {
      const double same = static_cast<double>(debt) / static_cast<double>(from.cost) * static_cast<double>(to.cost);
      result = TokenBucket{static_cast<int64_t>(std::min(std::ceil(same), std::ldexp(1.0, kDebtBits))), now_ns};
    } else if (debt > 0 && from.cost > 0) {
      const int64_t count = (debt + from.cost - 1) / from.cost;
      Load(to, result, now_ns, static_cast<uint32_t>(std::min<int64_t>(count, ~uint32_t{0})));
    }
  } else if (const auto& fixed = std::get<FixedWindow>(bucket);
             fixed.count > 0 && fixed.index == from.FixedIndex(now_ns)) {
    Load(to, result, now_ns, fixed.count);
  }
  return result;
}

struct KeyHash {
  size_t operator()(std::string_view key) const {
    return absl::Hash<absl::string_view>()(absl::string_view(key.data(), key.size()));
  }
};

int64_t Nanoseconds(TimePoint now) {
  return std::max<int64_t>(0, std::chrono::nanoseconds(now.time_since_epoch()).count());
}

}  // namespace

bool IsTighter(const RateLimitDecision& a, const RateLimitDecision& b) {
  if (a.allowed != b.allowed) return !a.allowed;
  if (a.allowed && a.remaining != b.remaining) return a.remaining < b.remaining;
  return a.reset > b.reset;
}

// Some of the keys. Time never goes back in a shard: a `now` behind the latest is taken for the latest, so that what
// one worker saw recover is not admitted again in another's past.
struct alignas(64) RateLimiter::Shard {
  struct Key {
    std::string name;
    Bucket bucket;
    int64_t placed_ns;  // when it came to the end of the list
    ClientPrefix client;
  };
  // In the order of their last requests, to a part of a window: none is much closer to recovery than the first.
  using Keys = std::list<Key>;

  explicit Shard(const Limit& initial) : limit(initial) {}

  absl::Mutex mutex;
  Limit limit ABSL_GUARDED_BY(mutex);
  int64_t latest_ns ABSL_GUARDED_BY(mutex) = 0;
  Keys keys ABSL_GUARDED_BY(mutex);
  absl::flat_hash_map<std::string_view, Keys::iterator, KeyHash, std::equal_to<>> index ABSL_GUARDED_BY(mutex);
  uint64_t allowed ABSL_GUARDED_BY(mutex) = 0;
  uint64_t refused ABSL_GUARDED_BY(mutex) = 0;
  uint64_t shadow_refused ABSL_GUARDED_BY(mutex) = 0;

  int64_t Advance(TimePoint now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    return latest_ns = std::max(latest_ns, Nanoseconds(now));
  }

  void Drop(Keys::iterator key, KeyShares* shares) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    shares->Release(key->client);
    index.erase(std::string_view(key->name));
    keys.erase(key);
  }

  // Drops recovered keys; says how many.
  size_t Evict(int64_t now_ns, size_t evictions_max, KeyShares* shares) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    size_t evicted = 0;
    while (evicted < evictions_max && !keys.empty() && RecoveredNs(limit, keys.front().bucket) <= now_ns) {
      Drop(keys.begin(), shares);
      ++evicted;
    }
    return evicted;
  }

  // Drops the one of the oldest keys that has used least, if that is no more than half of the limit.
  bool EvictCheap(int64_t now_ns, KeyShares* shares) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    auto cheapest = keys.end();
    uint32_t least = 0;
    size_t looked = 0;
    for (auto at = keys.begin(); at != keys.end() && looked < kCheapCandidates; ++at, ++looked) {
      const RateLimitDecision decision = dataplane::Look(limit, at->bucket, now_ns);
      if (!decision.allowed) continue;
      const uint32_t used = decision.limit - decision.remaining - 1;
      if (used > decision.limit / 2 || (cheapest != keys.end() && used >= least)) continue;
      cheapest = at;
      least = used;
    }
    if (cheapest == keys.end()) return false;
    Drop(cheapest, shares);
    return true;
  }

  void Count(bool was_allowed, bool shadow) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    ++(was_allowed ? allowed : shadow ? shadow_refused : refused);
  }
};

struct RateLimiter::Impl {
  explicit Impl(const Options& options)
      : shards(MakeShards(Limit(options), std::make_index_sequence<kShards>())), keys_max(options.keys_max) {}
  ~Impl() { delete overflow.load(std::memory_order_acquire); }

  template <size_t... I>
  static std::array<Shard, kShards> MakeShards(const Limit& limit, std::index_sequence<I...>) {
    return {((void)I, Shard(limit))...};
  }

  Shard& ShardOf(size_t hash) { return shards[hash >> (8 * sizeof hash - kShardBits)]; }

  // A place for one more key of `client`; else in whose bucket it is counted. Requires: the lock of `shard`.
  KeyShares::Answer Reserve(const ClientPrefix& client, Shard* shard, int64_t now_ns) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    const size_t taken = keys.fetch_add(1, std::memory_order_relaxed);
    const size_t most = keys_max.load(std::memory_order_relaxed);
    KeyShares::Answer answer = shares.Take(client, taken < most ? most - taken : 0);
    if (answer.granted && taken < most) return answer;
    if (answer.granted && client.kind != ClientPrefix::Kind::kNone && shard->EvictCheap(now_ns, &shares)) {
      Dropped(1);
      return answer;
    }
    keys.fetch_sub(1, std::memory_order_relaxed);
    if (answer.granted) {
      shares.Release(client);
      answer = {false, client};
    }
    return answer;
  }
  void Unreserve(const ClientPrefix& client) {
    keys.fetch_sub(1, std::memory_order_relaxed);
    shares.Release(client);
  }
  bool full() const { return keys.load(std::memory_order_relaxed) >= keys_max.load(std::memory_order_relaxed); }

  void Dropped(size_t count) {
    if (count == 0) return;
    keys.fetch_sub(count, std::memory_order_relaxed);
    evicted.fetch_add(count, std::memory_order_relaxed);
  }

  void SweepIfDue(TimePoint now);

  // What clients that have exhausted their share are limited by. Locked after all shards, never before one.
  struct OverflowBucket {
    absl::Mutex mutex;
    Limit limit ABSL_GUARDED_BY(mutex);
    int64_t latest_ns ABSL_GUARDED_BY(mutex) = 0;
    Bucket bucket ABSL_GUARDED_BY(mutex);
    ClientPrefix whose ABSL_GUARDED_BY(mutex);  // who was counted in it last
  };
  struct Overflow {
    explicit Overflow(const Limit& limit) {
      for (OverflowBucket& each : buckets) {
        absl::MutexLock lock(&each.mutex);
        each.limit = limit;
        each.bucket = EmptyBucket(limit.algorithm);
      }
    }
    OverflowBucket& Of(const ClientPrefix& client) {
      const std::string_view bits(reinterpret_cast<const char*>(&client.bits), sizeof client.bits);
      const char kind = static_cast<char>(client.kind);
      return buckets[DigestHash()(digest.Of({bits, {&kind, 1}})) % kOverflowBuckets];
    }
    const KeyedDigest digest = KeyedDigest::Random();
    std::array<OverflowBucket, kOverflowBuckets> buckets;
  };
  // Made when it is needed first.
  Overflow& FindOverflow(const Limit& limit) {
    if (Overflow* known = overflow.load(std::memory_order_acquire)) return *known;
    auto made = std::make_unique<Overflow>(limit);
    Overflow* known = nullptr;
    if (overflow.compare_exchange_strong(known, made.get(), std::memory_order_acq_rel)) return *made.release();
    return *known;
  }
  Bucket OverflowCopy(const ClientPrefix& client, const Limit& limit, int64_t now_ns);
  void NoteOverflow(int64_t recovered_ns) {
    int64_t until = overflow_until_ns.load(std::memory_order_relaxed);
    while (until < recovered_ns &&
           !overflow_until_ns.compare_exchange_weak(until, recovered_ns, std::memory_order_relaxed)) {
    }
  }

  std::array<Shard, kShards> shards;
  KeyShares shares;
  std::atomic<Overflow*> overflow{nullptr};
  std::atomic<int64_t> overflow_until_ns{0};  // when all of it will have recovered

  std::atomic<size_t> keys_max;
  std::atomic<size_t> keys{0};
  std::atomic<uint64_t> evicted{0};
  std::atomic<uint64_t> overflowed{0};
  std::atomic<int64_t> sweep_due_ns{0};
  std::atomic<int64_t> sweep_pause_ns{0};
};

// If there is no room for another key, drops recovered ones of all shards: once a part of a window, so that made-up
// keys do not make it the cost of each request. Requires: the caller holds no lock.
void RateLimiter::Impl::SweepIfDue(TimePoint now) {
  const int64_t now_ns = Nanoseconds(now);
  int64_t due = sweep_due_ns.load(std::memory_order_relaxed);
  const int64_t next = now_ns + sweep_pause_ns.load(std::memory_order_relaxed);
  if (now_ns < due || !sweep_due_ns.compare_exchange_strong(due, next, std::memory_order_relaxed)) return;
  for (Shard& shard : shards) {
    absl::MutexLock lock(&shard.mutex);
    Dropped(shard.Evict(shard.Advance(now), kEvictionsPerSweep, &shares));
  }
}

// What a new key of `client` begins with: it may have been in the client's overflow bucket before, or in its site's,
// and which part of that was its own is not known. A bucket that somebody else used last counts for nothing: whoever
// collides with a flood, and has a place, is not to pay for it.
Bucket RateLimiter::Impl::OverflowCopy(const ClientPrefix& client, const Limit& limit, int64_t now_ns) {
  Overflow* const known = overflow.load(std::memory_order_acquire);
  if (known == nullptr || now_ns >= overflow_until_ns.load(std::memory_order_relaxed)) {
    return EmptyBucket(limit.algorithm);
  }
  const std::array<ClientPrefix, 2> prefixes = {client, client.site()};
  for (size_t i = 0; i < (prefixes[0] == prefixes[1] ? 1 : 2); ++i) {
    const ClientPrefix& prefix = prefixes[i];
    OverflowBucket& each = known->Of(prefix);
    absl::MutexLock lock(&each.mutex);
    if (each.whose != prefix || RecoveredNs(each.limit, each.bucket) <= now_ns) continue;
    // In the middle of a Reconfigure the shard has the new limit already.
    const bool same = each.limit.algorithm == limit.algorithm && each.limit.window_ns == limit.window_ns &&
                      each.limit.cost == limit.cost && each.limit.shift == limit.shift;
    return same ? each.bucket : Converted(each.limit, limit, each.bucket, now_ns);
  }
  return EmptyBucket(limit.algorithm);
}

// One check on its way through AdmitTogether. Holds the locks that it took until it is destroyed.
struct RateLimiter::Plan {
  Plan(Check* of, size_t key_hash, Shard* key_shard) : check(of), hash(key_hash), shard(key_shard) {}
  Plan(const Plan&) = delete;
  ~Plan() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    if (reserved) check->limiter->impl_->Unreserve(check->client);
    if (overflow != nullptr) overflow->mutex.Unlock();
    if (locked) shard->mutex.Unlock();
  }

  void Lock() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    shard->mutex.Lock();
    locked = true;
  }

  // Finds the key's bucket, and what it says. Requires: all plans before this one, and all shards, are locked.
  void Look(TimePoint now) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    Impl& impl = *check->limiter->impl_;
    now_ns = shard->Advance(now);
    limit = &shard->limit;
    if (const auto at = shard->index.find(check->key, hash); at != shard->index.end()) {
      found = &*at->second;
      place = at->second;
      bucket = &found->bucket;
    } else {
      impl.Dropped(shard->Evict(now_ns, impl.full() ? kEvictionsPerSweep : kEvictionsPerInsert, &impl.shares));
      const KeyShares::Answer answer = impl.Reserve(check->client, shard, now_ns);
      reserved = answer.granted;
      if (reserved) {
        bucket = &fresh.emplace(impl.OverflowCopy(check->client, *limit, now_ns));
      } else {
        // Under the shard's lock, so that the key does not get a bucket of its own in the meantime, without this one.
        whose = answer.whose;
        overflow = &impl.FindOverflow(*limit).Of(whose);
        overflow->mutex.Lock();
        now_ns = overflow->latest_ns = std::max(overflow->latest_ns, now_ns);
        limit = &overflow->limit;
        bucket = &overflow->bucket;
      }
    }
    check->decision = dataplane::Look(*limit, *bucket, now_ns);
  }

  void Consume() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    Take(*limit, *bucket, now_ns);
    if (overflow != nullptr) {
      overflow->whose = whose;
      check->limiter->impl_->NoteOverflow(RecoveredNs(*limit, *bucket));
      return;
    }
    if (found != nullptr) {
      if (now_ns - found->placed_ns >= limit->part_ns) {
        shard->keys.splice(shard->keys.end(), shard->keys, place);
        found->placed_ns = now_ns;
      }
    } else {
      shard->keys.push_back({std::string(check->key), *std::move(fresh), now_ns, check->client});
      place = std::prev(shard->keys.end());
      shard->index.emplace(std::string_view(place->name), place);
      reserved = false;  // taken
    }
  }

  void Count() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    shard->Count(check->decision.allowed, check->shadow);
    if (overflow != nullptr) check->limiter->impl_->overflowed.fetch_add(1, std::memory_order_relaxed);
  }

  Check* const check;
  const size_t hash;
  Shard* const shard;
  bool locked = false;
  bool reserved = false;
  Impl::OverflowBucket* overflow = nullptr;  // locked
  ClientPrefix whose;                        // with `overflow`
  int64_t now_ns = 0;
  const Limit* limit = nullptr;
  Shard::Key* found = nullptr;
  Shard::Keys::iterator place;
  std::optional<Bucket> fresh;
  Bucket* bucket = nullptr;
};

// The plans of one AdmitTogether. None is moved: others point at what it holds.
class RateLimiter::PlanList {
 public:
  explicit PlanList(size_t size) {
    if (size > kPlansInline) {
      more_ = std::make_unique<std::byte[]>(size * sizeof(Plan));
      plans_ = reinterpret_cast<Plan*>(more_.get());
    }
  }
  PlanList(const PlanList&) = delete;
  ~PlanList() { std::destroy(begin(), end()); }  // unlocks, whatever was thrown

  Plan& Add(Check* check, size_t hash, Shard* shard) { return *new (plans_ + count_++) Plan(check, hash, shard); }
  Plan* begin() { return plans_; }
  Plan* end() { return plans_ + count_; }

 private:
  static_assert(alignof(Plan) <= __STDCPP_DEFAULT_NEW_ALIGNMENT__);
  alignas(Plan) std::byte room_[kPlansInline * sizeof(Plan)];
  std::unique_ptr<std::byte[]> more_;
  Plan* plans_ = reinterpret_cast<Plan*>(room_);
  size_t count_ = 0;
};

bool RateLimiter::AdmitTogether(std::span<Check> checks, TimePoint now) {
  if (checks.size() == 1) {
    Check& check = checks.front();
    check.limiter->AdmitAlone(&check, now);
    return check.decision.allowed || check.shadow;
  }
  // Locks are taken in the order of their addresses, so that no two requests wait for each other.
  absl::InlinedVector<Check*, kPlansInline> order;
  for (Check& check : checks) {
    if (check.limiter->impl_->full()) check.limiter->impl_->SweepIfDue(now);
    size_t i = order.size();
    order.push_back(&check);
    for (; i > 0 && check.limiter->impl_.get() < order[i - 1]->limiter->impl_.get(); --i) order[i] = order[i - 1];
    order[i] = &check;
  }
  PlanList plans(order.size());
  for (Check* check : order) {
    const size_t hash = KeyHash()(check->key);
    plans.Add(check, hash, &check->limiter->impl_->ShardOf(hash)).Lock();
  }
  bool allowed = true;
  for (Plan& plan : plans) {
    plan.Look(now);
    allowed = allowed && (plan.check->decision.allowed || plan.check->shadow);
  }
  for (Plan& plan : plans) {
    const bool its_own = plan.check->decision.allowed;
    if (allowed && its_own) plan.Consume();
    if (allowed || !its_own) plan.Count();
  }
  return allowed;
}

void RateLimiter::AdmitAlone(Check* check, TimePoint now) {
  if (impl_->full()) impl_->SweepIfDue(now);
  const size_t hash = KeyHash()(check->key);
  Plan plan(check, hash, &impl_->ShardOf(hash));
  plan.Lock();
  plan.Look(now);
  if (check->decision.allowed) plan.Consume();
  plan.Count();
}

RateLimiter::RateLimiter(const Options& options) : impl_(std::make_unique<Impl>(options)) {
  impl_->sweep_pause_ns = Limit(options).part_ns;
}
RateLimiter::~RateLimiter() = default;

RateLimitDecision RateLimiter::Admit(std::string_view key, TimePoint now, const ClientPrefix& client) {
  Check check{this, key, false, client, {}};
  AdmitAlone(&check, now);
  return check.decision;
}

RateLimitDecision RateLimiter::Peek(std::string_view key, TimePoint now, const ClientPrefix& client) {
  Check check{this, key, false, client, {}};
  const size_t hash = KeyHash()(key);
  Plan plan(&check, hash, &impl_->ShardOf(hash));
  plan.Lock();
  plan.Look(now);
  return check.decision;
}

void RateLimiter::Refund(std::string_view key, TimePoint admitted) {
  const size_t hash = KeyHash()(key);
  Shard& shard = impl_->ShardOf(hash);
  absl::MutexLock lock(&shard.mutex);
  // Of the overflow bucket nothing is given back: whose it was is not known.
  if (const auto at = shard.index.find(key, hash); at != shard.index.end()) {
    GiveBack(shard.limit, at->second->bucket, Nanoseconds(admitted));
  }
}

void RateLimiter::Note(bool allowed, bool shadow) {
  Shard& shard = impl_->shards[0];
  absl::MutexLock lock(&shard.mutex);
  shard.Count(allowed, shadow);
}

void RateLimiter::Reconfigure(const Options& options, TimePoint now) {
  const Limit limit(options);
  impl_->keys_max.store(options.keys_max, std::memory_order_relaxed);
  impl_->sweep_pause_ns.store(limit.part_ns, std::memory_order_relaxed);
  // One shard after the other: requests wait for a fraction of the keys only.
  for (Shard& shard : impl_->shards) {
    absl::MutexLock lock(&shard.mutex);
    const int64_t now_ns = shard.Advance(now);
    for (Shard::Key& key : shard.keys) key.bucket = Converted(shard.limit, limit, std::move(key.bucket), now_ns);
    shard.limit = limit;
  }
  Impl::Overflow* const overflow = impl_->overflow.load(std::memory_order_acquire);
  if (overflow == nullptr) return;
  for (Impl::OverflowBucket& each : overflow->buckets) {
    absl::MutexLock lock(&each.mutex);
    const int64_t now_ns = each.latest_ns = std::max(each.latest_ns, Nanoseconds(now));
    each.bucket = Converted(each.limit, limit, std::move(each.bucket), now_ns);
    each.limit = limit;
    impl_->NoteOverflow(RecoveredNs(limit, each.bucket));
  }
}

RateLimiter::Stats RateLimiter::stats() const {
  Stats stats;
  stats.keys = impl_->keys.load(std::memory_order_relaxed);
  stats.evicted = impl_->evicted.load(std::memory_order_relaxed);
  stats.overflowed = impl_->overflowed.load(std::memory_order_relaxed);
  for (Shard& shard : impl_->shards) {
    absl::MutexLock lock(&shard.mutex);
    stats.allowed += shard.allowed;
    stats.refused += shard.refused;
    stats.shadow_refused += shard.shadow_refused;
  }
  return stats;
}

}  // namespace gateway::dataplane
