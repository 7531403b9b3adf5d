// The two ends of a lease, tested separately.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "controlplane/stream/quota_allocator.h"
#include "dataplane/limits/lease_bucket.h"

namespace gateway {
namespace {

using controlplane::QuotaAllocator;
using dataplane::LeaseLink;
using dataplane::LeaseTable;
using namespace std::chrono_literals;

constexpr TimePoint kBegin{1000s};

FleetLimit Limit(uint32_t requests, std::chrono::milliseconds window = 1s) {
  FleetLimit limit;
  limit.requests = requests;
  limit.window = window;
  return limit;
}

KeyDemand Demand(uint64_t used, uint32_t target, bool first = false) {
  KeyDemand demand;
  demand.id = 1;
  demand.first = first;
  if (first) demand.key = "k";
  demand.used = used;
  demand.target = target;
  demand.rate = 1;
  return demand;
}

struct Allocator {
  explicit Allocator(const FleetLimit& limit, QuotaAllocator::Options options = {})
      : quota(std::move(options), kBegin) {
    quota.SetLimits({{"l", limit}}, kBegin);
  }
  std::vector<KeyGrant> Collect(TimePoint now, QuotaAllocator::StreamId of, bool tick = true) {
    std::vector<KeyGrant> grants;
    quota.Collect(now, tick, [&](QuotaAllocator::StreamId stream, const std::string&, const KeyGrant& grant) {
      if (stream == of) grants.push_back(grant);
    });
    return grants;
  }
  QuotaAllocator quota;
};

TEST(QuotaAllocator, RepeatedDemandsChangeNothing) {
  Allocator a(Limit(100));
  const auto stream = a.quota.Attach("dp", "1", kBegin);
  ASSERT_TRUE(a.quota.OnDemand(stream, "l", Demand(0, 10, true), kBegin));
  EXPECT_EQ(a.Collect(kBegin, stream).at(0).granted, 10u);
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(a.quota.OnDemand(stream, "l", Demand(4, 10), kBegin + 20ms));
    const std::vector<KeyGrant> grants = a.Collect(kBegin + 20ms, stream);
    ASSERT_EQ(grants.size(), 1u);
    EXPECT_EQ(grants[0].granted, 14u);
    EXPECT_EQ(grants[0].available, 86u);
  }
}

TEST(QuotaAllocator, SharesWhatThereIsInProportion) {
  Allocator a(Limit(100));
  const auto small = a.quota.Attach("small", "1", kBegin);
  const auto large = a.quota.Attach("large", "1", kBegin);
  ASSERT_TRUE(a.quota.OnDemand(small, "l", Demand(0, 50, true), kBegin));
  ASSERT_TRUE(a.quota.OnDemand(large, "l", Demand(0, 150, true), kBegin));
  uint64_t to_small = 0, to_large = 0;
  a.quota.Collect(kBegin, true, [&](QuotaAllocator::StreamId stream, const std::string&, const KeyGrant& grant) {
    (stream == small ? to_small : to_large) = grant.granted;
    EXPECT_TRUE(grant.scarce);
  });
  EXPECT_EQ(to_small, 25u);
  EXPECT_EQ(to_large, 75u);
}

TEST(QuotaAllocator, CountsWhatAGoneDataPlaneHeldAsUsed) {
  Allocator a(Limit(100, 60s));
  const auto gone = a.quota.Attach("gone", "1", kBegin);
  ASSERT_TRUE(a.quota.OnDemand(gone, "l", Demand(0, 100, true), kBegin));
  EXPECT_EQ(a.Collect(kBegin, gone).at(0).granted, 100u);
  a.quota.Detach(gone, kBegin);
  const auto other = a.quota.Attach("other", "1", kBegin);
  for (const auto after : {0ms, 1000ms, 3000ms, 50000ms}) {
    ASSERT_TRUE(a.quota.OnDemand(other, "l", Demand(0, 10, after == 0ms), kBegin + after));
    EXPECT_EQ(a.Collect(kBegin + after, other).at(0).granted, 0u) << after.count();
  }
  ASSERT_TRUE(a.quota.OnDemand(other, "l", Demand(0, 10), kBegin + 64s));
  EXPECT_EQ(a.Collect(kBegin + 64s, other).at(0).granted, 10u);
}

TEST(QuotaAllocator, WaitsForThoseExpectedBackButNotForEver) {
  QuotaAllocator::Options options;
  options.expected = {"a", "b"};
  {
    Allocator a(Limit(100), options);
    const auto stream = a.quota.Attach("a", "1", kBegin);
    ASSERT_TRUE(a.quota.OnDemand(stream, "l", Demand(0, 10, true), kBegin));
    a.quota.OnToldAll(stream, kBegin);
    EXPECT_TRUE(a.Collect(kBegin + 100ms, stream).empty());
    EXPECT_EQ(a.quota.data_planes(), 2u);
    a.quota.OnToldAll(a.quota.Attach("b", "1", kBegin), kBegin + 200ms);
    EXPECT_EQ(a.Collect(kBegin + 200ms, stream).size(), 1u);
  }
  Allocator a(Limit(100), options);
  const auto stream = a.quota.Attach("a", "1", kBegin);
  ASSERT_TRUE(a.quota.OnDemand(stream, "l", Demand(0, 10, true), kBegin));
  EXPECT_TRUE(a.Collect(kBegin + QuotaAllocator::kReturnWait - 1ms, stream).empty());
  EXPECT_EQ(a.Collect(kBegin + QuotaAllocator::kReturnWait, stream).size(), 1u);
}

TEST(QuotaAllocator, AdoptsWhatWasLetThroughBeforeARestart) {
  QuotaAllocator::Options options;
  options.expected = {"a"};
  Allocator a(Limit(100), options);
  const auto stream = a.quota.Attach("a", "1", kBegin);
  KeyDemand demand = Demand(5000, 100, true);
  demand.recent = 100;
  demand.recent_span = 1s;
  ASSERT_TRUE(a.quota.OnDemand(stream, "l", demand, kBegin));
  a.quota.OnToldAll(stream, kBegin);
  EXPECT_LE(a.Collect(kBegin, stream).at(0).granted, 4u);
  ASSERT_TRUE(a.quota.OnDemand(stream, "l", Demand(5000, 100), kBegin + 500ms));
  EXPECT_NEAR(static_cast<double>(a.Collect(kBegin + 500ms, stream).at(0).granted), 50, 6);
}

TEST(QuotaAllocator, KeysPastTheBoundShareOneCount) {
  QuotaAllocator::Options options;
  options.keys_max = 2;
  Allocator a(Limit(10), options);
  const auto stream = a.quota.Attach("dp", "1", kBegin);
  for (uint64_t id = 1; id <= 4; ++id) {
    KeyDemand demand = Demand(0, 10, true);
    demand.id = id;
    demand.key = std::to_string(id);
    ASSERT_TRUE(a.quota.OnDemand(stream, "l", demand, kBegin));
  }
  uint64_t granted = 0;
  for (const KeyGrant& grant : a.Collect(kBegin, stream)) granted += grant.granted;
  EXPECT_EQ(granted, 30u);
  EXPECT_EQ(a.quota.stats().keys, 2u);
  EXPECT_EQ(a.quota.stats().overflowed, 2u);
}

ClientPrefix Ipv4(uint32_t address) { return {ClientPrefix::Kind::kIpv4, address}; }

// Three data planes report 90,000 made-up keys each, all of one client. A thousand other clients, of this limit and
// another, get their leases.
TEST(QuotaAllocatorFlood, OneClientsKeysLeaveOthersTheirs) {
  QuotaAllocator quota({}, kBegin);
  quota.SetLimits({{"flooded", Limit(100, 1min)}, {"other", Limit(100, 1min)}}, kBegin);
  std::vector<QuotaAllocator::StreamId> streams;
  for (int plane = 0; plane < 3; ++plane) streams.push_back(quota.Attach("dp-" + std::to_string(plane), "1", kBegin));
  uint64_t id = 0;
  for (const auto stream : streams) {
    for (int i = 0; i < 90'000; ++i) {
      KeyDemand demand = Demand(1, 1, true);
      demand.id = ++id;
      demand.key = std::to_string(id);
      demand.client = Ipv4(1);
      ASSERT_TRUE(quota.OnDemand(stream, "flooded", demand, kBegin));
    }
  }
  EXPECT_LE(quota.stats().keys, 40'000u) << "a fifth of all";
  quota.Collect(kBegin, true, [](auto, const auto&, const auto&) {});
  const uint64_t first_bystander = id + 1;
  for (const std::string limit : {"flooded", "other"}) {
    for (uint32_t i = 0; i < 1000; ++i) {
      KeyDemand demand = Demand(0, 10, true);
      demand.id = ++id;
      demand.key = "bystander " + std::to_string(i);
      demand.client = Ipv4(100 + i);
      ASSERT_TRUE(quota.OnDemand(streams[i % 3], limit, demand, kBegin));
    }
  }
  int granted = 0;
  quota.Collect(kBegin, true, [&](auto, const auto&, const KeyGrant& grant) {
    if (grant.id >= first_bystander && grant.granted == 10 && !grant.scarce) ++granted;
  });
  EXPECT_EQ(granted, 2000);
}

TEST(QuotaAllocatorFlood, OneLimitsKeysLeaveHalfToTheOthers) {
  QuotaAllocator::Options options;
  options.keys_max = 10'000;
  QuotaAllocator quota(options, kBegin);
  quota.SetLimits({{"flooded", Limit(1, 1min)}, {"other", Limit(100, 1min)}}, kBegin);
  const auto stream = quota.Attach("dp", "1", kBegin);
  for (uint32_t i = 0; i < 20'000; ++i) {
    KeyDemand demand = Demand(1, 0, true);
    demand.id = i;
    demand.key = std::to_string(i);
    demand.client = Ipv4(i);
    ASSERT_TRUE(quota.OnDemand(stream, "flooded", demand, kBegin));
  }
  EXPECT_EQ(quota.stats().keys, 5'000u);
  EXPECT_EQ(quota.stats().overflowed, 15'000u);
}

TEST(QuotaAllocatorFlood, IdleKeysThatHaveUsedLittleMakeRoom) {
  QuotaAllocator::Options options;
  options.keys_max = 1000;
  QuotaAllocator quota(options, kBegin);
  quota.SetLimits({{"l", Limit(10, 1min)}}, kBegin);
  const auto stream = quota.Attach("dp", "1", kBegin);
  const auto tell = [&](uint32_t i, uint64_t used) {
    KeyDemand demand = Demand(used, 0, true);
    demand.recent = used;
    demand.id = i;
    demand.key = std::to_string(i);
    demand.client = Ipv4(i);
    EXPECT_TRUE(quota.OnDemand(stream, "l", demand, kBegin)) << i;
    demand.first = false;
    demand.dropped = true;
    EXPECT_TRUE(quota.OnDemand(stream, "l", demand, kBegin)) << i;
    quota.Collect(kBegin, true, [](auto, const auto&, const auto&) {});
  };
  for (uint32_t i = 0; i < 10; ++i) tell(i, 9);
  for (uint32_t i = 10; i < 5000; ++i) tell(i, 1);
  EXPECT_EQ(quota.stats().overflowed, 0u);
  EXPECT_EQ(quota.stats().keys, 1000u);
  // Keys that used much of their limit are still there.
  for (uint32_t i = 0; i < 10; ++i) {
    KeyDemand demand = Demand(9, 10, true);
    demand.id = i;
    demand.key = std::to_string(i);
    ASSERT_TRUE(quota.OnDemand(stream, "l", demand, kBegin));
  }
  quota.Collect(kBegin, true, [&](auto, const auto&, const KeyGrant& grant) { EXPECT_LE(grant.granted, 1u); });
}

TEST(QuotaAllocatorFlood, OneClientsHoldersLeaveRoomForOthers) {
  QuotaAllocator::Options options;
  options.holders_max = 1000;
  QuotaAllocator quota(options, kBegin);
  quota.SetLimits({{"l", Limit(10, 1min)}}, kBegin);
  const auto stream = quota.Attach("dp", "1", kBegin);
  const auto told = [&](uint32_t id, const ClientPrefix& client) {
    KeyDemand demand = Demand(0, 1, true);
    demand.id = id;
    demand.key = std::to_string(id);
    demand.client = client;
    return quota.OnDemand(stream, "l", demand, kBegin);
  };
  int taken = 0;
  for (uint32_t i = 0; i < 5000; ++i) taken += told(i, Ipv4(1)) ? 1 : 0;
  EXPECT_EQ(taken, 200);
  for (uint32_t i = 5000; i < 5100; ++i) EXPECT_TRUE(told(i, Ipv4(i)));
  quota.SetLimits({}, kBegin);
  EXPECT_EQ(quota.stats().holders, 0u);
}

TEST(QuotaAllocator, ForgetsKeysThatNobodyHoldsOnceTheyAreRecovered) {
  Allocator a(Limit(10));
  const auto stream = a.quota.Attach("dp", "1", kBegin);
  ASSERT_TRUE(a.quota.OnDemand(stream, "l", Demand(5, 0, true), kBegin));
  KeyDemand last = Demand(6, 0);
  last.dropped = true;
  ASSERT_TRUE(a.quota.OnDemand(stream, "l", last, kBegin));
  (void)a.Collect(kBegin, stream);
  EXPECT_EQ(a.quota.stats().keys, 1u);
  (void)a.Collect(kBegin + 2s, stream);
  EXPECT_EQ(a.quota.stats().keys, 0u);
  EXPECT_EQ(a.quota.stats().holders, 0u);
}

TEST(QuotaAllocator, TicksMoreSlowlyForALargeFleet) {
  Allocator a(Limit(10));
  EXPECT_EQ(a.quota.tick(), 20ms);
  for (int i = 0; i < 1000; ++i) (void)a.quota.Attach(std::to_string(i), "1", kBegin);
  EXPECT_EQ(a.quota.tick(), 200ms);
  for (int i = 0; i < 3000; ++i) (void)a.quota.Attach(std::to_string(i), "1", kBegin);
  EXPECT_EQ(a.quota.tick(), 500ms);
  EXPECT_EQ(a.quota.data_planes(), 3000u);
}

TEST(QuotaAllocator, ALimitThatIsGoneTakesItsKeysAlong) {
  Allocator a(Limit(10));
  const auto stream = a.quota.Attach("dp", "1", kBegin);
  ASSERT_TRUE(a.quota.OnDemand(stream, "l", Demand(0, 5, true), kBegin));
  a.quota.SetLimits({}, kBegin);
  EXPECT_TRUE(a.Collect(kBegin, stream).empty());
  EXPECT_FALSE(a.quota.OnDemand(stream, "l", Demand(1, 5), kBegin));
  EXPECT_EQ(a.quota.stats().keys, 0u);
  EXPECT_EQ(a.quota.stats().holders, 0u);
}

TEST(QuotaAllocator, AChangedLimitKeepsWhatWasUsed) {
  Allocator a(Limit(100));
  const auto stream = a.quota.Attach("dp", "1", kBegin);
  KeyDemand demand = Demand(80, 0, true);
  demand.recent = 80;
  ASSERT_TRUE(a.quota.OnDemand(stream, "l", demand, kBegin));
  (void)a.Collect(kBegin, stream);
  a.quota.SetLimits({{"l", Limit(90)}}, kBegin);
  ASSERT_TRUE(a.quota.OnDemand(stream, "l", Demand(80, 50), kBegin));
  EXPECT_EQ(a.Collect(kBegin, stream).at(0).granted, 10u);
}

struct Table {
  Table(const FleetLimit& limit, uint32_t planes, LeaseTable::Options options = {}) {
    link->data_planes = planes;
    options.limit = limit;
    table = std::make_unique<LeaseTable>(options, link, kBegin);
  }
  void Connect(TimePoint now) {
    link->stream = link->stream + 1;
    link->heard_ns = now.time_since_epoch().count();
    link->up = true;
  }
  KeyDemand One(TimePoint now) {
    std::vector<KeyDemand> demands;
    EXPECT_TRUE(table->Collect(now, 100, &demands));
    EXPECT_EQ(demands.size(), 1u);
    return demands.empty() ? KeyDemand{} : demands[0];
  }
  int Admitted(int tries, TimePoint now) {
    int admitted = 0;
    for (int i = 0; i < tries; ++i) admitted += table->Admit("k", now).allowed ? 1 : 0;
    return admitted;
  }
  std::shared_ptr<LeaseLink> link = std::make_shared<LeaseLink>();
  std::unique_ptr<LeaseTable> table;
};

TEST(LeaseTable, AdmitsAnUnknownKeyFromTheOverdraftAndRepaysIt) {
  Table t(Limit(1000), 10);
  t.Connect(kBegin);
  EXPECT_EQ(t.Admitted(20, kBegin), 5);  // a 20th of the limit, over ten
  const KeyDemand demand = t.One(kBegin);
  EXPECT_TRUE(demand.first);
  EXPECT_EQ(demand.key, "k");
  EXPECT_EQ(demand.recent, 5u);
  EXPECT_EQ(t.Admitted(20, kBegin), 0) << "asking does not renew the overdraft";
  KeyGrant grant;
  grant.id = demand.id;
  grant.granted = 3;
  grant.scarce = true;
  grant.wait = 100ms;
  t.table->OnGrant(grant, kBegin);
  EXPECT_EQ(t.Admitted(20, kBegin), 3) << "a scarce limit is not overdrawn";
  const dataplane::RateLimitDecision refused = t.table->Admit("k", kBegin + 1ms);
  EXPECT_FALSE(refused.allowed);
  EXPECT_EQ(refused.reset, 99ms);
}

// Before the control plane has responded, and while it is away: a bucket holds no more than its burst.
TEST(LeaseTable, ATokenBucketGivesNoMoreThanItsBurstAtOnce) {
  FleetLimit limit = Limit(1000, 60s);
  limit.algorithm = FleetAlgorithm::kTokenBucket;
  limit.burst = 10;
  EXPECT_EQ(LeaseTable::OverdraftOf(limit, 1), 10u);
  EXPECT_EQ(LeaseTable::OverdraftOf(limit, 5), 2u);
  EXPECT_EQ(LeaseTable::OverdraftOf(limit, 100), 1u);
  Table t(limit, 1);
  t.Connect(kBegin);
  const dataplane::RateLimitDecision first = t.table->Admit("k", kBegin);
  EXPECT_TRUE(first.allowed);
  EXPECT_EQ(first.limit, 10u);
  EXPECT_EQ(first.remaining, 9u);
  EXPECT_EQ(t.Admitted(300, kBegin), 9);
  EXPECT_EQ(t.table->Admit("k", kBegin).limit, 10u);
  EXPECT_LE(t.One(kBegin).target, 2u) << "a quarter of it";

  limit.window = 1s;
  Table away(limit, 1);
  EXPECT_EQ(away.Admitted(300, kBegin), 1);
  EXPECT_EQ(away.Admitted(300, kBegin + 10s), 10);

  limit.burst = 3000;
  EXPECT_EQ(LeaseTable::OverdraftOf(limit, 1), 1000u);
  EXPECT_EQ(Table(limit, 1).table->Peek("k", kBegin).limit, 3000u);
  limit.algorithm = FleetAlgorithm::kSlidingWindow;
  EXPECT_EQ(Table(limit, 1).table->Peek("k", kBegin).limit, 1000u);
}

// Retry-After from the first refusal on: until the control plane has responded, the rest of the window.
TEST(LeaseTable, SaysWhenToComeAgainBeforeItIsTold) {
  Table t(Limit(10, 60s), 1);
  t.Connect(kBegin);
  EXPECT_EQ(t.Admitted(10, kBegin), 10);
  const auto reset = [&t](TimePoint now) {
    const dataplane::RateLimitDecision refused = t.table->Admit("k", now);
    EXPECT_FALSE(refused.allowed);
    return refused.reset;
  };
  EXPECT_EQ(reset(kBegin), 60s);
  EXPECT_LE(reset(kBegin + 10ms), 60s);
  EXPECT_GE(reset(kBegin + 10ms), 59s);
  // A response without a wait, and with nothing to lease.
  KeyGrant grant;
  grant.id = t.One(kBegin + 20ms).id;
  grant.full_in = 60'900ms;
  t.table->OnGrant(grant, kBegin + 20ms);
  EXPECT_GE(reset(kBegin + 20ms), 59s);
  grant.available = 1;
  t.table->OnGrant(grant, kBegin + 20ms);
  const dataplane::RateLimitDecision allowed = t.table->Admit("k", kBegin + 20ms);
  EXPECT_TRUE(allowed.allowed);
  EXPECT_EQ(allowed.reset, 60s) << "nothing counts for longer than a window";
  grant.scarce = true;
  grant.wait = 60'900ms;
  t.table->OnGrant(grant, kBegin + 20ms);
  EXPECT_EQ(reset(kBegin + 20ms), 60s);
  grant.wait = 58s;
  t.table->OnGrant(grant, kBegin + 20ms);
  EXPECT_EQ(reset(kBegin + 20ms), 58s);

  // With a token bucket: the next token, and at most the time it takes to fill.
  FleetLimit limit = Limit(60, 60s);
  limit.algorithm = FleetAlgorithm::kTokenBucket;
  limit.burst = 120;
  Table bucket(limit, 1);
  bucket.Connect(kBegin);
  EXPECT_EQ(bucket.Admitted(61, kBegin), 60);
  EXPECT_EQ(bucket.table->Admit("k", kBegin).reset, 1s);
  grant = KeyGrant();
  grant.id = bucket.One(kBegin).id;
  grant.granted = 10;
  grant.available = 50;
  grant.full_in = 125s;
  bucket.table->OnGrant(grant, kBegin);
  EXPECT_EQ(bucket.table->Admit("k", kBegin).reset, 120s);
}

// A burst smaller than the flow between two grants starves no client.
TEST(LeaseTable, AShortBurstLeavesRoomForTheFlow) {
  FleetLimit limit = Limit(1000);
  limit.algorithm = FleetAlgorithm::kTokenBucket;
  limit.burst = 10;
  Table t(limit, 1);
  t.Connect(kBegin);
  (void)t.Admitted(1000, kBegin);
  EXPECT_GE(t.One(kBegin).target, 22u) << "a thousand a second, over a tick and two round trips";
}

TEST(LeaseTable, NeverOverdrawsMoreThanThereWasToLease) {
  Table t(Limit(3, 1h), 1);
  t.Connect(kBegin);
  EXPECT_EQ(t.Admitted(1, kBegin), 1);
  KeyGrant grant;
  grant.id = t.One(kBegin).id;
  grant.granted = 1;
  grant.available = 1;
  t.table->OnGrant(grant, kBegin);
  EXPECT_EQ(t.table->Peek("k", kBegin).remaining, 1u);
  EXPECT_EQ(t.Admitted(5, kBegin), 2);
}

TEST(LeaseTable, ARefundedRequestUsesNothing) {
  Table t(Limit(1000), 10);
  t.Connect(kBegin);
  EXPECT_EQ(t.Admitted(5, kBegin), 5);
  EXPECT_EQ(t.Admitted(1, kBegin), 0);
  t.table->Refund("k");
  EXPECT_EQ(t.Admitted(2, kBegin), 1);
  EXPECT_EQ(t.One(kBegin).used, 5u);
}

TEST(LeaseTable, AKeyThatTheControlPlaneDoesNotKnowIsNamedAgain) {
  Table t(Limit(1000), 10);
  t.Connect(kBegin);
  EXPECT_EQ(t.Admitted(1, kBegin), 1);
  KeyGrant grant;
  grant.id = t.One(kBegin).id;
  grant.unknown = true;
  t.table->OnGrant(grant, kBegin);
  (void)t.Admitted(1, kBegin);  // from here on it saves the tokens of its share
  EXPECT_EQ(t.Admitted(1, kBegin + 1s), 1) << "at its share of the limit in the meantime";
  EXPECT_TRUE(t.One(kBegin + 1s).first);
}

TEST(LeaseTable, PeekConsumesNothing) {
  Table t(Limit(1000), 10);
  t.Connect(kBegin);
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(t.table->Peek("k", kBegin).allowed);
  EXPECT_EQ(t.Admitted(20, kBegin), 5);
  EXPECT_FALSE(t.table->Peek("k", kBegin).allowed);
}

TEST(LeaseTable, GivesBackWhatItDoesNotUse) {
  Table t(Limit(1000), 10);
  t.Connect(kBegin);
  (void)t.Admitted(5, kBegin);
  const KeyDemand first = t.One(kBegin);
  KeyGrant grant;
  grant.id = first.id;
  grant.granted = 40;
  t.table->OnGrant(grant, kBegin);
  uint64_t returned = 0;
  for (auto at = 20ms; at < 2s; at += 20ms) {
    std::vector<KeyDemand> demands;
    (void)t.table->Collect(kBegin + at, 100, &demands);
    for (const KeyDemand& demand : demands) returned = demand.returned;
  }
  EXPECT_EQ(returned, 40u);
  EXPECT_FALSE(t.table->live());
}

TEST(LeaseTable, ForgetsIdleKeysAndSaysSo) {
  Table t(Limit(1000), 10);
  t.Connect(kBegin);
  (void)t.Admitted(1, kBegin);
  KeyGrant grant;
  grant.id = t.One(kBegin).id;
  t.table->OnGrant(grant, kBegin);
  bool dropped = false;
  for (auto at = 20ms; at < 12s; at += 20ms) {
    std::vector<KeyDemand> demands;
    (void)t.table->Collect(kBegin + at, 100, &demands);
    for (const KeyDemand& demand : demands) dropped = dropped || demand.dropped;
  }
  EXPECT_TRUE(dropped);
  EXPECT_EQ(t.table->stats().keys, 0u);
  EXPECT_EQ(t.table->stats().evicted, 1u);
}

TEST(LeaseTable, KeysPastTheBoundShareOneBucket) {
  LeaseTable::Options options;
  options.keys_max = 10;
  Table t(Limit(1000), 10, options);
  t.Connect(kBegin);
  for (int i = 0; i < 10'000; ++i) (void)t.table->Admit(std::to_string(i), kBegin);
  EXPECT_EQ(t.table->stats().keys, 10u);
  EXPECT_EQ(t.table->stats().overflowed, 9'990u);
}

TEST(LeaseTableFlood, OneClientsKeysRefuseNobodyElse) {
  Table t(Limit(1000, 1min), 3);
  t.Connect(kBegin);
  int admitted = 0, refused = 0;
  for (uint32_t i = 0; i < 104'000; ++i) {
    const TimePoint now = kBegin + std::chrono::microseconds(8 * i);
    admitted += t.table->Admit("made up " + std::to_string(i), now, Ipv4(1)).allowed ? 1 : 0;
    if (i % 104 != 0) continue;
    for (int request = 0; request < 5; ++request) {
      refused += t.table->Admit("bystander " + std::to_string(i), now, Ipv4(100 + i)).allowed ? 0 : 1;
    }
  }
  EXPECT_EQ(refused, 0);
  EXPECT_LE(admitted, 20'100) << "a fifth of the table, and the overflow bucket";
  EXPECT_LE(t.table->stats().keys, 21'000u);
  admitted = 0;
  for (int i = 0; i < 100; ++i) {
    admitted += t.table->Admit("made up at last " + std::to_string(i), kBegin + 1s, Ipv4(1)).allowed ? 1 : 0;
  }
  EXPECT_LE(admitted, 6) << "the overflow bucket, at the share of one of three data planes";
}

TEST(LeaseTableFlood, TheBucketOfAClientPastItsShareIsTheSameOnEveryDataPlane) {
  std::vector<std::string> keys;
  for (int plane = 0; plane < 2; ++plane) {
    LeaseTable::Options options;
    options.keys_max = 0;
    Table t(Limit(1000, 1min), 3, options);
    t.Connect(kBegin);
    (void)t.table->Admit("made up " + std::to_string(plane), kBegin, Ipv4(1));
    (void)t.table->Admit("made up", kBegin, Ipv4(2));
    (void)t.table->Admit("made up too", kBegin, Ipv4(1));
    std::vector<KeyDemand> demands;
    EXPECT_TRUE(t.table->Collect(kBegin, 100, &demands));
    ASSERT_EQ(demands.size(), 2u);
    EXPECT_NE(demands[0].key, demands[1].key) << "each client has its own";
    keys.push_back(demands[demands[0].client == Ipv4(1) ? 0 : 1].key);
  }
  EXPECT_EQ(keys[0], keys[1]);
}

TEST(LeaseTableFlood, BucketsOfClientsPastTheirShareAreBounded) {
  LeaseTable::Options options;
  options.keys_max = 0;
  Table t(Limit(1000, 1min), 3, options);
  for (uint32_t i = 0; i < 100'000; ++i) (void)t.table->Admit("k", kBegin, Ipv4(i));
  std::vector<KeyDemand> demands;
  t.Connect(kBegin);
  EXPECT_TRUE(t.table->Collect(kBegin, 1'000'000, &demands));
  EXPECT_LE(demands.size(), 1024u + 256u);
}

TEST(LeaseTableFlood, IdleKeysThatHaveUsedLittleMakeRoomAndTheControlPlaneHearsOfIt) {
  LeaseTable::Options options;
  options.keys_max = 1600;
  Table t(Limit(1000, 1min), 3, options);
  t.Connect(kBegin);
  std::vector<KeyDemand> demands;
  const auto settle = [&](TimePoint from) {
    for (auto at = 0ms; at < 2s; at += 20ms) {
      demands.clear();
      EXPECT_TRUE(t.table->Collect(from + at, 10'000, &demands));
      for (const KeyDemand& demand : demands) {
        KeyGrant grant;
        grant.id = demand.id;
        grant.granted = demand.used;
        grant.available = 500;
        t.table->OnGrant(grant, from + at);
      }
    }
  };
  for (uint32_t i = 0; i < 1600; ++i) {
    EXPECT_TRUE(t.table->Admit(std::to_string(i), kBegin, Ipv4(i)).allowed);
  }
  settle(kBegin);
  for (uint32_t i = 1600; i < 2100; ++i) {
    EXPECT_TRUE(t.table->Admit(std::to_string(i), kBegin + 3s, Ipv4(i)).allowed);
  }
  EXPECT_EQ(t.table->stats().overflowed, 0u);
  EXPECT_EQ(t.table->stats().keys, 1600u);
  demands.clear();
  EXPECT_TRUE(t.table->Collect(kBegin + 3s, 10'000, &demands));
  EXPECT_EQ(std::count_if(demands.begin(), demands.end(), [](const KeyDemand& each) { return each.dropped; }), 500);
}

TEST(LeaseTable, StartedWithoutAControlPlaneItHoldsTheWholeLimitToItself) {
  Table t(Limit(1000), 1);
  int admitted = 0;
  for (auto at = 0ms; at < 4s; at += 1ms) admitted += t.Admitted(2, kBegin + at);
  EXPECT_NEAR(admitted, 4000, 10);
}

TEST(LeaseTable, LimitsOfOverdrafts) {
  EXPECT_EQ(LeaseTable::OverdraftOf(Limit(5), 1), 5u);
  EXPECT_EQ(LeaseTable::OverdraftOf(Limit(60), 3), 4u);
  EXPECT_EQ(LeaseTable::OverdraftOf(Limit(10), 10), 1u);
  EXPECT_EQ(LeaseTable::OverdraftOf(Limit(10), 100), 1u);
  EXPECT_EQ(LeaseTable::OverdraftOf(Limit(10'000), 10), 50u);
}

}  // namespace
}  // namespace gateway
