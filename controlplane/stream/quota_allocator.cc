#include "controlplane/stream/quota_allocator.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <optional>
#include <set>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "common/base/digest.h"
#include "common/base/text.h"

namespace gateway::controlplane {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;

constexpr milliseconds kTickMin{20};
constexpr milliseconds kTickMax{500};
constexpr int64_t kDataPlanesPerSecond = 5000;  // 37,000 messages a second at a thousand data planes
// A window is counted in this many slots of at least a millisecond: what was used in one leaves the window together.
constexpr int64_t kSlots = 128;
constexpr int64_t kSlotNsMin = 1'000'000;
// A data plane that is gone is remembered for this long, so that its return does not count anything twice.
constexpr std::chrono::minutes kGoneKept{10};
constexpr size_t kGoneMax = 10'000;
// What is told by the first word of a stream and is not older than this was overdrawn just now.
constexpr milliseconds kJustNow{500};
constexpr size_t kEvictionsPerTick = 1000;
// Of so many idle keys the one that has used least gives its place away.
constexpr size_t kCheapCandidates = 16;
// A limit may have as many keys as there are places left for others, and always so many.
constexpr size_t kLimitAlways = 1024;
constexpr size_t kOverflowCounts = 1024;  // of each limit

int64_t Ns(TimePoint now) { return std::max<int64_t>(0, nanoseconds(now.time_since_epoch()).count()); }

milliseconds CeilMs(int64_t ns) { return std::chrono::ceil<milliseconds>(nanoseconds(std::max<int64_t>(0, ns))); }

// What of one key was used, and how many tokens are there to lease. `outstanding` is always what is leased and not
// known to be used.
class TrueCount {
 public:
  TrueCount(const FleetLimit& limit, int64_t tick_ns, int64_t now_ns) : limit_(limit), refilled_ns_(now_ns) {
    Size(tick_ns);
    level_ = capacity_;
  }

  void Change(const FleetLimit& limit, int64_t tick_ns, int64_t now_ns) {
    const double full = capacity_;
    const bool kind_kept = (limit.algorithm == FleetAlgorithm::kTokenBucket) == is_bucket();
    const bool slots_kept = kind_kept && limit.window == limit_.window && limit.algorithm == limit_.algorithm;
    const int64_t content = is_bucket() ? 0 : Content(now_ns);
    limit_ = limit;
    Size(tick_ns);
    if (slots_kept) {
      level_ = std::min(level_ + (capacity_ - full), capacity_);  // what was used stays used
      return;
    }
    entries_.clear();
    begin_ = 0;
    total_ = 0;
    refilled_ns_ = now_ns;
    level_ = is_bucket() ? std::max(0.0, capacity_ - static_cast<double>(content)) : 0;
    if (!is_bucket() && content > 0) Add(content, now_ns);
  }

  // Tokens that can be leased now.
  int64_t Available(int64_t now_ns, int64_t outstanding, int64_t ahead_ns) {
    if (is_bucket()) {
      Refill(now_ns, outstanding);
      return static_cast<int64_t>(std::floor(level_));
    }
    const int64_t now_free = limit_.requests - Content(now_ns) - outstanding;
    const int64_t soon_free = limit_.requests - ContentAt(now_ns + ahead_ns) - outstanding;
    const auto early = static_cast<int64_t>(limit_.requests * QuotaAllocator::kEarlyShare);
    return std::min(soon_free, now_free + early);
  }

