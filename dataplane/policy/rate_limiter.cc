#include "dataplane/policy/rate_limiter.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <list>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/hash/hash.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

namespace gateway::dataplane {
namespace {

constexpr int kShards = 64;
constexpr int kShardBits = 6;

// A window is counted in ticks of at least a millisecond, at most this many of them. A request is counted until its
// whole tick has left the window: late by at most a tick, never early.
constexpr int64_t kTicksMax = 256;
constexpr int64_t kTickNsMin = 1'000'000;

// Recovered keys that a new one drops from its shard: more than one, so that a past burst of keys goes away.
constexpr size_t kEvictionsPerInsert = 4;
// The same from every shard, where there is no place for the new one. Bounded, since a request waits for it.
constexpr size_t kEvictionsPerSweep = 64;

// `Options` in the units of the hot path.
struct Limit {
  uint32_t requests = 0;
  int64_t window_ns = 0;
  int64_t tick_ns = 0;

  explicit Limit(const SlidingWindowLimiter::Options& options)
      : requests(options.requests),
        window_ns(std::max<int64_t>(1, std::chrono::nanoseconds(options.window).count())),
        tick_ns(std::max(kTickNsMin, (window_ns + kTicksMax - 1) / kTicksMax)) {}

  int64_t TickOf(int64_t now_ns) const { return now_ns / tick_ns; }
  // The first tick of which a part may be in the window (now - window, now].
  int64_t FirstTick(int64_t now_ns) const { return now_ns < window_ns ? 0 : (now_ns - window_ns) / tick_ns; }
  // When all of a tick has left the window.
  int64_t RecoveredNs(int64_t tick) const { return (tick + 1) * tick_ns + window_ns; }
};

// What one key was admitted, tick by tick. At most kTicksMax + 1 entries of 8 bytes.
class Window {
 public:
  // Forgets the ticks before `first`.
  void Expire(int64_t first) {
    if (last_tick_ < first) {
      entries_.clear();
      begin_ = 0;
      total_ = 0;
      last_tick_ = kNever;
      return;
    }
    while (TickAt(begin_) < first) total_ -= entries_[begin_++].count;
  }

  bool RecoveredBefore(int64_t first) const { return last_tick_ < first; }

  // Requires: Expire was called for this time, so that at most kTicksMax ticks are left. False if `tick` was the last
  // one already. A tick before the last counts as the last: a worker's clock may be a little behind another's.
  bool Add(int64_t tick, uint32_t count) {
    total_ += count;
    if (begin_ < entries_.size() && tick <= last_tick_) {
      entries_.back().count += count;
      return false;
    }
    if (entries_.size() == entries_.capacity()) {
      if (begin_ > 0) {
        entries_.erase(entries_.begin(), entries_.begin() + begin_);
        begin_ = 0;
      } else {
        entries_.reserve(std::min<size_t>(entries_.capacity() * 2, kTicksMax + 1));
      }
    }
    entries_.push_back({static_cast<uint32_t>(tick), count});
    last_tick_ = tick;
    return true;
  }

  uint32_t total() const { return total_; }

  // The tick with which the oldest `count` requests are gone. Requires: 0 < count <= total().
  int64_t TickThatFrees(uint32_t count) const {
    size_t i = begin_;
    for (uint32_t freed = entries_[i].count; freed < count; freed += entries_[i].count) ++i;
    return TickAt(i);
  }

  // The same requests, in the ticks of another limit. None of them was later than now; which part of its tick each came
  // in is not known, so the last is assumed.
  Window Converted(const Limit& from, const Limit& to, int64_t now_ns) const {
    Window window;
    for (size_t i = begin_; i < entries_.size(); ++i) {
      const int64_t latest_ns = std::min((TickAt(i) + 1) * from.tick_ns - 1, now_ns);
      window.Expire(to.FirstTick(latest_ns));
      window.Add(to.TickOf(latest_ns), entries_[i].count);
    }
    return window;
  }

