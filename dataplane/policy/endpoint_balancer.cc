#include "dataplane/policy/endpoint_balancer.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <utility>

#include "absl/random/uniform_int_distribution.h"
#include "absl/random/uniform_real_distribution.h"
#include "common/base/hash.h"

namespace gateway::dataplane {
namespace {

// nginx' smooth weighted round robin over one whole period: in each turn everybody gains its weight, the richest is
// chosen and pays the sum of all. Among equals the first is chosen.
std::vector<uint32_t> MakeSchedule(const std::vector<uint32_t>& indices, const std::vector<uint64_t>& weights) {
  const uint64_t total = std::accumulate(weights.begin(), weights.end(), uint64_t{0});
  // All alike: the algorithm gives them in turn. Said here because thousands of endpoints of one weight are common, and
  // the algorithm is quadratic in them.
  if (total == weights.size()) return indices;
  std::vector<int64_t> current(weights.size(), 0);
  std::vector<uint32_t> schedule;
  schedule.reserve(total);
  for (uint64_t turn = 0; turn < total; ++turn) {
    size_t richest = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      current[i] += static_cast<int64_t>(weights[i]);
      if (current[i] > current[richest]) richest = i;
    }
    current[richest] -= static_cast<int64_t>(total);
    schedule.push_back(indices[richest]);
  }
  return schedule;
}

// The ratio of the weights in the smallest numbers; in coarser ones where their sum would exceed kScheduleMax.
std::vector<uint64_t> ReduceWeights(std::vector<uint64_t> weights) {
  uint64_t divisor = 0;
  for (const uint64_t weight : weights) divisor = std::gcd(divisor, weight);
  uint64_t total = 0;
  for (uint64_t& weight : weights) total += weight /= divisor;
  if (total <= EndpointBalancer::kScheduleMax) return weights;
  // One entry each is set aside for those that would be rounded to 0. (More endpoints than entries: one each.)
  const uint64_t count = weights.size();
  const uint64_t share = count < EndpointBalancer::kScheduleMax ? EndpointBalancer::kScheduleMax - count : 0;
  for (uint64_t& weight : weights) weight = std::max<uint64_t>(1, weight * share / total);
  return weights;
}

int64_t NanosOf(TimePoint time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

// In [0, 1).
double FractionOf(uint64_t hash) { return std::ldexp(static_cast<double>(hash >> 11), -53); }

bool Tried(const EndpointBalancer::PickInput& in, uint32_t index) {
  return !in.tried.empty() && std::find(in.tried.begin(), in.tried.end(), index) != in.tried.end();
}

}  // namespace

EndpointBalancer::EndpointBalancer(const Options& options, std::shared_ptr<const EndpointGroup> group,
                                   std::vector<Member> members)
    : options_(options), group_(std::move(group)), members_(std::move(members)) {
  std::vector<uint32_t> indices;
  std::vector<uint64_t> weights;
  bool any_local = false, any_other = false;
  for (uint32_t i = 0; i < members_.size(); ++i) {
    if (members_[i].weight == 0) continue;
    indices.push_back(i);
    weights.push_back(members_[i].weight);
    (members_[i].local ? any_local : any_other) = true;
  }
  if (indices.empty()) return;
  zoned_ = options_.prefer_local && any_local && any_other;
  mean_weight_ = static_cast<double>(std::accumulate(weights.begin(), weights.end(), uint64_t{0})) /
                 static_cast<double>(weights.size());
  schedule_ = options_.balance == Balance::kRoundRobin ? indices : MakeSchedule(indices, ReduceWeights(weights));
  for (Turns& turns : turns_) {
    turns.indices = std::make_unique<std::atomic<uint32_t>[]>(schedule_.size());
    if (!zoned_) break;
  }
  if (options_.balance == Balance::kRingHash) BuildRing();
  if (options_.balance == Balance::kMaglev) BuildTable();
  absl::MutexLock lock(&mutex_);
  Refresh();
}

// An endpoint's points depend on itself and on its weight against the average, so that they stay where they are when
// others come and go.
void EndpointBalancer::BuildRing() {
  uint32_t each = kRingPointsEach;
  while (each > 1 && uint64_t{each} * members_.size() > kRingPointsMax) each /= 2;
  for (uint32_t i = 0; i < members_.size(); ++i) {
    const Member& member = members_[i];
    if (member.weight == 0) continue;
    const auto points = static_cast<uint32_t>(
        std::clamp(std::round(each * member.weight / mean_weight_), 1.0, static_cast<double>(kRingPointsMax)));
    for (uint32_t n = 0; n < points; ++n) ring_.push_back({MixBits(member.identity ^ MixBits(n)), i});
  }
  std::sort(ring_.begin(), ring_.end(), [this](const Point& a, const Point& b) {
    return a.hash != b.hash ? a.hash < b.hash : members_[a.index].identity < members_[b.index].identity;
  });
}

// Each endpoint goes through the table's places in an order of its own and takes the next free one when it is its turn;
// a turn comes as often as its weight says. By identity, so that the order in which endpoints are named means nothing.
void EndpointBalancer::BuildTable() {
  struct Builder {
    uint32_t index;
    uint64_t offset, skip, next;
    uint64_t weight, due;
  };
  std::vector<Builder> builders;
  uint64_t weight_max = 0;
  for (uint32_t i = 0; i < members_.size(); ++i) {
    const Member& member = members_[i];
    if (member.weight == 0) continue;
    builders.push_back({i, MixBits(member.identity) % kMaglevSize,
                        MixBits(member.identity ^ MixBits(1)) % (kMaglevSize - 1) + 1, 0, member.weight, 0});
    weight_max = std::max<uint64_t>(weight_max, member.weight);
  }
  std::sort(builders.begin(), builders.end(), [this](const Builder& a, const Builder& b) {
    return members_[a.index].identity < members_[b.index].identity;
  });
  constexpr uint32_t kFree = ~0U;
  table_.assign(kMaglevSize, kFree);
  uint32_t taken = 0;
  for (uint64_t round = 1; taken < kMaglevSize; ++round) {
    for (Builder& builder : builders) {
      if (taken == kMaglevSize) break;
      if (round * builder.weight < builder.due) continue;
      builder.due += weight_max;
      uint64_t place;
      do {
        place = (builder.offset + builder.skip * builder.next++) % kMaglevSize;
      } while (table_[place] != kFree);
      table_[place] = builder.index;
      ++taken;
    }
  }
}

void EndpointBalancer::BringUpToDate() const {
  if (group_->changes.load(std::memory_order_acquire) == seen_.load(std::memory_order_relaxed)) return;
  if (!mutex_.TryLock()) return;  // somebody else is at it: the old lists will do for this one
  Refresh();
  mutex_.Unlock();
}

// Each number is read by itself: a Pick at the same time may see some old and some new ones, which costs it at worst an
// endpoint that has just been excluded.
void EndpointBalancer::Refresh() const {
  const uint64_t changes = group_->changes.load(std::memory_order_acquire);
  size_t all = 0, usable = 0;
  uint64_t weight[2] = {0, 0}, weight_usable[2] = {0, 0};
  int64_t starting_until = EndpointState::kAlways;
  for (const Member& member : members_) {
    if (member.weight == 0) continue;
    const int zone = zoned_ && !member.local ? 1 : 0;
    ++all;
    weight[zone] += member.weight;
    if (const int64_t since = member.state->serving_since(); since != EndpointState::kAlways) {
      starting_until = std::max(starting_until, since + options_.slow_start.count());
    }
    if (!member.state->usable()) continue;
    ++usable;
    weight_usable[zone] += member.weight;
  }
  const bool panic = usable < all && usable * 100 < all * options_.panic_percent;
  const uint64_t* serving = panic ? weight : weight_usable;
  uint64_t share = kWhole;
  if (zoned_ && serving[0] == 0) {
    share = 0;
  } else if (zoned_ && serving[1] > 0) {
    share = std::min<uint64_t>(kWhole, kWhole * serving[0] / weight[0] * 100 / std::max(options_.zone_min_percent, 1U));
  }
  uint32_t count[2] = {0, 0};
  for (const uint32_t index : schedule_) {
    const Member& member = members_[index];
    if (!panic && !member.state->usable()) continue;
    const int zone = zoned_ && !member.local ? 1 : 0;
    turns_[zone].indices[count[zone]++].store(index, std::memory_order_relaxed);
  }
  for (int zone = 0; zone < 2; ++zone) {
    turns_[zone].count.store(count[zone], std::memory_order_relaxed);
    turns_[zone].weight.store(serving[zone], std::memory_order_relaxed);
  }
  panic_.store(panic, std::memory_order_relaxed);
  local_share_.store(static_cast<uint32_t>(share), std::memory_order_relaxed);
  starting_until_.store(starting_until, std::memory_order_relaxed);
  seen_.store(changes, std::memory_order_release);
}

bool EndpointBalancer::panicking() const {
  BringUpToDate();
  return panic_.load(std::memory_order_relaxed);
}

bool EndpointBalancer::Usable(uint32_t index) const {
  if (index >= members_.size() || (members_[index].weight == 0 && !members_[index].draining)) return false;
  BringUpToDate();
  return panic_.load(std::memory_order_relaxed) || members_[index].state->usable();
}

bool EndpointBalancer::IsStarting(TimePoint now) const {
  return options_.slow_start.count() > 0 && NanosOf(now) < starting_until_.load(std::memory_order_relaxed);
}

double EndpointBalancer::RampOf(uint32_t index, TimePoint now) const {
  const int64_t since = members_[index].state->serving_since();
  if (since == EndpointState::kAlways) return 1;
  const double done = static_cast<double>(NanosOf(now) - since) / static_cast<double>(options_.slow_start.count());
  return std::clamp(done, options_.slow_start_min, 1.0);
}

int EndpointBalancer::Pick(std::atomic<uint64_t>& cursor, const PickInput& in) const {
  if (schedule_.empty()) return kNone;
  BringUpToDate();
  int zone = 0;
  if (const uint32_t share = local_share_.load(std::memory_order_relaxed); share < kWhole) {
    // The same user stays on the same side while the share does not move.
    const bool by_hash = in.hash && (!ring_.empty() || !table_.empty());
    const uint64_t draw = by_hash ? MixBits(*in.hash ^ 0x7a6f6e65) % kWhole
                                  : absl::uniform_int_distribution<uint32_t>(0, kWhole - 1)(in.random);
    zone = draw < share ? 0 : 1;
  }
  const int index = PickIn(zone, cursor, in);
  return index == kNone && zoned_ ? PickIn(1 - zone, cursor, in) : index;
}

int EndpointBalancer::PickIn(int zone, std::atomic<uint64_t>& cursor, const PickInput& in) const {
  switch (options_.balance) {
    case Balance::kRoundRobin:
    case Balance::kWeighted:
      return Draw(zone, &cursor, in);
    case Balance::kRandom:
      return Draw(zone, nullptr, in);
    case Balance::kLeastRequest:
    case Balance::kPeakEwma:
      return PickOfTwo(zone, in);
    case Balance::kRingHash:
      return in.hash ? PickOnRing(zone, in) : Draw(zone, nullptr, in);
    case Balance::kMaglev:
      return in.hash ? PickInTable(zone, in) : Draw(zone, nullptr, in);
  }
  return kNone;
}

// One in turn (with a cursor) or at random, in proportion to the turns. A turn of somebody who may not have it, or who
// is still starting and loses the draw for it, goes to whoever is next in turn, not to a neighbour: everybody gains.
int EndpointBalancer::Draw(int zone, std::atomic<uint64_t>* cursor, const PickInput& in, int avoid) const {
  const Turns& turns = turns_[zone];
  const uint32_t count = turns.count.load(std::memory_order_relaxed);
  if (count == 0) return kNone;
  const bool starting = IsStarting(in.now);
  const auto allowed = [&](uint32_t index) { return static_cast<int>(index) != avoid && !Tried(in, index); };
  int slow = kNone;
  for (int draw = 0; draw < (count == 1 ? 1 : kDrawsMax); ++draw) {
    const uint64_t turn = count == 1          ? 0
                          : cursor != nullptr ? cursor->fetch_add(1, std::memory_order_relaxed) % count
                                              : absl::uniform_int_distribution<uint32_t>(0, count - 1)(in.random);
    const uint32_t index = turns.indices[turn].load(std::memory_order_relaxed);
    if (!allowed(index)) continue;
    if (!starting) return static_cast<int>(index);
    const double ramp = RampOf(index, in.now);
    if (ramp >= 1 || absl::uniform_real_distribution<double>(0, 1)(in.random) < ramp) return static_cast<int>(index);
    slow = static_cast<int>(index);
  }
  if (slow != kNone) return slow;
  const auto begin = absl::uniform_int_distribution<uint32_t>(0, count - 1)(in.random);
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t index = turns.indices[(begin + i) % count].load(std::memory_order_relaxed);
    if (allowed(index)) return static_cast<int>(index);
  }
  return kNone;
}