  void Lease(int64_t tokens) {
    if (is_bucket()) level_ -= static_cast<double>(tokens);
  }
  // Leased tokens were used.
  void Spend(int64_t tokens, int64_t now_ns) {
    if (!is_bucket() && tokens > 0) Add(tokens, now_ns);
  }
  // Requests went through without a lease.
  void Overdraw(int64_t tokens, int64_t now_ns) {
    if (tokens == 0) return;
    if (is_bucket()) {
      // Not further than one second's worth: what happened is not to be undone by silence.
      level_ = std::max(level_ - static_cast<double>(tokens), -std::max(capacity_, limit_.per_second()));
    } else {
      Add(tokens, now_ns);
    }
  }
  void Return(int64_t tokens) {
    if (is_bucket()) level_ = std::min(level_ + static_cast<double>(tokens), capacity_);
  }
  // Requests of the last `span` of which nothing was known here. They never make the key owe anything.
  void Adopt(int64_t tokens, int64_t span_ns, int64_t now_ns, int64_t outstanding) {
    if (is_bucket()) {
      Refill(now_ns, outstanding);
      level_ = std::min(level_, std::max(0.0, level_ - static_cast<double>(tokens)));
      return;
    }
    tokens = std::min(tokens, limit_.requests - Content(now_ns));
    if (tokens <= 0) return;
    const int64_t span = std::clamp<int64_t>(span_ns, 1, window_ns());
    // Evenly, oldest first; in no more parts than there are slots.
    const int64_t parts = std::clamp<int64_t>(span / slot_ns_, 1, std::min(kSlots, tokens));
    std::vector<Entry> old(entries_.begin() + begin_, entries_.end());
    std::map<int64_t, int64_t> merged;
    for (const Entry& entry : old) merged[entry.slot] += entry.count;
    for (int64_t i = 0; i < parts; ++i) {
      const int64_t count = tokens * (i + 1) / parts - tokens * i / parts;
      merged[SlotOf(now_ns - span + span * (i + 1) / parts)] += count;
    }
    entries_.clear();
    begin_ = 0;
    total_ = 0;
    for (const auto& [slot, count] : merged) {
      entries_.push_back({slot, count});
      total_ += count;
    }
  }

  // Until one more can be leased.
  milliseconds Wait(int64_t now_ns, int64_t outstanding) {
    if (is_bucket()) {
      Refill(now_ns, outstanding);
      return level_ >= 1 ? milliseconds(0) : CeilMs(static_cast<int64_t>((1 - level_) * 1e9 / limit_.per_second()));
    }
    int64_t excess = Content(now_ns) + outstanding - limit_.requests + 1;
    if (excess <= 0) return milliseconds(0);
    if (limit_.algorithm == FleetAlgorithm::kFixedWindow)
      return CeilMs((now_ns / window_ns() + 1) * window_ns() - now_ns);
    for (size_t i = begin_; i < entries_.size(); ++i) {
      excess -= entries_[i].count;
      if (excess <= 0) return CeilMs(LeavesNs(entries_[i].slot) - now_ns);
    }
    return entries_.size() == begin_ ? milliseconds(1) : CeilMs(LeavesNs(entries_.back().slot) - now_ns);
  }

  milliseconds FullIn(int64_t now_ns, int64_t outstanding) {
    if (is_bucket()) {
      Refill(now_ns, outstanding);
      return CeilMs(static_cast<int64_t>((capacity_ - level_) * 1e9 / limit_.per_second()));
    }
    if (Content(now_ns) == 0) return outstanding == 0 ? milliseconds(0) : limit_.window;
    if (limit_.algorithm == FleetAlgorithm::kFixedWindow)
      return CeilMs((now_ns / window_ns() + 1) * window_ns() - now_ns);
    return CeilMs(LeavesNs(entries_.back().slot) - now_ns);
  }

  bool Recovered(int64_t now_ns) {
    if (!is_bucket()) return Content(now_ns) == 0;
    Refill(now_ns, 0);
    return level_ >= capacity_;
  }

  // What of its capacity is used: 0 to 1, or more where it was overdrawn.
  double Used(int64_t now_ns) {
    if (!is_bucket()) return static_cast<double>(Content(now_ns)) / std::max<uint32_t>(1, limit_.requests);
    Refill(now_ns, 0);
    return 1 - level_ / std::max(1.0, capacity_);
  }

  const FleetLimit& limit() const { return limit_; }

 private:
  struct Entry {
    int64_t slot;
    int64_t count;
  };

  bool is_bucket() const { return limit_.algorithm == FleetAlgorithm::kTokenBucket; }
  int64_t window_ns() const { return std::max<int64_t>(1, nanoseconds(limit_.window).count()); }

  void Size(int64_t tick_ns) {
    slot_ns_ = limit_.algorithm == FleetAlgorithm::kFixedWindow
                   ? window_ns()
                   : std::max(kSlotNsMin, (window_ns() + kSlots - 1) / kSlots);
    // Less than what flows in some ticks would run over while it is on its way.
    const double flow = limit_.per_second() * QuotaAllocator::kTicksLeased * static_cast<double>(tick_ns) / 1e9;
    capacity_ = std::max<double>(limit_.burst == 0 ? limit_.requests : limit_.burst, std::ceil(flow));
  }