 private:
  static constexpr int64_t kNever = -1;

  struct Entry {
    uint32_t tick;  // the low bits; the rest follows from last_tick_, which is less than 2^32 ticks later
    uint32_t count;
  };

  int64_t TickAt(size_t i) const { return last_tick_ - (static_cast<uint32_t>(last_tick_) - entries_[i].tick); }

  absl::InlinedVector<Entry, 2> entries_;
  uint32_t begin_ = 0;  // entries before it are forgotten
  uint32_t total_ = 0;
  int64_t last_tick_ = kNever;
};

struct KeyHash {
  size_t operator()(std::string_view key) const {
    return absl::Hash<absl::string_view>()(absl::string_view(key.data(), key.size()));
  }
};

// Says what becomes of a request at `now_ns`, and counts it if `consume`. `new_tick`: whether it was the key's first in
// its tick.
RateLimitDecision Decide(const Limit& limit, Window& window, int64_t now_ns, bool consume, bool* new_tick) {
  window.Expire(limit.FirstTick(now_ns));
  RateLimitDecision decision;
  decision.limit = limit.requests;
  decision.allowed = window.total() < limit.requests;
  int64_t reset_ns;
  if (decision.allowed) {
    const int64_t tick = limit.TickOf(now_ns);
    decision.remaining = limit.requests - window.total() - 1;
    reset_ns = limit.RecoveredNs(tick);
    if (consume) *new_tick = window.Add(tick, 1);
  } else if (limit.requests == 0) {
    reset_ns = now_ns + limit.window_ns;
  } else {
    reset_ns = limit.RecoveredNs(window.TickThatFrees(window.total() - limit.requests + 1));
  }
  decision.reset = std::chrono::ceil<std::chrono::milliseconds>(std::chrono::nanoseconds(reset_ns - now_ns));
  return decision;
}

int64_t Nanoseconds(TimePoint now) {
  return std::max<int64_t>(0, std::chrono::nanoseconds(now.time_since_epoch()).count());
}

}  // namespace

// Some of the keys. Time never goes back in a shard: a `now` behind the latest is taken for the latest, so that what
// one worker saw recover is not admitted again in another's past.
struct alignas(64) SlidingWindowLimiter::Shard {
  struct Key {
    std::string name;
    Window window;
  };
  // In the order of their last ticks: where the first has not recovered, none has. (A key that began with a copy of
  // the overflow window may be a little out of order, which delays its eviction and nothing else.)
  using Keys = std::list<Key>;

  explicit Shard(const Limit& initial) : limit(initial) {}

  absl::Mutex mutex;
  Limit limit ABSL_GUARDED_BY(mutex);
  int64_t latest_ns ABSL_GUARDED_BY(mutex) = 0;
  Keys keys ABSL_GUARDED_BY(mutex);
  absl::flat_hash_map<std::string_view, Keys::iterator, KeyHash, std::equal_to<>> index ABSL_GUARDED_BY(mutex);

  int64_t Advance(TimePoint now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    return latest_ns = std::max(latest_ns, Nanoseconds(now));
  }

  // Drops recovered keys; says how many.
  size_t Evict(int64_t now_ns, size_t evictions_max) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    size_t evicted = 0;
    const int64_t first = limit.FirstTick(now_ns);
    while (evicted < evictions_max && !keys.empty() && keys.front().window.RecoveredBefore(first)) {
      index.erase(std::string_view(keys.front().name));
      keys.pop_front();
      ++evicted;
    }
    return evicted;
  }
};

struct SlidingWindowLimiter::Impl {
  explicit Impl(const Options& options)
      : shards(MakeShards(Limit(options), std::make_index_sequence<kShards>())),
        overflow(Limit(options)),
        keys_max(options.keys_max) {}

