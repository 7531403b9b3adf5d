#include "dataplane/policy/rate_limiter.h"

#include <deque>
#include <map>
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

SlidingWindowLimiter::Options Limit(uint32_t requests, milliseconds window, size_t keys_max = 100'000) {
  return {.requests = requests, .window = window, .keys_max = keys_max};
}

TimePoint::duration TickOf(milliseconds window) {
  return std::max<nanoseconds>(1ms, (nanoseconds(window) + nanoseconds(255)) / 256);
}

int AdmitMany(SlidingWindowLimiter& limiter, std::string_view key, int tries, TimePoint now) {
  int admitted = 0;
  for (int i = 0; i < tries; ++i) admitted += limiter.Admit(key, now).allowed ? 1 : 0;
  return admitted;
}

TEST(SlidingWindowLimiter, AdmitsTheLimitAndNoMore) {
  SlidingWindowLimiter limiter(Limit(3, 1min));
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
  SlidingWindowLimiter limiter(Limit(2, 1s));
  EXPECT_TRUE(limiter.Admit("a", kStart).allowed);
  EXPECT_TRUE(limiter.Admit("a", kStart + 500ms).allowed);
  EXPECT_FALSE(limiter.Admit("a", kStart + 999ms).allowed);
  EXPECT_TRUE(limiter.Admit("a", kStart + 1005ms).allowed);
  EXPECT_FALSE(limiter.Admit("a", kStart + 1400ms).allowed);
  EXPECT_TRUE(limiter.Admit("a", kStart + 1505ms).allowed);
}

TEST(SlidingWindowLimiter, ARefusedRequestConsumesNothing) {
  SlidingWindowLimiter limiter(Limit(1, 1s));
  EXPECT_TRUE(limiter.Admit("a", kStart).allowed);
  for (int i = 1; i < 1000; ++i) EXPECT_FALSE(limiter.Admit("a", kStart + milliseconds(i)).allowed);
  EXPECT_TRUE(limiter.Admit("a", kStart + 1005ms).allowed);
}

TEST(SlidingWindowLimiter, APeekSaysWhatAdmitWouldAndConsumesNothing) {
  SlidingWindowLimiter limiter(Limit(2, 1s));
  for (int i = 0; i < 10; ++i) {
    const RateLimitDecision peeked = limiter.Peek("a", kStart);
    EXPECT_TRUE(peeked.allowed);
    EXPECT_EQ(peeked.remaining, 1u);
  }
  EXPECT_EQ(limiter.stats().keys, 0u) << "a look makes no key";
  EXPECT_EQ(AdmitMany(limiter, "a", 5, kStart), 2);
  const RateLimitDecision peeked = limiter.Peek("a", kStart), admitted = limiter.Admit("a", kStart);
  EXPECT_FALSE(peeked.allowed);
  EXPECT_EQ(peeked.reset, admitted.reset);
}

// Retry-After: not allowed a millisecond before, allowed then.
TEST(SlidingWindowLimiter, SaysExactlyWhenTheNextRequestIsAllowed) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (const milliseconds window : {100ms, 1000ms, 60'000ms, 61'234ms, 86'400'000ms}) {
    for (int round = 0; round < 50; ++round) {
      SlidingWindowLimiter limiter(Limit(4, window));
      TimePoint now = kStart + milliseconds(random() % 1'000'000) + nanoseconds(random() % 1'000'000);
      RateLimitDecision decision;
      while ((decision = limiter.Admit("a", now)).allowed) now += window * (random() % 300) / 1024;
      ASSERT_GT(decision.reset, 0ms);
      ASSERT_LE(decision.reset, window + std::chrono::ceil<milliseconds>(TickOf(window)));
      EXPECT_FALSE(limiter.Peek("a", now + decision.reset - 1ms).allowed) << window.count();
      EXPECT_TRUE(limiter.Peek("a", now + decision.reset).allowed) << window.count();
    }
  }
}