  void Refill(int64_t now_ns, int64_t outstanding) {
    if (now_ns <= refilled_ns_) return;
    const double more = static_cast<double>(now_ns - refilled_ns_) * limit_.per_second() / 1e9;
    refilled_ns_ = now_ns;
    // What is leased is a part of the burst, too; by half, since many data planes hold some that they do not use yet.
    const double most = std::max(level_, capacity_ - static_cast<double>(outstanding) / 2);
    level_ = std::min(level_ + more, most);
  }

  int64_t SlotOf(int64_t ns) const { return std::max<int64_t>(0, ns) / slot_ns_; }
  // The first slot of which a part is in the window that ends at `ns`.
  int64_t FirstSlot(int64_t ns) const {
    if (limit_.algorithm == FleetAlgorithm::kFixedWindow) return SlotOf(ns);
    return ns < window_ns() ? 0 : (ns - window_ns()) / slot_ns_;
  }
  int64_t LeavesNs(int64_t slot) const { return (slot + 1) * slot_ns_ + window_ns(); }

  int64_t Content(int64_t now_ns) {
    const int64_t first = FirstSlot(now_ns);
    while (begin_ < entries_.size() && entries_[begin_].slot < first) total_ -= entries_[begin_++].count;
    if (begin_ == entries_.size()) {
      entries_.clear();
      begin_ = 0;
    }
    return total_;
  }
  int64_t ContentAt(int64_t later_ns) const {
    int64_t content = total_;
    const int64_t first = FirstSlot(later_ns);
    for (size_t i = begin_; i < entries_.size() && entries_[i].slot < first; ++i) content -= entries_[i].count;
    return content;
  }

  void Add(int64_t count, int64_t now_ns) {
    (void)Content(now_ns);
    const int64_t slot = SlotOf(now_ns);
    total_ += count;
    if (begin_ < entries_.size() && entries_.back().slot >= slot) {
      entries_.back().count += count;
      return;
    }
    if (begin_ > 0 && entries_.size() == entries_.capacity()) {
      entries_.erase(entries_.begin(), entries_.begin() + static_cast<ptrdiff_t>(begin_));
      begin_ = 0;
    }
    entries_.push_back({slot, count});
  }

  FleetLimit limit_;
  int64_t slot_ns_ = 1;
  double capacity_ = 0;

  double level_ = 0;
  int64_t refilled_ns_ = 0;

  absl::InlinedVector<Entry, 2> entries_;  // by slot; those before begin_ are forgotten
  size_t begin_ = 0;
  int64_t total_ = 0;
};

struct Key;
struct Plane;

// What one data plane has of one key.
struct Holder {
  Plane* plane = nullptr;
  Key* key = nullptr;
  uint64_t id = 0;
  size_t index = 0;   // in Key::holders
  bool told = false;  // on the plane's present stream
  ClientPrefix client;
  uint64_t used = 0;
  uint64_t returned = 0;
  uint64_t granted = 0;
  int64_t balance = 0;  // leased, not known to be used
  uint32_t target = 0;
  float rate = 0;
  bool asked = false;  // a grant is due
};

struct Limit;

struct Key {
  Key(Limit* of, const FleetLimit& settings, std::string text, int64_t tick_ns, int64_t now_ns)
      : limit(of), name(std::move(text)), count(settings, tick_ns, now_ns) {}
  Limit* limit;
  std::string name;
  ClientPrefix client;  // whose share its place counts in
  TrueCount count;
  std::vector<Holder*> holders;
  int64_t outstanding = 0;
  double rate = 0;  // of all holders
  bool scarce = false;
  bool asked = false;  // in Impl::asked
  size_t turn = 0;     // whose the odd tokens are
};

struct Limit {
  std::string name;
  FleetLimit settings;
  bool gone = false;
  absl::flat_hash_map<std::string, std::unique_ptr<Key>> keys;
  absl::flat_hash_map<size_t, std::unique_ptr<Key>> overflow;  // of clients past their share, by a keyed hash
};

struct Plane {
  std::string name;
  std::string key;      // of Impl::planes: two processes of one name (a hand-over) are two
  uint64_t stream = 0;  // 0: gone
  int64_t gone_ns = 0;
  bool leases_ended = false;
  absl::flat_hash_map<std::pair<Limit*, uint64_t>, std::unique_ptr<Holder>> holders;
};

}  // namespace