  template <size_t... I>
  static std::array<Shard, kShards> MakeShards(const Limit& limit, std::index_sequence<I...>) {
    return {((void)I, Shard(limit))...};
  }

  RateLimitDecision Count(std::string_view key, TimePoint now, bool consume);
  RateLimitDecision CountOverflow(TimePoint now, bool consume);
  Window OverflowWindow(const Limit& limit, int64_t now_ns);
  bool Reserve();
  void Dropped(size_t count);
  bool ClaimSweep(int64_t now_ns, int64_t tick_ns);
  void Sweep(TimePoint now);

  std::array<Shard, kShards> shards;

  // Shared by the keys past keys_max. Locked after a shard, never before.
  struct Overflow {
    explicit Overflow(const Limit& initial) : limit(initial) {}
    absl::Mutex mutex;
    Limit limit ABSL_GUARDED_BY(mutex);
    int64_t latest_ns ABSL_GUARDED_BY(mutex) = 0;
    Window window ABSL_GUARDED_BY(mutex);
  } overflow;
  std::atomic<int64_t> overflow_until_ns{0};  // when it will have recovered

  std::atomic<size_t> keys_max;
  std::atomic<size_t> keys{0};
  std::atomic<uint64_t> evicted{0};
  std::atomic<uint64_t> overflowed{0};
  std::atomic<int64_t> sweep_due_ns{0};
};

// A place for one more key, if there is one.
bool SlidingWindowLimiter::Impl::Reserve() {
  if (keys.fetch_add(1, std::memory_order_relaxed) < keys_max.load(std::memory_order_relaxed)) return true;
  keys.fetch_sub(1, std::memory_order_relaxed);
  return false;
}

void SlidingWindowLimiter::Impl::Dropped(size_t count) {
  keys.fetch_sub(count, std::memory_order_relaxed);
  evicted.fetch_add(count, std::memory_order_relaxed);
}

// Whether the caller shall sweep: once a tick, so that made-up keys do not make it the cost of each request.
bool SlidingWindowLimiter::Impl::ClaimSweep(int64_t now_ns, int64_t tick_ns) {
  int64_t due = sweep_due_ns.load(std::memory_order_relaxed);
  return now_ns >= due && sweep_due_ns.compare_exchange_strong(due, now_ns + tick_ns, std::memory_order_relaxed);
}

// Drops recovered keys of all shards. Requires: the caller holds no shard's lock.
void SlidingWindowLimiter::Impl::Sweep(TimePoint now) {
  for (Shard& shard : shards) {
    absl::MutexLock lock(&shard.mutex);
    Dropped(shard.Evict(shard.Advance(now), kEvictionsPerSweep));
  }
}

RateLimitDecision SlidingWindowLimiter::Impl::CountOverflow(TimePoint now, bool consume) {
  absl::MutexLock lock(&overflow.mutex);
  const int64_t now_ns = overflow.latest_ns = std::max(overflow.latest_ns, Nanoseconds(now));
  bool new_tick = false;
  const RateLimitDecision decision = Decide(overflow.limit, overflow.window, now_ns, consume, &new_tick);
  if (consume) overflowed.fetch_add(1, std::memory_order_relaxed);
  if (consume && decision.allowed) {
    overflow_until_ns.store(overflow.limit.RecoveredNs(overflow.limit.TickOf(now_ns)), std::memory_order_relaxed);
  }
  return decision;
}

// What a new key begins with: it may have been in the overflow window before, and which part of it was its own is not
// known.
Window SlidingWindowLimiter::Impl::OverflowWindow(const Limit& limit, int64_t now_ns) {
  if (now_ns >= overflow_until_ns.load(std::memory_order_relaxed)) return {};
  absl::MutexLock lock(&overflow.mutex);
  // In the middle of a Reconfigure the shard has the new limit already.
  return overflow.limit.tick_ns == limit.tick_ns ? overflow.window
                                                 : overflow.window.Converted(overflow.limit, limit, now_ns);
}