// RateLimit-Reset: then the key is as good as new.
TEST(SlidingWindowLimiter, SaysExactlyWhenTheKeyHasRecovered) {
  SlidingWindowLimiter limiter(Limit(10, 1s));
  limiter.Admit("a", kStart);
  const RateLimitDecision decision = limiter.Admit("a", kStart + 700ms);
  EXPECT_LT(limiter.Peek("a", kStart + 700ms + decision.reset - 1ms).remaining, 9u);
  EXPECT_EQ(limiter.Peek("a", kStart + 700ms + decision.reset).remaining, 9u);
}

// Against a log of every admitted request: never more than the limit in any window, and never refused where the log has
// room even with one tick more.
TEST(SlidingWindowLimiter, IsExactToATick) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (int round = 0; round < 60; ++round) {
    const milliseconds window(std::vector<int>{100, 137, 256, 1000, 4321, 60'000}[random() % 6]);
    const uint32_t requests = std::vector<uint32_t>{1, 2, 7, 50, 300}[random() % 5];
    const auto tick = TickOf(window);
    SlidingWindowLimiter limiter(Limit(requests, window));
    std::map<std::string, std::deque<TimePoint>> log;
    TimePoint now = kStart + nanoseconds(random());
    const auto pace = nanoseconds(window) / requests;  // of which a step is an eighth on average
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
      while (!times.empty() && times.front() <= now - window - tick) times.pop_front();
      const auto in_window =
          static_cast<size_t>(times.end() - std::upper_bound(times.begin(), times.end(), now - window));
      const RateLimitDecision decision = limiter.Admit(key, now);
      if (decision.allowed) {
        ASSERT_LT(in_window, requests) << "window " << window.count() << " ms, request " << i;
        ASSERT_LT(decision.remaining, requests - in_window);
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
  SlidingWindowLimiter limiter(Limit(2, 1s));
  EXPECT_EQ(AdmitMany(limiter, "a", 5, kStart), 2);
  EXPECT_EQ(AdmitMany(limiter, "a", 5, kStart + 1100ms), 2);
  // A worker whose clock is behind would see a window without the newer two.
  EXPECT_EQ(AdmitMany(limiter, "a", 5, kStart + 1050ms), 0);
  EXPECT_EQ(AdmitMany(limiter, "a", 5, kStart + 2150ms), 2);
}

TEST(SlidingWindowLimiter, TheLimitHoldsOverAllThreads) {
  SlidingWindowLimiter limiter(Limit(1000, 1min));
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
  SlidingWindowLimiter limiter(Limit(5, 100ms, kKeysMax));
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 5000; ++i) {
        limiter.Admit(std::to_string(t * 10'000 + i), kStart + milliseconds(i / 10));
        EXPECT_LE(limiter.stats().keys, kKeysMax + 4) << "a place asked for counts until it is refused";
        if (i % 1000 == 0)
          limiter.Reconfigure(Limit(5, milliseconds(100 + i / 10), kKeysMax), kStart + milliseconds(i / 10));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(limiter.stats().keys, kKeysMax);
  EXPECT_GT(limiter.stats().overflowed, 0u);
  // (whether any had recovered before depends on how the threads took turns)
  for (size_t i = 0; i < kKeysMax; ++i) limiter.Admit("late" + std::to_string(i), kStart + 10s);
  EXPECT_LE(limiter.stats().keys, kKeysMax);
  EXPECT_GT(limiter.stats().evicted, 0u);
}

TEST(SlidingWindowLimiter, OnlyRecoveredKeysAreDropped) {
  SlidingWindowLimiter limiter(Limit(1, 1s, 10));
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(limiter.Admit(std::to_string(i), kStart + milliseconds(i)).allowed);
  limiter.Admit("new", kStart + 500ms);
  EXPECT_EQ(limiter.stats().keys, 10u);
  EXPECT_EQ(limiter.stats().evicted, 0u);
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(limiter.Admit(std::to_string(i), kStart + 900ms).allowed) << i;
}

TEST(SlidingWindowLimiter, KeysPastTheBoundShareOneBucket) {
  SlidingWindowLimiter limiter(Limit(3, 1s, 10));
  for (int i = 0; i < 10; ++i) limiter.Admit(std::to_string(i), kStart);
  int admitted = 0;
  for (int i = 0; i < 100; ++i) admitted += limiter.Admit("made up " + std::to_string(i), kStart).allowed ? 1 : 0;
  EXPECT_EQ(admitted, 3);
  EXPECT_FALSE(limiter.Peek("made up again", kStart).allowed);
  EXPECT_EQ(limiter.stats().keys, 10u);
  EXPECT_EQ(limiter.stats().overflowed, 100u);
  EXPECT_TRUE(limiter.Admit("0", kStart).allowed) << "a known key has its own";
}

TEST(SlidingWindowLimiter, RecoveredKeysMakeRoomInEveryShard) {
  SlidingWindowLimiter limiter(Limit(1, 1s, 200));
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(limiter.Admit(std::to_string(i), kStart).allowed);
  for (int i = 200; i < 400; ++i) ASSERT_TRUE(limiter.Admit(std::to_string(i), kStart + 2s).allowed) << i;
  EXPECT_EQ(limiter.stats().overflowed, 0u);
  EXPECT_EQ(limiter.stats().evicted, 200u);
}

// A key that was in the overflow bucket gets its own later: together not more than the limit.
TEST(SlidingWindowLimiter, AWayOutOfTheOverflowIsNoSecondChance) {
  SlidingWindowLimiter limiter(Limit(5, 1s, 1));
  limiter.Admit("first", kStart);
  EXPECT_EQ(AdmitMany(limiter, "x", 10, kStart + 500ms), 5);
  EXPECT_EQ(limiter.stats().overflowed, 10u);
  // "first" has recovered and gives its place away.
  EXPECT_EQ(AdmitMany(limiter, "x", 10, kStart + 1200ms), 0);
  EXPECT_EQ(limiter.stats().overflowed, 10u);
  EXPECT_EQ(AdmitMany(limiter, "x", 10, kStart + 1600ms), 5);
  EXPECT_EQ(limiter.stats().keys, 1u);
}

TEST(SlidingWindowLimiter, ANewLimitCountsWhatWasAdmittedBefore) {
  SlidingWindowLimiter limiter(Limit(10, 1s));
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
    SlidingWindowLimiter limiter(Limit(10, 1s));
    EXPECT_EQ(AdmitMany(limiter, "a", 6, kStart), 6);
    limiter.Reconfigure(Limit(10, window), kStart + 10ms);
    EXPECT_EQ(AdmitMany(limiter, "a", 10, kStart + 10ms), 4) << window.count();
    // And no longer than that window: what is moved to it may seem a tick of the old one younger, not more.
    EXPECT_EQ(AdmitMany(limiter, "a", 20, kStart + 10ms + window + TickOf(window)), 10) << window.count();
  }
}

TEST(SlidingWindowLimiter, AMuchLongerWindowAfterwardsIsSafe) {
  SlidingWindowLimiter limiter(Limit(2, 100ms));
  AdmitMany(limiter, "a", 2, kStart);
  AdmitMany(limiter, "a", 1, kStart + 1h);
  limiter.Reconfigure(Limit(2, 86'400'000ms), kStart + 2h);
  EXPECT_EQ(AdmitMany(limiter, "a", 5, kStart + 2h), 2);
}

TEST(SlidingWindowLimiter, ManyRequestsInManyTicksStayCounted) {
  SlidingWindowLimiter limiter(Limit(100'000, 256ms));
  uint64_t admitted = 0;
  for (int i = 0; i < 2560; ++i) admitted += AdmitMany(limiter, "a", 100, kStart + milliseconds(i));
  EXPECT_EQ(admitted, 256'000u) << "25,700 in any window";
  EXPECT_EQ(limiter.Peek("a", kStart + 2559ms).remaining, 100'000u - 25'700u - 1u);
}

}  // namespace
}  // namespace gateway::dataplane