struct QuotaAllocator::Impl {
  Impl(Options given, TimePoint now)
      : options(std::move(given)), settled_by_ns(Ns(now) + nanoseconds(kReturnWait).count()) {
    expected.insert(options.expected.begin(), options.expected.end());
  }

  int64_t tick_ns() const { return nanoseconds(Tick()).count(); }
  milliseconds Tick() const {
    return std::clamp(milliseconds(static_cast<int64_t>(streams.size()) * 1000 / kDataPlanesPerSecond), kTickMin,
                      kTickMax);
  }

  bool Settled(int64_t now_ns) {
    if (!settled && (expected.empty() || now_ns >= settled_by_ns)) settled = true;
    return settled;
  }

  void Ask(Key* key) {
    if (std::exchange(key->asked, true)) return;
    asked.push_back(key);
  }

  Key* FindKey(Limit* limit, const std::string& name, const ClientPrefix& client, int64_t now_ns) {
    if (const auto it = limit->keys.find(name); it != limit->keys.end()) return it->second.get();
    const size_t free = keys < options.keys_max ? options.keys_max - keys : 0;
    const bool limit_may = limit->keys.size() < std::max(kLimitAlways, free);
    const KeyShares::Answer answer = shares.Take(client, free);
    const bool known = client.kind != ClientPrefix::Kind::kNone;
    if (!answer.granted || !limit_may || (free == 0 && !(known && EvictCheap(now_ns)))) {
      if (answer.granted) shares.Release(client);
      ++counts.overflowed;
      const ClientPrefix& whose = answer.granted ? client : answer.whose;
      std::unique_ptr<Key>& shared =
          limit->overflow[known ? DigestHash()(digest.Of({whose.ToBytes()})) % kOverflowCounts : kOverflowCounts];
      if (shared == nullptr) shared = std::make_unique<Key>(limit, limit->settings, "", tick_ns(), now_ns);
      return shared.get();
    }
    ++keys;
    auto key = std::make_unique<Key>(limit, limit->settings, name, tick_ns(), now_ns);
    key->client = client;
    return limit->keys.emplace(name, std::move(key)).first->second.get();
  }

  void Drop(Limit* limit, const std::string& name) {
    const auto it = limit->keys.find(name);
    shares.Release(it->second->client);
    limit->keys.erase(it);
    --keys;
    ++counts.evicted;
  }

  // A key that nobody holds, or nothing.
  Key* FindIdle(const std::pair<std::string, std::string>& name) {
    const auto limit = limits.find(name.first);
    if (limit == limits.end()) return nullptr;
    const auto it = limit->second->keys.find(name.second);
    return it == limit->second->keys.end() || !it->second->holders.empty() ? nullptr : it->second.get();
  }

  // Of the keys that nobody has held for longest, forgets the one that has used least, if that is no more than half.
  bool EvictCheap(int64_t now_ns) {
    Key* cheapest = nullptr;
    double least = 0.5;
    for (size_t n = std::min(idle.size(), kCheapCandidates); n > 0; --n) {
      auto name = std::move(idle.front());
      idle.pop_front();
      Key* key = FindIdle(name);
      if (key == nullptr) continue;
      idle.push_back(std::move(name));
      const double used = key->count.Used(now_ns);
      if (key->asked || used > least || (cheapest != nullptr && used == least)) continue;
      cheapest = key;
      least = used;
    }
    if (cheapest == nullptr) return false;
    Drop(cheapest->limit, std::string(cheapest->name));
    return true;
  }

  // What it holds is not leased any more: given back, or used.
  static void Release(Holder* holder, bool used, int64_t now_ns) {
    const int64_t held = std::max<int64_t>(0, holder->balance);
    holder->key->outstanding -= held;
    if (used) {
      holder->key->count.Spend(held, now_ns);
    } else {
      holder->key->count.Return(held);
    }
    holder->balance = 0;
  }

  void Unlink(Holder* holder) {
    Key* key = holder->key;
    key->rate = std::max(0.0, key->rate - static_cast<double>(holder->rate));
    key->holders[holder->index] = key->holders.back();
    key->holders[holder->index]->index = holder->index;
    key->holders.pop_back();
    if (key->holders.empty()) idle.push_back({key->limit->name, key->name});
    holder_shares.Release(holder->client);
    --holders;
  }