RateLimitDecision SlidingWindowLimiter::Impl::Count(std::string_view key, TimePoint now, bool consume) {
  const size_t hash = KeyHash()(key);
  Shard& shard = shards[hash >> (8 * sizeof hash - kShardBits)];
  for (bool swept = false;; swept = true) {
    {
      absl::MutexLock lock(&shard.mutex);
      const int64_t now_ns = shard.Advance(now);
      bool new_tick = false;
      if (const auto found = shard.index.find(key, hash); found != shard.index.end()) {
        const RateLimitDecision decision = Decide(shard.limit, found->second->window, now_ns, consume, &new_tick);
        if (new_tick) shard.keys.splice(shard.keys.end(), shard.keys, found->second);
        return decision;
      }
      const bool full = keys.load(std::memory_order_relaxed) >= keys_max.load(std::memory_order_relaxed);
      Dropped(shard.Evict(now_ns, full ? kEvictionsPerSweep : kEvictionsPerInsert));
      if (Reserve()) {
        Window window = OverflowWindow(shard.limit, now_ns);
        const RateLimitDecision decision = Decide(shard.limit, window, now_ns, consume, &new_tick);
        if (!consume || !decision.allowed) {
          keys.fetch_sub(1, std::memory_order_relaxed);
          return decision;
        }
        shard.keys.push_back({std::string(key), std::move(window)});
        const auto added = std::prev(shard.keys.end());
        shard.index.emplace(std::string_view(added->name), added);
        return decision;
      }
      // Under the shard's lock, so that the key does not get a window of its own in the meantime, without this request.
      if (swept || !ClaimSweep(now_ns, shard.limit.tick_ns)) return CountOverflow(now, consume);
    }
    Sweep(now);
  }
}

SlidingWindowLimiter::SlidingWindowLimiter(const Options& options) : impl_(std::make_unique<Impl>(options)) {}
SlidingWindowLimiter::~SlidingWindowLimiter() = default;

RateLimitDecision SlidingWindowLimiter::Admit(std::string_view key, TimePoint now) {
  return impl_->Count(key, now, true);
}

RateLimitDecision SlidingWindowLimiter::Peek(std::string_view key, TimePoint now) {
  return impl_->Count(key, now, false);
}

void SlidingWindowLimiter::Reconfigure(const Options& options, TimePoint now) {
  const Limit limit(options);
  impl_->keys_max.store(options.keys_max, std::memory_order_relaxed);
  const auto convert = [&limit](const Limit& from, Window& window, int64_t now_ns) {
    window.Expire(from.FirstTick(now_ns));
    if (from.tick_ns != limit.tick_ns) window = window.Converted(from, limit, now_ns);
  };
  // One shard after the other: requests wait for a fraction of the keys only.
  for (Shard& shard : impl_->shards) {
    absl::MutexLock lock(&shard.mutex);
    const int64_t now_ns = shard.Advance(now);
    for (Shard::Key& key : shard.keys) convert(shard.limit, key.window, now_ns);
    shard.limit = limit;
  }
  absl::MutexLock lock(&impl_->overflow.mutex);
  Impl::Overflow& overflow = impl_->overflow;
  const int64_t now_ns = overflow.latest_ns = std::max(overflow.latest_ns, Nanoseconds(now));
  convert(overflow.limit, overflow.window, now_ns);
  overflow.limit = limit;
  if (overflow.window.total() > 0) {
    impl_->overflow_until_ns.store(limit.RecoveredNs(limit.TickOf(now_ns)), std::memory_order_relaxed);
  }
}

SlidingWindowLimiter::Stats SlidingWindowLimiter::stats() const {
  return {impl_->keys.load(std::memory_order_relaxed), impl_->evicted.load(std::memory_order_relaxed),
          impl_->overflowed.load(std::memory_order_relaxed)};
}

}  // namespace gateway::dataplane
