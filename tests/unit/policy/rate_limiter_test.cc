#include "dataplane/limits/rate_limiter.h"

#include <atomic>
#include <cmath>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gateway::dataplane {
namespace {

using namespace std::chrono_literals;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;

constexpr TimePoint kStart{1000h};

RateLimiter::Options Limit(uint32_t requests, milliseconds window, size_t keys_max = 100'000) {
  return {.requests = requests, .window = window, .keys_max = keys_max};
}
RateLimiter::Options Tokens(uint32_t requests, milliseconds window, uint32_t burst = 0) {
  return {.algorithm = LimitAlgorithm::kTokenBucket, .requests = requests, .window = window, .burst = burst};
}
RateLimiter::Options Fixed(uint32_t requests, milliseconds window, nanoseconds wall_offset = 0ns) {
  return {
      .algorithm = LimitAlgorithm::kFixedWindow, .requests = requests, .window = window, .wall_offset = wall_offset};
}

// How much longer than the window a request of a busy key may count.
nanoseconds PartOf(milliseconds window) { return nanoseconds(window) / 192; }
constexpr size_t kExactMoments = 64;

int AdmitMany(RateLimiter& limiter, std::string_view key, int tries, TimePoint now) {
  int admitted = 0;
  for (int i = 0; i < tries; ++i) admitted += limiter.Admit(key, now).allowed ? 1 : 0;
  return admitted;
}

TEST(SlidingWindowLimiter, AdmitsTheLimitAndNoMore) {
  RateLimiter limiter(Limit(3, 1min));
  for (const uint32_t remaining : {2u, 1u, 0u}) {
    const RateLimitDecision decision = limiter.Admit("a", kStart);
    EXPECT_TRUE(decision.allowed);
    EXPECT_EQ(decision.limit, 3u);
    EXPECT_EQ(decision.remaining, remaining);
  }
  const RateLimitDecision refused = limiter.Admit("a", kStart + 30s);
  EXPECT_FALSE(refused.allowed);
  EXPECT_EQ(refused.remaining, 0u);
  EXPECT_TRUE(limiter.Admit("b", kStart + 30s).allowed) << "another key";
}

TEST(SlidingWindowLimiter, OldRequestsLeaveTheWindowOneByOne) {
  RateLimiter limiter(Limit(2, 1s));
  EXPECT_TRUE(limiter.Admit("a", kStart).allowed);
  EXPECT_TRUE(limiter.Admit("a", kStart + 500ms).allowed);
  EXPECT_FALSE(limiter.Admit("a", kStart + 1s - 1ns).allowed);
  EXPECT_TRUE(limiter.Admit("a", kStart + 1s).allowed);
  EXPECT_FALSE(limiter.Admit("a", kStart + 1500ms - 1ns).allowed);
  EXPECT_TRUE(limiter.Admit("a", kStart + 1500ms).allowed);
}

TEST(SlidingWindowLimiter, ARefusedRequestConsumesNothing) {
  RateLimiter limiter(Limit(1, 1s));
  EXPECT_TRUE(limiter.Admit("a", kStart).allowed);
  for (int i = 1; i < 1000; ++i) EXPECT_FALSE(limiter.Admit("a", kStart + milliseconds(i)).allowed);
  EXPECT_TRUE(limiter.Admit("a", kStart + 1005ms).allowed);
}

TEST(SlidingWindowLimiter, APeekPredictsAdmitAndConsumesNothing) {
  RateLimiter limiter(Limit(2, 1s));
  for (int i = 0; i < 10; ++i) {
    const RateLimitDecision peeked = limiter.Peek("a", kStart);
    EXPECT_TRUE(peeked.allowed);
    EXPECT_EQ(peeked.remaining, 1u);
  }
  EXPECT_EQ(limiter.stats().keys, 0u) << "a peek creates no key";
  EXPECT_EQ(AdmitMany(limiter, "a", 5, kStart), 2);
  const RateLimitDecision peeked = limiter.Peek("a", kStart), admitted = limiter.Admit("a", kStart);
  EXPECT_FALSE(peeked.allowed);
  EXPECT_EQ(peeked.reset, admitted.reset);
}

// Retry-After: refused a millisecond before, allowed then.
TEST(SlidingWindowLimiter, SaysExactlyWhenTheNextRequestIsAllowed) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (const milliseconds window : {100ms, 1000ms, 60'000ms, 61'234ms, 86'400'000ms}) {
    for (int round = 0; round < 50; ++round) {
      RateLimiter limiter(Limit(4, window));
      TimePoint now = kStart + milliseconds(random() % 1'000'000) + nanoseconds(random() % 1'000'000);
      RateLimitDecision decision;
      while ((decision = limiter.Admit("a", now)).allowed) now += window * (random() % 300) / 1024;
      ASSERT_GT(decision.reset, 0ms);
      ASSERT_LE(decision.reset, window);
      EXPECT_FALSE(limiter.Peek("a", now + decision.reset - 1ms).allowed) << window.count();
      EXPECT_TRUE(limiter.Peek("a", now + decision.reset).allowed) << window.count();
    }
  }
}