  void Forget(Plane* plane, int64_t now_ns) {
    for (auto& [id, holder] : plane->holders) {
      Release(holder.get(), true, now_ns);
      Unlink(holder.get());
    }
    plane->holders.clear();
  }

  bool OnDemand(Plane* plane, Limit* limit, const KeyDemand& demand, int64_t now_ns) {
    auto it = plane->holders.find({limit, demand.id});
    if (it == plane->holders.end()) {
      if (!demand.first || demand.dropped || holders >= options.holders_max) return false;
      if (!holder_shares.Take(demand.client, options.holders_max - holders).granted) return false;
      auto made = std::make_unique<Holder>();
      made->plane = plane;
      made->client = demand.client;
      made->key = FindKey(limit, demand.key, demand.client, now_ns);
      made->id = demand.id;
      made->index = made->key->holders.size();
      made->used = demand.used - std::min(demand.recent, demand.used);
      made->key->holders.push_back(made.get());
      ++holders;
      it = plane->holders.emplace(std::pair(limit, demand.id), std::move(made)).first;
    }
    Holder* holder = it->second.get();
    Key* key = holder->key;
    if (!holder->told && !demand.first) return false;
    if (!holder->told) {
      // What it held on an earlier stream, it does not hold any more.
      Release(holder, false, now_ns);
      const uint64_t unknown =
          std::min(demand.used > holder->used ? demand.used - holder->used : uint64_t{0}, demand.recent);
      const auto count = static_cast<int64_t>(std::min<uint64_t>(unknown, key->count.limit().requests));
      if (demand.recent_span <= kJustNow && Settled(now_ns)) {
        key->count.Overdraw(count, now_ns);
      } else {
        key->count.Adopt(count, nanoseconds(demand.recent_span).count(), now_ns, key->outstanding);
      }
      holder->told = true;
      holder->granted = holder->returned = 0;
    } else {
      if (demand.returned > holder->returned) {
        const auto back = std::min<int64_t>(static_cast<int64_t>(demand.returned - holder->returned),
                                            std::max<int64_t>(0, holder->balance));
        holder->balance -= back;
        key->outstanding -= back;
        key->count.Return(back);
        holder->returned = demand.returned;
      }
      if (demand.used > holder->used) {
        const auto spent = static_cast<int64_t>(demand.used - holder->used);
        const int64_t covered = std::min(spent, std::max<int64_t>(0, holder->balance));
        holder->balance -= covered;
        key->outstanding -= covered;
        key->count.Spend(covered, now_ns);
        key->count.Overdraw(spent - covered, now_ns);
        counts.overdrawn += static_cast<uint64_t>(spent - covered);
        holder->granted += static_cast<uint64_t>(spent - covered);
      }
    }
    holder->used = std::max(holder->used, demand.used);
    if (demand.dropped) {
      Release(holder, false, now_ns);
      Unlink(holder);
      plane->holders.erase(it);
      return true;
    }
    holder->target = demand.target;
    key->rate = std::max(0.0, key->rate + static_cast<double>(demand.rate) - static_cast<double>(holder->rate));
    holder->rate = demand.rate;
    holder->asked = true;
    Ask(key);
    return true;
  }