// The weight is in the draw, so that endpoints with nothing to do get their share; and in the load, so that busy ones
// do.
double EndpointBalancer::LoadOf(uint32_t index, const PickInput& in) const {
  const Member& member = members_[index];
  const double in_flight = member.state->in_flight.load(std::memory_order_relaxed);
  double weight = member.weight / mean_weight_;
  if (IsStarting(in.now)) weight *= RampOf(index, in.now);
  if (options_.balance == Balance::kLeastRequest) return in_flight / weight;
  if (!member.state->latency.measured()) return kUnmeasuredCost * in_flight;
  const auto noise = static_cast<double>(kLatencyNoise.count());
  return (member.state->latency.Cost(in.now, options_.decay) + noise) * (in_flight / weight + 1);
}

// Whether the one that was drawn first stays, given the loads of both. With equal ones it does, so that the draws'
// weights are the shares. By latency it also stays now and then where the other is better, with the square of the ratio
// for its chance: always to take the better one lets the one with the last peak starve among equals, and whoever was
// slow for a while is not asked whether it still is. One that is twenty times slower gets one in 400 of its draws that
// way.
bool EndpointBalancer::KeepsFirst(double first, double second, const PickInput& in) const {
  if (!(second < first)) return true;
  if (options_.balance != Balance::kPeakEwma) return false;
  const double ratio = second / first;
  return absl::uniform_real_distribution<double>(0, 1)(in.random) < ratio * ratio;
}