// RateLimit-Reset: from then on the key has its whole limit again.
TEST(SlidingWindowLimiter, SaysExactlyWhenTheKeyHasRecovered) {
  RateLimiter limiter(Limit(10, 1s));
  limiter.Admit("a", kStart);
  const RateLimitDecision decision = limiter.Admit("a", kStart + 700ms);
  EXPECT_LT(limiter.Peek("a", kStart + 700ms + decision.reset - 1ms).remaining, 9u);
  EXPECT_EQ(limiter.Peek("a", kStart + 700ms + decision.reset).remaining, 9u);
}

// Compared with a log of every admitted request: never more than the limit in any window, and refused only if the log
// is full. For limits above the number of exact times, a part is added to the window of the second check.
TEST(SlidingWindowLimiter, IsExactUpToAPartOfABusyWindow) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (int round = 0; round < 60; ++round) {
    const milliseconds window(std::vector<int>{100, 137, 256, 1000, 4321, 60'000}[random() % 6]);
    const uint32_t requests = std::vector<uint32_t>{1, 2, 7, 50, 300}[random() % 5];
    RateLimiter limiter(Limit(requests, window));
    std::map<std::string, std::deque<TimePoint>> log;
    TimePoint now = kStart + nanoseconds(random());
    const auto pace = nanoseconds(window) / requests;  // the average step is an eighth of it
    uint64_t admitted = 0, refused = 0;
    for (int i = 0; i < 5000; ++i) {
      const std::string key(1, static_cast<char>('a' + random() % 3));
      switch (random() % 10) {
        case 0:
          break;  // at the same instant
        case 1:
          if (random() % (20 + 2 * requests) == 0) now += nanoseconds(window) * (random() % 1024) / 512;
          break;
        default:
          now += nanoseconds(static_cast<int64_t>(pace.count() * (random() % 1000) / 4000.0));
      }
      auto& times = log[key];
      const nanoseconds late = requests <= kExactMoments ? nanoseconds(0) : PartOf(window);
      while (!times.empty() && times.front() <= now - window - late) times.pop_front();
      const auto in_window =
          static_cast<size_t>(times.end() - std::upper_bound(times.begin(), times.end(), now - window));
      const RateLimitDecision decision = limiter.Admit(key, now);
      if (decision.allowed) {
        ASSERT_LT(in_window, requests) << "window " << window.count() << " ms, request " << i;
        ASSERT_LT(decision.remaining, requests - in_window);
        ASSERT_EQ(decision.reset, window);
        times.push_back(now);
        ++admitted;
      } else {
        ASSERT_GE(times.size(), requests) << "window " << window.count() << " ms, request " << i;
        ++refused;
      }
    }
    EXPECT_GT(admitted, 0u);
    EXPECT_GT(refused, 0u);
  }
}

TEST(SlidingWindowLimiter, AnEarlierNowIsTakenForTheLatest) {
  RateLimiter limiter(Limit(2, 1s));
  EXPECT_EQ(AdmitMany(limiter, "a", 5, kStart), 2);
  EXPECT_EQ(AdmitMany(limiter, "a", 5, kStart + 1100ms), 2);
  // A worker with a slow clock would see a window without the two newer requests.
  EXPECT_EQ(AdmitMany(limiter, "a", 5, kStart + 1050ms), 0);
  EXPECT_EQ(AdmitMany(limiter, "a", 5, kStart + 2150ms), 2);
}

TEST(SlidingWindowLimiter, TheLimitHoldsOverAllThreads) {
  RateLimiter limiter(Limit(1000, 1min));
  std::atomic<int> admitted{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 1000; ++i) {
        const TimePoint now = kStart + milliseconds(i * 50 + t);
        if (limiter.Admit("shared", now).allowed) ++admitted;
        limiter.Peek("shared", now);
        limiter.Admit("own" + std::to_string(t), now);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(admitted, 1000);
  EXPECT_EQ(limiter.stats().keys, 5u);
}

TEST(SlidingWindowLimiter, ThreadsThatMakeUpKeysKeepTheBound) {
  constexpr size_t kKeysMax = 100;
  RateLimiter limiter(Limit(5, 100ms, kKeysMax));
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 5000; ++i) {
        limiter.Admit(std::to_string(t * 10'000 + i), kStart + milliseconds(i / 10));
        EXPECT_LE(limiter.stats().keys, kKeysMax + 4) << "a requested place counts until it is refused";
        if (i % 1000 == 0)
          limiter.Reconfigure(Limit(5, milliseconds(100 + i / 10), kKeysMax), kStart + milliseconds(i / 10));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(limiter.stats().keys, kKeysMax);
  EXPECT_GT(limiter.stats().overflowed, 0u);
  // Whether any had recovered before depends on thread timing.
  for (size_t i = 0; i < kKeysMax; ++i) limiter.Admit("late" + std::to_string(i), kStart + 10s);
  EXPECT_LE(limiter.stats().keys, kKeysMax);
  EXPECT_GT(limiter.stats().evicted, 0u);
}

TEST(SlidingWindowLimiter, OnlyRecoveredKeysAreDropped) {
  RateLimiter limiter(Limit(1, 1s, 10));
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(limiter.Admit(std::to_string(i), kStart + milliseconds(i)).allowed);
  limiter.Admit("new", kStart + 500ms);
  EXPECT_EQ(limiter.stats().keys, 10u);
  EXPECT_EQ(limiter.stats().evicted, 0u);
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(limiter.Admit(std::to_string(i), kStart + 900ms).allowed) << i;
}

TEST(SlidingWindowLimiter, KeysPastTheBoundShareOneBucket) {
  RateLimiter limiter(Limit(3, 1s, 10));
  for (int i = 0; i < 10; ++i) limiter.Admit(std::to_string(i), kStart);
  int admitted = 0;
  for (int i = 0; i < 100; ++i) admitted += limiter.Admit("made up " + std::to_string(i), kStart).allowed ? 1 : 0;
  EXPECT_EQ(admitted, 3);
  EXPECT_FALSE(limiter.Peek("made up again", kStart).allowed);
  EXPECT_EQ(limiter.stats().keys, 10u);
  EXPECT_EQ(limiter.stats().overflowed, 100u);
  EXPECT_TRUE(limiter.Admit("0", kStart).allowed) << "a known key has its own bucket";
}

TEST(SlidingWindowLimiter, RecoveredKeysMakeRoomInEveryShard) {
  RateLimiter limiter(Limit(1, 1s, 200));
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(limiter.Admit(std::to_string(i), kStart).allowed);
  for (int i = 200; i < 400; ++i) ASSERT_TRUE(limiter.Admit(std::to_string(i), kStart + 2s).allowed) << i;
  EXPECT_EQ(limiter.stats().overflowed, 0u);
  EXPECT_EQ(limiter.stats().evicted, 200u);
}

// A key moves from the overflow bucket to its own: together they stay within the limit.
TEST(SlidingWindowLimiter, LeavingTheOverflowGrantsAKeyNothingExtra) {
  RateLimiter limiter(Limit(5, 1s, 1));
  limiter.Admit("first", kStart);
  EXPECT_EQ(AdmitMany(limiter, "x", 10, kStart + 500ms), 5);
  EXPECT_EQ(limiter.stats().overflowed, 10u);
  // "first" has recovered and gives up its place.
  EXPECT_EQ(AdmitMany(limiter, "x", 10, kStart + 1200ms), 0);
  EXPECT_EQ(limiter.stats().overflowed, 10u);
  EXPECT_EQ(AdmitMany(limiter, "x", 10, kStart + 1600ms), 5);
  EXPECT_EQ(limiter.stats().keys, 1u);
}

TEST(SlidingWindowLimiter, ANewLimitCountsWhatWasAdmittedBefore) {
  RateLimiter limiter(Limit(10, 1s));
  EXPECT_EQ(AdmitMany(limiter, "a", 8, kStart), 8);
  limiter.Reconfigure(Limit(5, 1s), kStart);
  const RateLimitDecision refused = limiter.Admit("a", kStart);
  EXPECT_FALSE(refused.allowed);
  EXPECT_EQ(refused.limit, 5u);
  limiter.Reconfigure(Limit(10, 1s), kStart);
  EXPECT_EQ(AdmitMany(limiter, "a", 8, kStart), 2);
}

TEST(SlidingWindowLimiter, ANewWindowCountsWhatWasAdmittedBefore) {
  for (const milliseconds window : {100ms, 600ms, 3000ms, 3'600'000ms}) {
    RateLimiter limiter(Limit(10, 1s));
    EXPECT_EQ(AdmitMany(limiter, "a", 6, kStart), 6);
    limiter.Reconfigure(Limit(10, window), kStart + 10ms);
    EXPECT_EQ(AdmitMany(limiter, "a", 10, kStart + 10ms), 4) << window.count();
    // But no longer than that window.
    EXPECT_EQ(AdmitMany(limiter, "a", 20, kStart + 10ms + window), 10) << window.count();
  }
}

TEST(SlidingWindowLimiter, AMuchLongerWindowAfterwardsIsSafe) {
  RateLimiter limiter(Limit(2, 100ms));
  AdmitMany(limiter, "a", 2, kStart);
  AdmitMany(limiter, "a", 1, kStart + 1h);
  limiter.Reconfigure(Limit(2, 86'400'000ms), kStart + 2h);
  EXPECT_EQ(AdmitMany(limiter, "a", 5, kStart + 2h), 2);
}

TEST(SlidingWindowLimiter, ManyRequestsAtManyMomentsStayCounted) {
  RateLimiter limiter(Limit(100'000, 256ms));
  uint64_t admitted = 0;
  for (int i = 0; i < 2560; ++i) admitted += AdmitMany(limiter, "a", 100, kStart + milliseconds(i));
  EXPECT_EQ(admitted, 256'000u) << "25,600 in any window";
  const uint32_t counted = 100'000u - 1u - limiter.Peek("a", kStart + 2559ms).remaining;
  EXPECT_GE(counted, 25'600u);
  EXPECT_LE(counted, 25'800u) << "plus those of one part of it";
}

// Compared with the definition: `requests` tokens per window, at most `burst` at once.
TEST(TokenBucketLimiter, IsExact) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (int round = 0; round < 100; ++round) {
    const milliseconds window(std::vector<int>{100, 137, 1000, 60'000, 86'400'000}[random() % 5]);
    const uint32_t requests = std::vector<uint32_t>{1, 3, 7, 50, 999, 1'000'000}[random() % 6];
    const uint32_t burst = std::vector<uint32_t>{1, 2, 10, requests, 3 * requests}[random() % 5];
    RateLimiter limiter(Tokens(requests, window, burst));
    const long double interval = static_cast<long double>(nanoseconds(window).count()) / requests;
    long double tokens = burst;  // of the reference model
    TimePoint now = kStart + nanoseconds(random()), before = now;
    int refused = 0;
    for (int i = 0; i < 3000; ++i) {
      if (random() % 4 != 0) now += nanoseconds(static_cast<int64_t>(interval * (random() % 1000) / 700.0L));
      tokens = std::min<long double>(burst, tokens + static_cast<long double>((now - before).count()) / interval);
      before = now;
      const RateLimitDecision decision = limiter.Admit("a", now);
      ASSERT_EQ(decision.limit, burst);
      // Skips cases that depend on a rounded fraction.
      if (std::abs(tokens - 1) > 1e-6L) {
        ASSERT_EQ(decision.allowed, tokens > 1) << requests << " in " << window.count() << " ms, burst " << burst
                                                << ", tokens " << static_cast<double>(tokens);
      }
      if (decision.allowed) {
        tokens -= 1;
        ASSERT_NEAR(decision.remaining, static_cast<double>(tokens), 1.000001);
        const auto full = static_cast<double>((burst - tokens) * interval) / 1e6;
        ASSERT_NEAR(static_cast<double>(decision.reset.count()), full, 1.01 + full * 1e-9);
      } else {
        ++refused;
        ASSERT_EQ(decision.remaining, 0u);
        if (decision.reset > 2ms) {
          ASSERT_FALSE(limiter.Peek("a", now + decision.reset - 2ms).allowed) << "too long";
        }
        now += decision.reset;
        ASSERT_TRUE(limiter.Peek("a", now).allowed);
      }
    }
    EXPECT_TRUE(refused > 0 || burst > 500) << requests << " " << burst;
  }
}

TEST(TokenBucketLimiter, ItsBurstIsOnTopOfNothing) {
  RateLimiter limiter(Tokens(10, 1s, 3));
  EXPECT_EQ(AdmitMany(limiter, "a", 10, kStart), 3);
  EXPECT_EQ(AdmitMany(limiter, "a", 10, kStart + 99ms), 0);
  EXPECT_EQ(AdmitMany(limiter, "a", 10, kStart + 100ms), 1);
  EXPECT_EQ(AdmitMany(limiter, "a", 10, kStart + 10s), 3);
  const RateLimitDecision refused = limiter.Admit("a", kStart + 10s);
  EXPECT_EQ(refused.limit, 3u);
  EXPECT_EQ(refused.reset, 100ms);
}

TEST(TokenBucketLimiter, WithoutABurstItHoldsOneWindowsRequests) {
  RateLimiter limiter(Tokens(5, 1min));
  EXPECT_EQ(AdmitMany(limiter, "a", 10, kStart), 5);
  const RateLimitDecision refused = limiter.Admit("a", kStart);
  EXPECT_EQ(refused.reset, 12s);
  EXPECT_EQ(limiter.Admit("b", kStart).reset, 12s) << "until it is full again";
}

// No rounding errors add up: over a minute of full load, the rate is exact to one request.
TEST(TokenBucketLimiter, KeepsItsRateOverALongTime) {
  RateLimiter limiter(Tokens(7'777, 1s, 100));
  uint64_t admitted = 0;
  for (int i = 0; i < 6'000; ++i) admitted += AdmitMany(limiter, "a", 80, kStart + i * 10ms);
  const double ideal = 100 + 7'777.0 * 59.99;
  EXPECT_NEAR(static_cast<double>(admitted), ideal, 2);
}

TEST(TokenBucketLimiter, HugeBurstsDoNotOverflow) {
  RateLimiter limiter(Tokens(1, 86'400'000ms, 100'000'000));
  EXPECT_TRUE(limiter.Admit("a", kStart).allowed);
  EXPECT_EQ(AdmitMany(limiter, "a", 1000, kStart + 1h), 1000);
  RateLimiter fast(Tokens(100'000'000, 100ms, 1));
  EXPECT_TRUE(fast.Admit("a", kStart).allowed);
  EXPECT_FALSE(fast.Admit("a", kStart).allowed);
  EXPECT_TRUE(fast.Admit("a", kStart + 1ns).allowed);
}

TEST(FixedWindowLimiter, ItsWindowsBeginAtMultiplesOfTheirLengthOnTheWallClock) {
  // The wall clock is 12:00:30 at kStart.
  const nanoseconds offset = 12h + 30s - kStart.time_since_epoch();
  RateLimiter limiter(Fixed(3, 1min, offset));
  const RateLimitDecision first = limiter.Admit("a", kStart);
  EXPECT_TRUE(first.allowed);
  EXPECT_EQ(first.reset, 30s);
  EXPECT_EQ(AdmitMany(limiter, "a", 5, kStart + 29s), 2);
  const RateLimitDecision refused = limiter.Admit("a", kStart + 29'500ms);
  EXPECT_FALSE(refused.allowed);
  EXPECT_EQ(refused.reset, 500ms);
  EXPECT_FALSE(limiter.Admit("a", kStart + 30s - 1ns).allowed);
  EXPECT_EQ(AdmitMany(limiter, "a", 5, kStart + 30s), 3);
  EXPECT_EQ(limiter.Admit("a", kStart + 90s).remaining, 2u);
}

TEST(FixedWindowLimiter, IsExact) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (int round = 0; round < 50; ++round) {
    const milliseconds window(std::vector<int>{100, 1000, 60'000}[random() % 3]);
    const uint32_t requests = 1 + random() % 20;
    RateLimiter limiter(Fixed(requests, window));
    std::map<std::pair<std::string, int64_t>, uint32_t> model;
    TimePoint now = kStart;
    for (int i = 0; i < 3000; ++i) {
      now += nanoseconds(window) * (random() % 100) / (100 * requests);
      const std::string key(1, static_cast<char>('a' + random() % 3));
      uint32_t& count = model[{key, now.time_since_epoch() / window}];
      const RateLimitDecision decision = limiter.Admit(key, now);
      ASSERT_EQ(decision.allowed, count < requests);
      if (decision.allowed) ++count;
      ASSERT_EQ(decision.remaining, requests - count);
      ASSERT_EQ((now + decision.reset).time_since_epoch() / window, now.time_since_epoch() / window + 1);
    }
  }
}

// A shadow limit of each algorithm: the bound on keys holds for all of them.
TEST(RateLimiter, AMillionMadeUpKeysResetNoKey) {
  for (RateLimiter::Options options : {Limit(5, 1s), Tokens(5, 1s), Fixed(5, 1s)}) {
    options.keys_max = 1000;
    RateLimiter limiter(options);
    const std::string victim = "the one who is refused";
    EXPECT_EQ(AdmitMany(limiter, victim, 10, kStart), 5);
    uint64_t admitted = 0;
    TimePoint now = kStart;
    // 190 ms of a flood: no bucket has recovered yet.
    for (int i = 0; i < 1'000'000; ++i) {
      if (i % 5000 == 0) now += 950us;
      admitted += limiter.Admit("made up " + std::to_string(i), now).allowed ? 1 : 0;
      if (i % 50'000 == 0) {
        EXPECT_LE(AdmitMany(limiter, victim, 2, now), options.algorithm == LimitAlgorithm::kTokenBucket ? 1 : 0);
      }
    }
    const auto stats = limiter.stats();
    EXPECT_LE(stats.keys, 1000u);
    // With a token bucket, one request has recovered after 200 ms, so none is evicted here either.
    EXPECT_EQ(stats.evicted, 0u) << static_cast<int>(options.algorithm);
    EXPECT_EQ(stats.overflowed, 1'000'000u - 999u);
    EXPECT_LE(admitted, 999u + 5u);
    // Later the made-up keys make room.
    EXPECT_TRUE(limiter.Admit("somebody new", now + 3s).allowed);
    EXPECT_GT(limiter.stats().evicted, 0u);
  }
}

ClientPrefix Ipv4(uint32_t address) { return {ClientPrefix::Kind::kIpv4, address}; }
ClientPrefix Ipv6(uint64_t prefix) { return {ClientPrefix::Kind::kIpv6Client, prefix}; }

// A thousand new clients send their first requests during a flood of keys: `flood` gives the client of the flood's
// n-th key. Returns how many bystanders were refused; `admitted`: requests of the flood.
int RefusedBystanders(RateLimiter& limiter, int keys, const std::function<ClientPrefix(int)>& flood,
                      uint64_t* admitted) {
  int refused = 0;
  const int pause = keys / 1000;
  for (int i = 0; i < keys; ++i) {
    const TimePoint now = kStart + nanoseconds(int64_t{i} * 8000);
    *admitted += limiter.Admit("made up " + std::to_string(i), now, flood(i)).allowed ? 1 : 0;
    if (i % pause != 0) continue;
    for (int request = 0; request < 3; ++request) {
      const std::string key = "bystander " + std::to_string(i / pause);
      refused += limiter.Admit(key, now, Ipv4(0x0a000000u + static_cast<uint32_t>(i / pause))).allowed ? 0 : 1;
    }
  }
  return refused;
}

std::vector<RateLimiter::Options> EachAlgorithm(uint32_t requests) {
  return {Limit(requests, 1min), Tokens(requests, 1min), Fixed(requests, 1h)};
}

TEST(RateLimiterFlood, OneClientsKeysRefuseNobodyElse) {
  for (const RateLimiter::Options& options : EachAlgorithm(20)) {
    RateLimiter limiter(options);
    uint64_t admitted = 0;
    EXPECT_EQ(RefusedBystanders(
                  limiter, 300'000, [](int) { return Ipv4(1); }, &admitted),
              0);
    // A fifth of the table, and the overflow bucket.
    EXPECT_LE(admitted, 20'000u + 20u);
    EXPECT_GE(limiter.stats().overflowed, 279'000u);
    EXPECT_FALSE(limiter.Admit("made up at last", kStart + 3s, Ipv4(1)).allowed) << "limited by its overflow bucket";
  }
}

TEST(RateLimiterFlood, KeysOfOneIpv6SiteRefuseNobodyElse) {
  RateLimiter limiter(Limit(20, 1min));
  uint64_t admitted = 0;
  const auto whose = [](int i) { return Ipv6(0x20010db800010000 + static_cast<uint64_t>(i % 65'536)); };
  EXPECT_EQ(RefusedBystanders(limiter, 200'000, whose, &admitted), 0);
  EXPECT_LE(admitted, 20'000u + 20u);
}

TEST(RateLimiterFlood, KeysOfOneIpv6ProviderRefuseNobodyElse) {
  RateLimiter limiter(Limit(20, 1min));
  uint64_t admitted = 0;
  const auto whose = [](int i) { return Ipv6(0x20010db800000000 + (static_cast<uint64_t>(i) << 12)); };
  EXPECT_EQ(RefusedBystanders(limiter, 200'000, whose, &admitted), 0);
}

TEST(RateLimiterFlood, AHundredClientsKeysAffectNoOtherClient) {
  for (const RateLimiter::Options& options : EachAlgorithm(2)) {
    RateLimiter limiter(options);
    uint64_t admitted = 0;
    // Each key is used up, so none is cheap to evict.
    const auto whose = [&](int i) {
      limiter.Admit("made up " + std::to_string(i), kStart + nanoseconds(int64_t{i} * 8000), Ipv4(1 + i % 100));
      return Ipv4(1 + i % 100);
    };
    const uint64_t bystander_requests = 3;
    EXPECT_EQ(RefusedBystanders(limiter, 200'000, whose, &admitted), 1000 * static_cast<int>(bystander_requests - 2))
        << "each exceeds its own two";
  }
}

// Each client holds almost nothing: a botnet, or a provider that moves customers between addresses.
TEST(RateLimiterFlood, MoreClientsThanPlacesAffectNoOtherClient) {
  for (const RateLimiter::Options& options : EachAlgorithm(20)) {
    RateLimiter limiter(options);
    uint64_t admitted = 0;
    EXPECT_EQ(RefusedBystanders(
                  limiter, 300'000, [](int i) { return Ipv4(static_cast<uint32_t>(i)); }, &admitted),
              0);
    EXPECT_LE(limiter.stats().keys, 100'000u);
    EXPECT_GT(limiter.stats().evicted, 150'000u) << "cheap keys make room";
  }
}

TEST(RateLimiterFlood, AKeyThatHasUsedMuchKeepsItsPlace) {
  RateLimiter::Options options = Limit(4, 1min, 1000);
  RateLimiter limiter(options);
  EXPECT_EQ(AdmitMany(limiter, "victim", 10, kStart), 4);
  EXPECT_EQ(AdmitMany(limiter, "half", 3, kStart), 3);
  for (int i = 0; i < 100'000; ++i) limiter.Admit("made up " + std::to_string(i), kStart + 1s, Ipv4(i));
  EXPECT_EQ(AdmitMany(limiter, "victim", 10, kStart + 2s), 0);
  EXPECT_EQ(AdmitMany(limiter, "half", 10, kStart + 2s), 1);
}

TEST(RateLimiterFlood, LeavingItsOverflowBucketGrantsAKeyNothingExtra) {
  for (const ClientPrefix& client : {Ipv4(1), Ipv6(0x20010db800010002)}) {
    RateLimiter limiter(Limit(5, 1s, 100));
    // All places belong to this client or are used up by others.
    for (int i = 0; i < 100; ++i) {
      for (int request = 0; request < 5; ++request) {
        limiter.Admit(std::to_string(i), kStart, Ipv4(1000 + static_cast<uint32_t>(i)));
      }
    }
    const auto admit = [&](const ClientPrefix& whose, TimePoint now) {
      int admitted = 0;
      for (int i = 0; i < 10; ++i) admitted += limiter.Admit("x", now, whose).allowed ? 1 : 0;
      return admitted;
    };
    EXPECT_EQ(admit(client, kStart + 500ms), 5);
    EXPECT_EQ(limiter.stats().overflowed, 10u);
    // The others have recovered and make room.
    EXPECT_EQ(admit(client, kStart + 1200ms), 0) << "it has used its five";
    EXPECT_EQ(admit(client, kStart + 1600ms), 5);
    EXPECT_EQ(limiter.stats().overflowed, 10u);
  }
}

TEST(RateLimiterFlood, ANewLimitHoldsForThoseInOverflowToo) {
  RateLimiter limiter(Limit(5, 1min, 4));
  for (uint32_t i = 0; i < 4; ++i) {
    for (int request = 0; request < 5; ++request) limiter.Admit("full " + std::to_string(i), kStart, Ipv4(1000 + i));
  }
  int admitted = 0;
  const auto flood = [&](int from, int to) {
    for (int i = from; i < to; ++i) admitted += limiter.Admit(std::to_string(i), kStart, Ipv4(1)).allowed ? 1 : 0;
  };
  flood(0, 50);
  EXPECT_EQ(admitted, 5);
  limiter.Reconfigure({.algorithm = LimitAlgorithm::kTokenBucket, .requests = 8, .window = 1min, .keys_max = 4},
                      kStart);
  admitted = 0;
  flood(50, 100);
  EXPECT_EQ(admitted, 3) << "five of its eight were used before";
}

TEST(RateLimiter, OfSeveralLimitsARefusedRequestConsumesNone) {
  RateLimiter wide(Limit(10, 1min)), narrow(Tokens(2, 1min)), fixed(Fixed(5, 1min));
  const auto admit = [&](TimePoint now) {
    RateLimiter::Check checks[] = {{&wide, "w", false, {}}, {&narrow, "n", false, {}}, {&fixed, "f", false, {}}};
    return RateLimiter::AdmitTogether(checks, now);
  };
  EXPECT_TRUE(admit(kStart));
  EXPECT_TRUE(admit(kStart));
  for (int i = 0; i < 20; ++i) EXPECT_FALSE(admit(kStart));
  EXPECT_EQ(wide.Peek("w", kStart).remaining, 7u);
  EXPECT_EQ(fixed.Peek("f", kStart).remaining, 2u);
  EXPECT_EQ(wide.stats().allowed, 2u);
  EXPECT_EQ(wide.stats().refused, 0u) << "it would have allowed them";
  EXPECT_EQ(narrow.stats().refused, 20u);
  EXPECT_EQ(wide.stats().keys, 1u);
}

TEST(RateLimiter, ARefusalLeavesNoKeyInTheOthers) {
  RateLimiter wide(Limit(10, 1min)), none(Limit(1, 1min));
  none.Admit("n", kStart);
  RateLimiter::Check checks[] = {{&wide, "w", false, {}}, {&none, "n", false, {}}};
  EXPECT_FALSE(RateLimiter::AdmitTogether(checks, kStart));
  EXPECT_EQ(wide.stats().keys, 0u);
  EXPECT_EQ(checks[0].decision.remaining, 9u);
  EXPECT_EQ(checks[1].decision.reset, 1min);
}

TEST(RateLimiter, AShadowCountsWhatItWouldRefuseAndRefusesNothing) {
  RateLimiter enforced(Limit(5, 1min)), shadow(Limit(2, 1min));
  int admitted = 0;
  for (int i = 0; i < 10; ++i) {
    RateLimiter::Check checks[] = {{&enforced, "e", false, {}}, {&shadow, "s", true, {}}};
    admitted += RateLimiter::AdmitTogether(checks, kStart) ? 1 : 0;
    EXPECT_EQ(checks[1].decision.allowed, i < 2);
  }
  EXPECT_EQ(admitted, 5);
  EXPECT_EQ(shadow.stats().allowed, 2u);
  EXPECT_EQ(shadow.stats().shadow_refused, 8u);
  EXPECT_EQ(shadow.stats().refused, 0u);
  EXPECT_EQ(enforced.stats().allowed, 5u);
  EXPECT_EQ(enforced.stats().refused, 5u);
}

// Two limits in both orders, from several threads: each admits exactly its limit, and the shared one exactly their
// sum.
TEST(RateLimiter, LimitsCheckedTogetherAreExactOverThreads) {
  RateLimiter common(Limit(1000, 1min)), left(Limit(300, 1min)), right(Tokens(400, 1h));
  std::atomic<int> of_left{0}, of_right{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 1500; ++i) {
        const TimePoint now = kStart + milliseconds(i / 10);
        RateLimiter& own = (t + i) % 2 == 0 ? left : right;
        RateLimiter::Check ab[] = {{&common, "c", false, {}}, {&own, "k", false, {}}};
        RateLimiter::Check ba[] = {{&own, "k", false, {}}, {&common, "c", false, {}}};
        if (RateLimiter::AdmitTogether(t % 2 == 0 ? ab : ba, now)) ++(&own == &left ? of_left : of_right);
        const std::string key = "x" + std::to_string(i);
        RateLimiter::Check both[] = {{&left, key, false, {}}, {&right, "y", false, {}}};
        (void)RateLimiter::AdmitTogether(both, now);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(of_left, 300);
  EXPECT_EQ(of_right, 400);
  EXPECT_EQ(common.Peek("c", kStart + 1s).remaining, 1000u - 700u - 1u) << "what the others refused cost nothing";
}

TEST(RateLimiter, SharedOverflowsOfSeveralLimitsDoNotDeadlock) {
  RateLimiter a(Limit(1'000'000, 1min, 2)), b(Limit(1'000'000, 1min, 2)), c(Tokens(1'000'000, 1min));
  std::vector<std::thread> threads;
  std::atomic<int> admitted{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 3000; ++i) {
        const std::string key = std::to_string(t * 10'000 + i);
        RateLimiter::Check one[] = {{&a, key}, {&b, key}, {&c, key}};
        RateLimiter::Check two[] = {{&c, key}, {&b, key}, {&a, key}};
        if (RateLimiter::AdmitTogether(t % 2 == 0 ? one : two, kStart)) ++admitted;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(admitted, 12'000);
  EXPECT_EQ(a.stats().overflowed, 12'000u - 2u);
  EXPECT_EQ(b.stats().overflowed, 12'000u - 2u);
}

TEST(RateLimiter, MoreLimitsThanFitInlineAreChecked) {
  std::vector<std::unique_ptr<RateLimiter>> limiters;
  std::vector<RateLimiter::Check> checks;
  for (int i = 0; i < 12; ++i) limiters.push_back(std::make_unique<RateLimiter>(Limit(i == 11 ? 1 : 100, 1min)));
  for (const auto& each : limiters) checks.push_back({each.get(), "k", false, {}});
  EXPECT_TRUE(RateLimiter::AdmitTogether(checks, kStart));
  EXPECT_FALSE(RateLimiter::AdmitTogether(checks, kStart));
  for (int i = 0; i < 11; ++i) EXPECT_EQ(limiters[i]->Peek("k", kStart).remaining, 98u);
}

TEST(RateLimiter, ARefundMakesRoomForOneMore) {
  for (const RateLimiter::Options& options : {Limit(3, 1min), Tokens(3, 1min), Fixed(3, 1min)}) {
    RateLimiter limiter(options);
    EXPECT_EQ(AdmitMany(limiter, "a", 5, kStart), 3);
    limiter.Refund("a", kStart);
    EXPECT_EQ(AdmitMany(limiter, "a", 5, kStart), 1);
    limiter.Refund("nobody", kStart);
    EXPECT_EQ(AdmitMany(limiter, "nobody", 5, kStart), 3);
  }
}

// Refunds in any order: never more kept requests than the limit in any window.
TEST(RateLimiter, RefundsNeverAdmitTooMany) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (int round = 0; round < 20; ++round) {
    const uint32_t requests = round % 2 == 0 ? 10 : 200;
    RateLimiter limiter(Limit(requests, 1s));
    std::deque<TimePoint> kept, pending;
    TimePoint now = kStart;
    for (int i = 0; i < 5000; ++i) {
      now += nanoseconds(random() % (2'000'000'000 / requests));
      if (limiter.Admit("a", now).allowed) (random() % 2 == 0 ? kept : pending).push_back(now);
      while (!kept.empty() && kept.front() <= now - 1s) kept.pop_front();
      ASSERT_LE(kept.size(), requests);
      while (!pending.empty() && pending.front() < now - 20ms) {
        limiter.Refund("a", pending.front());
        pending.pop_front();
      }
    }
  }
}

// The decision of two that the client sees.
TEST(RateLimiter, TheTightestLimitIsReported) {
  const RateLimitDecision two_left{true, 10, 2, 5s}, five_left{true, 100, 5, 60s};
  const RateLimitDecision refused_short{false, 10, 0, 1s}, refused_long{false, 10, 0, 30s};
  EXPECT_TRUE(IsTighter(two_left, five_left));
  EXPECT_FALSE(IsTighter(five_left, two_left));
  EXPECT_TRUE(IsTighter(refused_short, two_left));
  EXPECT_TRUE(IsTighter(refused_long, refused_short));
  EXPECT_FALSE(IsTighter(refused_short, refused_short));
}

// Requests admitted under one algorithm count under the next.
TEST(RateLimiter, AnotherAlgorithmCountsWhatWasAdmittedBefore) {
  const std::vector<RateLimiter::Options> all = {Limit(10, 1min), Tokens(10, 1min), Fixed(10, 1min)};
  for (const auto& from : all) {
    for (const auto& to : all) {
      SCOPED_TRACE(std::to_string(static_cast<int>(from.algorithm)) + " to " +
                   std::to_string(static_cast<int>(to.algorithm)));
      RateLimiter limiter(from);
      EXPECT_EQ(AdmitMany(limiter, "a", 7, kStart), 7);
      limiter.Reconfigure(to, kStart + 1ms);
      EXPECT_EQ(AdmitMany(limiter, "a", 10, kStart + 1ms), 3);
      EXPECT_EQ(AdmitMany(limiter, "a", 20, kStart + 2min), 10) << "and not forever";
    }
  }
}

TEST(RateLimiter, ANewRateOfATokenBucketKeepsWhatIsOwed) {
  RateLimiter limiter(Tokens(10, 10s));
  EXPECT_EQ(AdmitMany(limiter, "a", 8, kStart), 8);
  limiter.Reconfigure(Tokens(100, 10s, 10), kStart);
  EXPECT_EQ(AdmitMany(limiter, "a", 10, kStart), 2);
  limiter.Reconfigure(Tokens(100, 10s, 5), kStart);
  EXPECT_FALSE(limiter.Admit("a", kStart + 500ms).allowed) << "it owes 10 of 5";
  EXPECT_TRUE(limiter.Admit("a", kStart + 600ms).allowed);
}

}  // namespace
}  // namespace gateway::dataplane