  void Allocate(Key* key, int64_t now_ns, bool tick, const Sink& sink) {
    int64_t wanted = 0;
    for (Holder* holder : key->holders) {
      if (holder->asked) wanted += std::max<int64_t>(0, holder->target - holder->balance);
    }
    const int64_t ahead_ns = tick_ns() * 3 / 2;
    const int64_t available = std::max<int64_t>(0, key->count.Available(now_ns, key->outstanding, ahead_ns));
    // With nothing left nobody may overdraw, wanted or not.
    const bool scarce = wanted > available || available == 0;
    if (scarce && !tick) {
      // The rest of a tick's demands may be larger.
      key->scarce = true;
      Ask(key);
      return;
    }
    if (scarce || key->scarce) {
      // Who has the key and did not ask shall know, too.
      const bool news = scarce != key->scarce;
      for (Holder* holder : key->holders) holder->asked = holder->asked || (news && holder->told);
    }
    key->scarce = scarce;
    const size_t count = key->holders.size();
    const size_t turn = count == 0 ? 0 : key->turn++ % count;
    int64_t given = 0, seen = 0;
    for (size_t i = 0; i < count; ++i) {
      Holder* holder = key->holders[(turn + i) % count];
      if (!holder->asked) continue;
      const int64_t want = std::max<int64_t>(0, holder->target - holder->balance);
      int64_t part = want;
      if (scarce) {
        // In proportion: the sum of what was given so far is never off by more than the rounding of one.
        seen += want;
        part = wanted == 0
                   ? 0
                   : std::min(want, static_cast<int64_t>(static_cast<double>(available) * static_cast<double>(seen) /
                                                         static_cast<double>(wanted)) -
                                        given);
        part = std::max<int64_t>(0, part);
      }
      given += part;
      holder->balance += part;
      holder->granted += static_cast<uint64_t>(part);
    }
    key->count.Lease(given);
    key->outstanding += given;
    counts.leased += static_cast<uint64_t>(given);

    KeyGrant grant;
    grant.scarce = scarce;
    grant.wait = scarce ? key->count.Wait(now_ns, key->outstanding) : milliseconds(0);
    grant.full_in = key->count.FullIn(now_ns, key->outstanding);
    grant.available = static_cast<uint64_t>(std::max<int64_t>(0, key->count.Available(now_ns, key->outstanding, 0)));
    const double per_second = key->count.limit().per_second();
    for (Holder* holder : key->holders) {
      if (!std::exchange(holder->asked, false) || holder->plane->stream == 0) continue;
      grant.id = holder->id;
      grant.granted = holder->granted;
      const double part = key->rate > 1e-3 ? static_cast<double>(holder->rate) / key->rate
                                           : 1.0 / static_cast<double>(std::max<size_t>(1, streams.size()));
      grant.share = static_cast<float>(per_second * std::min(1.0, part));
      sink(holder->plane->stream, key->limit->name, grant);
    }
  }

  // Ends what data planes that are gone held, and forgets idle keys.
  void Housekeep(int64_t now_ns) {
    const int64_t ttl = nanoseconds(kLeaseTtl).count();
    for (size_t i = 0; i < gone.size();) {
      Plane* plane = gone[i];
      if (!plane->leases_ended && now_ns - plane->gone_ns >= ttl) {
        plane->leases_ended = true;
        for (auto& [id, holder] : plane->holders) {
          Release(holder.get(), true, now_ns);
          holder->key->rate = std::max(0.0, holder->key->rate - static_cast<double>(std::exchange(holder->rate, 0.0F)));
        }
      }
      if (now_ns - plane->gone_ns >= nanoseconds(kGoneKept).count() || gone.size() > kGoneMax) {
        Forget(plane, now_ns);
        gone.erase(gone.begin() + static_cast<ptrdiff_t>(i));
        planes.erase(std::string(plane->key));
      } else {
        ++i;
      }
    }
    for (size_t n = std::min(idle.size(), kEvictionsPerTick); n > 0; --n) {
      auto name = std::move(idle.front());
      idle.pop_front();
      Key* key = FindIdle(name);
      if (key == nullptr) continue;
      if (key->asked || !key->count.Recovered(now_ns)) {
        idle.push_back(std::move(name));
        continue;
      }
      Drop(key->limit, name.second);
    }
  }

  const Options options;
  const int64_t settled_by_ns;
  std::set<std::string> expected;
  bool settled = false;
  std::map<std::string, std::unique_ptr<Limit>, std::less<>> limits;
  std::map<std::string, std::unique_ptr<Plane>, std::less<>> planes;
  absl::flat_hash_map<StreamId, Plane*> streams;
  std::vector<Plane*> gone;
  std::vector<Key*> asked, asked_now;
  std::deque<std::pair<std::string, std::string>> idle;  // keys without holders
  uint64_t streams_ever = 0;
  size_t keys = 0, holders = 0;
  KeyShares shares, holder_shares;
  const KeyedDigest digest = KeyedDigest::Random();
  Stats counts;
};

QuotaAllocator::QuotaAllocator(Options options, TimePoint now)
    : impl_(std::make_unique<Impl>(std::move(options), now)) {}
QuotaAllocator::~QuotaAllocator() = default;