int EndpointBalancer::PickOfTwo(int zone, const PickInput& in) const {
  const int first = Draw(zone, nullptr, in);
  if (first == kNone) return kNone;
  const int second = Draw(zone, nullptr, in, first);
  if (second == kNone) return first;
  const double first_load = LoadOf(static_cast<uint32_t>(first), in);
  return KeepsFirst(first_load, LoadOf(static_cast<uint32_t>(second), in), in) ? first : second;
}

// Of the policies by hash, which know no turns.
bool EndpointBalancer::MayServe(uint32_t index, int zone, const PickInput& in) const {
  const Member& member = members_[index];
  if (zoned_ && member.local != (zone == 0)) return false;
  if (!member.state->usable() && !panic_.load(std::memory_order_relaxed)) return false;
  if (Tried(in, index)) return false;
  // Keys come to a starting endpoint one after the other, each once.
  return !IsStarting(in.now) || FractionOf(MixBits(*in.hash ^ member.identity)) < RampOf(index, in.now);
}

// Of an endpoint on the ring: with a handful of requests in flight, the bound would move users for nothing.
constexpr double kRoomMin = 4;

// Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, 2016): a key goes to the first endpoint along
// the ring that has room.
int EndpointBalancer::PickOnRing(int zone, const PickInput& in) const {
  auto at = std::lower_bound(ring_.begin(), ring_.end(), *in.hash,
                             [](const Point& point, uint64_t hash) { return point.hash < hash; });
  const auto weight = static_cast<double>(turns_[zone].weight.load(std::memory_order_relaxed));
  const double room =
      options_.load_bound_percent == 0
          ? 0
          : options_.load_bound_percent / 100.0 *
                static_cast<double>(std::max<int64_t>(0, group_->in_flight.load(std::memory_order_relaxed)) + 1) /
                std::max(weight, 1.0);
  int first = kNone;
  uint32_t last = ~0U;  // points of one endpoint often follow each other
  const int steps = static_cast<int>(std::min<size_t>(ring_.size(), kStepsMax));
  for (int step = 0; step < steps; ++step, ++at) {
    if (at == ring_.end()) at = ring_.begin();
    if (at->index == last) continue;
    last = at->index;
    if (!MayServe(last, zone, in)) continue;
    if (room == 0) return static_cast<int>(last);
    const Member& member = members_[last];
    const double bound = std::max(kRoomMin, std::ceil(room * member.weight));
    if (member.state->in_flight.load(std::memory_order_relaxed) + 1 <= bound) {
      return static_cast<int>(last);
    }
    if (first == kNone) first = static_cast<int>(last);
  }
  return first != kNone ? first : SearchByHash(zone, in);
}

// Keys of an endpoint that may not serve are spread over all others, and no other keys move.
int EndpointBalancer::PickInTable(int zone, const PickInput& in) const {
  uint64_t hash = *in.hash;
  for (int draw = 0; draw < kDrawsMax; ++draw) {
    const uint32_t index = table_[hash % kMaglevSize];
    if (MayServe(index, zone, in)) return static_cast<int>(index);
    hash = MixBits(hash);
  }
  return SearchByHash(zone, in);
}

// Among those that may serve, in order, from a place that the hash gives. For when most endpoints may not.
int EndpointBalancer::SearchByHash(int zone, const PickInput& in) const {
  const uint32_t count = turns_[zone].count.load(std::memory_order_relaxed);
  int slow = kNone;
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t index = turns_[zone].indices[(*in.hash + i) % count].load(std::memory_order_relaxed);
    if (MayServe(index, zone, in)) return static_cast<int>(index);
    if (slow == kNone && !Tried(in, index)) slow = static_cast<int>(index);
  }
  return slow;
}

}  // namespace gateway::dataplane