void QuotaAllocator::SetLimits(const std::map<std::string, FleetLimit>& limits, TimePoint now) {
  const int64_t now_ns = Ns(now);
  for (auto it = impl_->limits.begin(); it != impl_->limits.end();) {
    Limit* limit = it->second.get();
    const auto found = limits.find(it->first);
    if (found != limits.end()) {
      if (limit->settings != found->second) {
        limit->settings = found->second;
        for (auto& [name, key] : limit->keys) key->count.Change(found->second, impl_->tick_ns(), now_ns);
        for (auto& [hash, key] : limit->overflow) key->count.Change(found->second, impl_->tick_ns(), now_ns);
      }
      ++it;
      continue;
    }
    std::erase_if(impl_->asked, [limit](Key* key) { return key->limit == limit; });
    for (auto& [name, plane] : impl_->planes) {
      absl::erase_if(plane->holders, [this, limit](const auto& entry) {
        if (entry.first.first != limit) return false;
        --impl_->holders;
        impl_->holder_shares.Release(entry.second->client);
        return true;
      });
    }
    impl_->keys -= limit->keys.size();
    for (const auto& [name, key] : limit->keys) impl_->shares.Release(key->client);
    it = impl_->limits.erase(it);
  }
  for (const auto& [name, settings] : limits) {
    auto [it, fresh] = impl_->limits.emplace(name, nullptr);
    if (!fresh) continue;
    it->second = std::make_unique<Limit>();
    it->second->name = name;
    it->second->settings = settings;
  }
}

QuotaAllocator::StreamId QuotaAllocator::Attach(std::string_view name, std::string_view instance, TimePoint now) {
  (void)now;
  std::string key = Concat(name, "\n", instance);
  std::unique_ptr<Plane>& plane = impl_->planes[key];
  if (plane == nullptr) {
    plane = std::make_unique<Plane>();
    plane->name = name;
    plane->key = std::move(key);
  }
  if (plane->stream != 0) {
    impl_->streams.erase(plane->stream);
  } else {
    std::erase(impl_->gone, plane.get());
  }
  plane->leases_ended = false;
  for (auto& [id, holder] : plane->holders) holder->told = false;
  plane->stream = ++impl_->streams_ever;
  impl_->streams.emplace(plane->stream, plane.get());
  return plane->stream;
}

void QuotaAllocator::Detach(StreamId stream, TimePoint now) {
  const auto it = impl_->streams.find(stream);
  if (it == impl_->streams.end()) return;
  Plane* plane = it->second;
  plane->stream = 0;
  plane->gone_ns = Ns(now);
  plane->leases_ended = false;
  impl_->gone.push_back(plane);
  impl_->streams.erase(it);
}

bool QuotaAllocator::OnDemand(StreamId stream, std::string_view limit, const KeyDemand& demand, TimePoint now) {
  const auto plane = impl_->streams.find(stream);
  const auto found = impl_->limits.find(limit);
  if (plane == impl_->streams.end() || found == impl_->limits.end()) return false;
  return impl_->OnDemand(plane->second, found->second.get(), demand, Ns(now));
}

void QuotaAllocator::OnToldAll(StreamId stream, TimePoint now) {
  const auto it = impl_->streams.find(stream);
  if (it == impl_->streams.end()) return;
  impl_->expected.erase(it->second->name);
  (void)impl_->Settled(Ns(now));
}

void QuotaAllocator::Collect(TimePoint now, bool tick, const Sink& sink) {
  const int64_t now_ns = Ns(now);
  if (tick) impl_->Housekeep(now_ns);
  if (!impl_->Settled(now_ns)) return;
  impl_->asked_now.swap(impl_->asked);
  for (Key* key : impl_->asked_now) key->asked = false;
  for (Key* key : impl_->asked_now) {
    if (key->scarce && !tick) {
      impl_->Ask(key);
    } else {
      impl_->Allocate(key, now_ns, tick, sink);
    }
  }
  impl_->asked_now.clear();
}

milliseconds QuotaAllocator::tick() const { return impl_->Tick(); }
uint32_t QuotaAllocator::data_planes() const {
  const size_t expected = impl_->settled ? 0 : impl_->options.expected.size();
  return static_cast<uint32_t>(std::max(impl_->streams.size(), expected));
}
bool QuotaAllocator::settled() const { return impl_->settled; }

QuotaAllocator::Stats QuotaAllocator::stats() const {
  Stats stats = impl_->counts;
  stats.keys = impl_->keys;
  stats.holders = impl_->holders;
  return stats;
}

}  // namespace gateway::controlplane
