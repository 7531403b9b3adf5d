#include "dataplane/policy/circuit_breaker.h"

#include <atomic>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gateway::dataplane {
namespace {

using namespace std::chrono_literals;
using Permit = CircuitBreaker::Permit;

constexpr TimePoint kStart{1000h};

struct Settings {
  Millis timeout = 1000ms;
  uint32_t max_concurrent_requests = 100;
  uint32_t request_volume_threshold = 20;
  Millis sleep_window = 5000ms;
  uint32_t error_percent_threshold = 50;
};

BreakerPolicy Policy(const Settings& settings) {
  BreakerPolicy policy;
  policy.name = "test";
  policy.timeout = settings.timeout;
  policy.max_concurrent_requests = settings.max_concurrent_requests;
  policy.request_volume_threshold = settings.request_volume_threshold;
  policy.sleep_window = settings.sleep_window;
  policy.error_percent_threshold = settings.error_percent_threshold;
  return policy;
}

std::shared_ptr<CircuitBreaker> Make(const Settings& settings = {}) {
  return std::make_shared<CircuitBreaker>(Policy(settings));
}

Permit Admit(CircuitBreaker& breaker, TimePoint now) {
  Permit permit;
  EXPECT_EQ(breaker.Acquire(now, &permit), BreakerVerdict::kAllowed);
  return permit;
}

BreakerVerdict Try(CircuitBreaker& breaker, TimePoint now) {
  Permit permit;
  return breaker.Acquire(now, &permit);
}

void Do(CircuitBreaker& breaker, Outcome outcome, int count, TimePoint now) {
  for (int i = 0; i < count; ++i) Admit(breaker, now).Report(outcome, now);
}

std::shared_ptr<CircuitBreaker> MakeOpen(TimePoint now, const Settings& settings = {}) {
  auto breaker = Make(settings);
  Do(*breaker, Outcome::kFailure, static_cast<int>(settings.request_volume_threshold), now);
  EXPECT_EQ(breaker->view(now).state, BreakerState::kOpen);
  return breaker;
}

TEST(CircuitBreaker, OpensAtTheErrorPercentage) {
  auto breaker = Make();
  Do(*breaker, Outcome::kSuccess, 10, kStart);
  Do(*breaker, Outcome::kFailure, 9, kStart);
  EXPECT_EQ(breaker->view(kStart).state, BreakerState::kClosed);
  Do(*breaker, Outcome::kFailure, 1, kStart);
  EXPECT_EQ(breaker->view(kStart).state, BreakerState::kOpen);
  EXPECT_EQ(breaker->view(kStart).opened, 1u);
  EXPECT_EQ(Try(*breaker, kStart), BreakerVerdict::kOpen);
}

TEST(CircuitBreaker, RemembersTheWindowThatOpenedIt) {
  auto breaker = Make();
  EXPECT_EQ(breaker->view(kStart).opening_requests, 0u);
  Do(*breaker, Outcome::kSuccess, 10, kStart);
  Do(*breaker, Outcome::kFailure, 10, kStart);
  const TimePoint later = kStart + 30s;  // the window is empty again
  EXPECT_EQ(breaker->view(later).requests, 0u);
  EXPECT_EQ(breaker->view(later).opening_requests, 20u);
  EXPECT_EQ(breaker->view(later).opening_failures, 10u);
  Admit(*breaker, later).Report(Outcome::kFailure, later);  // a probe
  EXPECT_EQ(breaker->view(later).opening_requests, 20u) << "a failed probe keeps it open";
}

TEST(CircuitBreaker, StaysClosedBelowTheErrorPercentage) {
  auto breaker = Make();
  Do(*breaker, Outcome::kSuccess, 51, kStart);
  Do(*breaker, Outcome::kFailure, 49, kStart);
  EXPECT_EQ(breaker->view(kStart).state, BreakerState::kClosed);
}

TEST(CircuitBreaker, FewRequestsNeverOpenIt) {
  auto breaker = Make();
  Do(*breaker, Outcome::kFailure, 19, kStart);
  EXPECT_EQ(breaker->view(kStart).state, BreakerState::kClosed);
  Do(*breaker, Outcome::kFailure, 19, kStart + 10s) /* the first 19 have left the window */;
  EXPECT_EQ(breaker->view(kStart + 10s).state, BreakerState::kClosed);
  EXPECT_EQ(breaker->view(kStart + 10s).requests, 19u);
}

TEST(CircuitBreaker, TheWindowRollsBySeconds) {
  auto breaker = Make();
  for (int second = 0; second < 10; ++second) Do(*breaker, Outcome::kSuccess, 1, kStart + std::chrono::seconds(second));
  EXPECT_EQ(breaker->view(kStart + 9s).requests, 10u);
  EXPECT_EQ(breaker->view(kStart + 10s).requests, 9u);
  EXPECT_EQ(breaker->view(kStart + 15s).requests, 4u);
  EXPECT_EQ(breaker->view(kStart + 1h).requests, 0u);
}

// Failures that stay in the window while successes leave it: evaluated at the next request.
TEST(CircuitBreaker, OpensWhenTheSuccessesGrowOld) {
  auto breaker = Make({.request_volume_threshold = 10});
  Do(*breaker, Outcome::kSuccess, 100, kStart);
  Do(*breaker, Outcome::kFailure, 10, kStart + 5s);
  EXPECT_EQ(Try(*breaker, kStart + 9s), BreakerVerdict::kAllowed);
  EXPECT_EQ(Try(*breaker, kStart + 10s), BreakerVerdict::kOpen);
}

TEST(CircuitBreaker, ASuccessfulProbeClosesIt) {
  auto breaker = MakeOpen(kStart);
  EXPECT_EQ(Try(*breaker, kStart + 4999ms), BreakerVerdict::kOpen);
  Permit probe = Admit(*breaker, kStart + 5s);
  EXPECT_EQ(breaker->view(kStart + 5s).state, BreakerState::kHalfOpen);
  EXPECT_EQ(Try(*breaker, kStart + 5s), BreakerVerdict::kOpen) << "one at a time";
  probe.Report(Outcome::kSuccess, kStart + 5s);
  EXPECT_EQ(breaker->view(kStart + 5s).state, BreakerState::kClosed);
  EXPECT_EQ(breaker->view(kStart + 5s).requests, 0u) << "a new window: the old failures must not reopen it";
  EXPECT_EQ(Try(*breaker, kStart + 5s), BreakerVerdict::kAllowed);
}

TEST(CircuitBreaker, AFailedProbeOpensItForAnotherSleepWindow) {
  auto breaker = MakeOpen(kStart);
  Admit(*breaker, kStart + 5s).Report(Outcome::kFailure, kStart + 6s);
  EXPECT_EQ(breaker->view(kStart + 6s).state, BreakerState::kOpen);
  EXPECT_EQ(breaker->view(kStart + 6s).opened, 2u);
  EXPECT_EQ(Try(*breaker, kStart + 10'999ms), BreakerVerdict::kOpen);
  EXPECT_EQ(Try(*breaker, kStart + 11s), BreakerVerdict::kAllowed);
}

TEST(CircuitBreaker, ACancelledProbeLetsTheNextRequestTry) {
  auto breaker = MakeOpen(kStart);
  { Permit probe = Admit(*breaker, kStart + 5s); }
  EXPECT_EQ(breaker->view(kStart + 5s).opened, 1u);
  Admit(*breaker, kStart + 5s).Report(Outcome::kSuccess, kStart + 5s);
  EXPECT_EQ(breaker->view(kStart + 5s).state, BreakerState::kClosed);
}

TEST(CircuitBreaker, AProbeThatNeverEndsIsReplaced) {
  for (const auto& [timeout, patience] : {std::pair(1000ms, 5000ms), std::pair(8000ms, 8000ms)}) {
    auto breaker = MakeOpen(kStart, {.timeout = timeout});
    Permit first = Admit(*breaker, kStart + 5s);
    EXPECT_EQ(Try(*breaker, kStart + 5s + patience - 1ms), BreakerVerdict::kOpen);
    Permit second = Admit(*breaker, kStart + 5s + patience);
    EXPECT_EQ(Try(*breaker, kStart + 5s + patience), BreakerVerdict::kOpen);
    first.Report(Outcome::kSuccess, kStart + 20s);
    EXPECT_EQ(breaker->view(kStart + 20s).state, BreakerState::kHalfOpen) << "an abandoned probe decides nothing";
    second.Report(Outcome::kSuccess, kStart + 20s);
    EXPECT_EQ(breaker->view(kStart + 20s).state, BreakerState::kClosed);
  }
}

TEST(CircuitBreaker, ASuccessFromBeforeItOpenedDoesNotCloseIt) {
  auto breaker = Make();
  Permit early = Admit(*breaker, kStart);
  Permit early_too = Admit(*breaker, kStart);
  Do(*breaker, Outcome::kFailure, 20, kStart);
  early.Report(Outcome::kSuccess, kStart + 1s);
  EXPECT_EQ(breaker->view(kStart + 1s).state, BreakerState::kOpen);
  Permit probe = Admit(*breaker, kStart + 5s);
  early_too.Report(Outcome::kSuccess, kStart + 5s);
  EXPECT_EQ(breaker->view(kStart + 5s).state, BreakerState::kHalfOpen);
}

TEST(CircuitBreaker, AFailureFromBeforeItClosedAgainIsNotCounted) {
  auto breaker = Make();
  Permit early = Admit(*breaker, kStart);
  Do(*breaker, Outcome::kFailure, 20, kStart);
  Admit(*breaker, kStart + 5s).Report(Outcome::kSuccess, kStart + 5s);
  early.Report(Outcome::kFailure, kStart + 6s);
  early = Permit();
  EXPECT_EQ(breaker->view(kStart + 6s).failures, 0u);
  EXPECT_EQ(breaker->view(kStart + 6s).in_flight, 0u);
}

TEST(CircuitBreaker, RejectionsAreNoErrors) {
  auto breaker = Make({.max_concurrent_requests = 1, .request_volume_threshold = 2});
  Permit busy = Admit(*breaker, kStart);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(Try(*breaker, kStart), BreakerVerdict::kTooMany);
  EXPECT_EQ(breaker->view(kStart).failures, 0u);
  EXPECT_EQ(breaker->view(kStart).requests, 0u);
  EXPECT_EQ(breaker->view(kStart).in_flight, 1u);
  busy.Report(Outcome::kSuccess, kStart);
  // The response header has arrived, its body has not: the slot is still taken.
  EXPECT_EQ(Try(*breaker, kStart), BreakerVerdict::kTooMany);
  busy = Permit();
  EXPECT_EQ(Try(*breaker, kStart), BreakerVerdict::kAllowed);

  auto open = MakeOpen(kStart);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(Try(*open, kStart), BreakerVerdict::kOpen);
  EXPECT_EQ(open->view(kStart).requests, 20u);
}

TEST(CircuitBreaker, AProbeTakesAPlaceLikeAnyOther) {
  auto breaker = Make({.max_concurrent_requests = 2, .request_volume_threshold = 1});
  Permit slow[] = {Admit(*breaker, kStart), Admit(*breaker, kStart)};
  slow[0].Report(Outcome::kFailure, kStart);
  slow[0] = Permit();
  EXPECT_EQ(breaker->view(kStart).state, BreakerState::kOpen);
  Permit probe = Admit(*breaker, kStart + 5s);
  EXPECT_EQ(breaker->view(kStart).in_flight, 2u);
  probe.Report(Outcome::kFailure, kStart + 5s);
  probe = Permit();
  EXPECT_EQ(breaker->view(kStart).in_flight, 1u);
}

TEST(CircuitBreaker, ACancelledRequestCountsAsNeither) {
  auto breaker = Make({.request_volume_threshold = 1});
  Admit(*breaker, kStart).Report(Outcome::kCancelled, kStart);
  { Permit dropped = Admit(*breaker, kStart); }
  EXPECT_EQ(breaker->view(kStart).requests, 0u);
  EXPECT_EQ(breaker->view(kStart).in_flight, 0u);
}

TEST(CircuitBreaker, APermitReportsOnce) {
  auto breaker = Make();
  Permit permit = Admit(*breaker, kStart);
  Permit moved = std::move(permit);
  EXPECT_FALSE(permit);
  EXPECT_TRUE(moved);
  moved.Report(Outcome::kSuccess, kStart);
  moved.Report(Outcome::kFailure, kStart);
  EXPECT_TRUE(moved.reported());
  moved = Permit();
  const CircuitBreaker::View view = breaker->view(kStart);
  EXPECT_EQ(view.requests, 1u);
  EXPECT_EQ(view.failures, 0u);
  EXPECT_EQ(view.in_flight, 0u);
}

TEST(CircuitBreaker, APermitThatIsAcquiredAgainGivesItsPlaceBack) {
  auto breaker = Make();
  Permit permit = Admit(*breaker, kStart);
  EXPECT_EQ(breaker->Acquire(kStart, &permit), BreakerVerdict::kAllowed);
  EXPECT_EQ(breaker->view(kStart).in_flight, 1u);
}

TEST(CircuitBreaker, APermitKeepsItsBreakerAlive) {
  auto breaker = Make();
  Permit permit = Admit(*breaker, kStart);
  breaker = nullptr;
  permit.Report(Outcome::kSuccess, kStart);
}

TEST(CircuitBreaker, NewSettingsKeepTheState) {
  auto breaker = MakeOpen(kStart);
  breaker->Reconfigure(Policy({.sleep_window = 1000ms}));
  EXPECT_EQ(breaker->view(kStart).state, BreakerState::kOpen);
  EXPECT_EQ(Try(*breaker, kStart + 999ms), BreakerVerdict::kOpen);
  EXPECT_EQ(Try(*breaker, kStart + 1s), BreakerVerdict::kAllowed);

  auto closed = Make();
  Do(*closed, Outcome::kFailure, 10, kStart);
  closed->Reconfigure(Policy({.request_volume_threshold = 10}));
  EXPECT_EQ(closed->view(kStart).failures, 10u);
  EXPECT_EQ(Try(*closed, kStart), BreakerVerdict::kOpen);
}

TEST(CircuitBreaker, SaysWhenToComeAgain) {
  auto breaker = Make();
  EXPECT_EQ(breaker->RetryAfter(kStart), 0ms);
  breaker = MakeOpen(kStart);
  EXPECT_EQ(breaker->RetryAfter(kStart + 1s), 4s);
  EXPECT_EQ(breaker->RetryAfter(kStart + 4999ms + 500us), 1ms);
  EXPECT_EQ(breaker->RetryAfter(kStart + 9s), 0ms);
  Permit probe = Admit(*breaker, kStart + 9s);
  EXPECT_EQ(breaker->RetryAfter(kStart + 10s), 4s) << "until the probe is replaced";
}

TEST(CircuitBreaker, AnEarlierNowCountsInTheNewestSecond) {
  auto breaker = Make();
  Do(*breaker, Outcome::kSuccess, 1, kStart + 10s);
  Do(*breaker, Outcome::kSuccess, 1, kStart);  // the same bucket as ten seconds ago
  EXPECT_EQ(breaker->view(kStart + 10s).requests, 2u);
}

TEST(CircuitBreaker, ConcurrencyIsBoundedOverThreads) {
  auto breaker = Make({.max_concurrent_requests = 3, .request_volume_threshold = 1'000'000});
  std::atomic<int> inside{0}, most{0}, let_in{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 5000; ++i) {
        Permit permit;
        if (breaker->Acquire(kStart, &permit) != BreakerVerdict::kAllowed) continue;
        const int now_inside = ++inside;
        for (int seen = most; now_inside > seen && !most.compare_exchange_weak(seen, now_inside);) {
        }
        ++let_in;
        permit.Report(i % 2 == 0 ? Outcome::kSuccess : Outcome::kFailure, kStart);
        --inside;
        (void)breaker->view(kStart);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(most, 3);
  EXPECT_EQ(breaker->view(kStart).requests, static_cast<uint32_t>(let_in));
  EXPECT_EQ(breaker->view(kStart).in_flight, 0u);
}

TEST(CircuitBreaker, OnlyOneOfManyThreadsProbes) {
  auto breaker = MakeOpen(kStart);
  std::atomic<int> allowed{0};
  std::vector<Permit> permits(4);
  std::vector<std::thread> threads;
  for (Permit& permit : permits) {
    threads.emplace_back(
        [&] { allowed += breaker->Acquire(kStart + 5s, &permit) == BreakerVerdict::kAllowed ? 1 : 0; });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(allowed, 1);
}

TEST(CircuitBreaker, SlowAnswersOpenIt) {
  BreakerPolicy policy = Policy({.request_volume_threshold = 4});
  policy.slow_call_duration = 200ms;
  policy.slow_call_percent_threshold = 50;
  auto breaker = std::make_shared<CircuitBreaker>(policy);
  Admit(*breaker, kStart).Report(Outcome::kSuccess, kStart, 199ms);
  Admit(*breaker, kStart).Report(Outcome::kSuccess, kStart, 199ms);
  Admit(*breaker, kStart).Report(Outcome::kSuccess, kStart, 200ms);
  EXPECT_EQ(breaker->view(kStart).state, BreakerState::kClosed);
  Admit(*breaker, kStart).Report(Outcome::kSuccess, kStart, 5s);
  EXPECT_EQ(breaker->view(kStart).state, BreakerState::kOpen);
  EXPECT_EQ(breaker->view(kStart).slow, 2u);
  EXPECT_EQ(breaker->view(kStart).failures, 0u);
  // A slow probe does not count as a success.
  Admit(*breaker, kStart + 5s).Report(Outcome::kSuccess, kStart + 5s, 300ms);
  EXPECT_EQ(breaker->view(kStart + 5s).state, BreakerState::kOpen);
  Admit(*breaker, kStart + 10s).Report(Outcome::kSuccess, kStart + 10s, 1ms);
  EXPECT_EQ(breaker->view(kStart + 10s).state, BreakerState::kClosed);
}

// An open breaker with `policy`, since kStart.
std::shared_ptr<CircuitBreaker> Opened(BreakerPolicy policy) {
  policy.request_volume_threshold = 1;
  auto breaker = std::make_shared<CircuitBreaker>(policy);
  Admit(*breaker, kStart).Report(Outcome::kFailure, kStart);
  EXPECT_EQ(breaker->view(kStart).state, BreakerState::kOpen);
  return breaker;
}

TEST(CircuitBreaker, AllOfSeveralProbesHaveToSucceed) {
  BreakerPolicy policy = Policy({});
  policy.probes = 3;
  auto breaker = Opened(policy);
  TimePoint now = kStart + 5s;
  std::vector<Permit> probes(3);
  for (Permit& probe : probes) ASSERT_EQ(breaker->Acquire(now, &probe), BreakerVerdict::kAllowed);
  Permit more;
  EXPECT_EQ(breaker->Acquire(now, &more), BreakerVerdict::kOpen);
  probes[0].Report(Outcome::kSuccess, now);
  probes[1].Report(Outcome::kSuccess, now);
  EXPECT_EQ(breaker->view(now).state, BreakerState::kHalfOpen);
  // A cancelled probe is replaced.
  probes[2].Report(Outcome::kCancelled, now);
  ASSERT_EQ(breaker->Acquire(now, &more), BreakerVerdict::kAllowed);
  more.Report(Outcome::kSuccess, now);
  EXPECT_EQ(breaker->view(now).state, BreakerState::kClosed);

  breaker = Opened(policy);
  for (Permit& probe : probes) ASSERT_EQ(breaker->Acquire(now, &probe), BreakerVerdict::kAllowed);
  probes[0].Report(Outcome::kSuccess, now);
  probes[1].Report(Outcome::kFailure, now);
  EXPECT_EQ(breaker->view(now).state, BreakerState::kOpen);
  probes[2].Report(Outcome::kSuccess, now);
  EXPECT_EQ(breaker->view(now).state, BreakerState::kOpen) << "a probe from before does not count";
}

// Successful probes keep counting, however long the next request takes to arrive.
TEST(CircuitBreaker, SeveralProbesCloseItWhereRequestsAreRare) {
  BreakerPolicy policy = Policy({});
  policy.probes = 3;
  auto breaker = Opened(policy);
  TimePoint now = kStart + 5s;
  for (int i = 0; i < 3; ++i, now += 1min) {
    EXPECT_NE(breaker->view(now).state, BreakerState::kClosed);
    Admit(*breaker, now).Report(Outcome::kSuccess, now + 10ms);
  }
  EXPECT_EQ(breaker->view(now).state, BreakerState::kClosed);

  // One probe succeeded, one never ends: after the probe time all three are sent again.
  breaker = Opened(policy);
  now = kStart + 5s;
  Admit(*breaker, now).Report(Outcome::kSuccess, now);
  now += 1min;
  const Permit lost = Admit(*breaker, now);
  now += 5s;
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(breaker->view(now).state, BreakerState::kHalfOpen);
    Admit(*breaker, now).Report(Outcome::kSuccess, now);
  }
  EXPECT_EQ(breaker->view(now).state, BreakerState::kClosed);
}

TEST(CircuitBreaker, ProbesThatNeverEndAreReplacedAllTogether) {
  BreakerPolicy policy = Policy({});
  policy.probes = 2;
  auto breaker = Opened(policy);
  std::vector<Permit> lost(2), fresh(2);
  for (Permit& probe : lost) ASSERT_EQ(breaker->Acquire(kStart + 5s, &probe), BreakerVerdict::kAllowed);
  EXPECT_EQ(breaker->Acquire(kStart + 9s, &fresh[0]), BreakerVerdict::kOpen);
  for (Permit& probe : fresh) ASSERT_EQ(breaker->Acquire(kStart + 10s, &probe), BreakerVerdict::kAllowed);
  lost[0].Report(Outcome::kFailure, kStart + 10s);
  fresh[0].Report(Outcome::kSuccess, kStart + 10s);
  fresh[1].Report(Outcome::kSuccess, kStart + 10s);
  EXPECT_EQ(breaker->view(kStart + 10s).state, BreakerState::kClosed);
}

TEST(CircuitBreaker, TheSleepWindowGrowsWithEachProbeThatFailsAndIsShortAgainAfterwards) {
  BreakerPolicy policy = Policy({});
  policy.max_sleep_window = 15s;
  auto breaker = Opened(policy);
  TimePoint now = kStart;
  Permit probe;
  for (const Millis window : {5s, 10s, 15s, 15s}) {
    EXPECT_EQ(breaker->RetryAfter(now), window);
    EXPECT_EQ(breaker->Acquire(now + window - 1ms, &probe), BreakerVerdict::kOpen);
    now += window;
    ASSERT_EQ(breaker->Acquire(now, &probe), BreakerVerdict::kAllowed);
    probe.Report(Outcome::kFailure, now);
    probe = Permit();
  }
  now += 15s;
  Admit(*breaker, now).Report(Outcome::kSuccess, now);
  Admit(*breaker, now).Report(Outcome::kFailure, now);
  EXPECT_EQ(breaker->view(now).state, BreakerState::kOpen);
  EXPECT_EQ(breaker->RetryAfter(now), Millis(5s));
}

TEST(CircuitBreaker, AnOperatorsWordGoesBeforeItsOwn) {
  BreakerPolicy policy = Policy({.max_concurrent_requests = 1, .request_volume_threshold = 1});
  policy.force = v1::CircuitBreaker::OPEN;
  auto breaker = std::make_shared<CircuitBreaker>(policy);
  Permit permit;
  EXPECT_EQ(breaker->Acquire(kStart, &permit), BreakerVerdict::kOpen);
  EXPECT_EQ(breaker->Acquire(kStart + 1h, &permit), BreakerVerdict::kOpen) << "no probe either";
  EXPECT_TRUE(breaker->view(kStart).forced);
  EXPECT_EQ(breaker->view(kStart).state, BreakerState::kOpen);

  policy.force = v1::CircuitBreaker::CLOSED;
  breaker->Reconfigure(policy);
  for (int i = 0; i < 10; ++i) Admit(*breaker, kStart).Report(Outcome::kFailure, kStart);
  EXPECT_EQ(breaker->view(kStart).state, BreakerState::kClosed);
  ASSERT_EQ(breaker->Acquire(kStart, &permit), BreakerVerdict::kAllowed);
  Permit second;
  EXPECT_EQ(breaker->Acquire(kStart, &second), BreakerVerdict::kTooMany) << "concurrency is still bounded";
  permit = Permit();

  policy.force = v1::CircuitBreaker::FORCE_UNSPECIFIED;
  breaker->Reconfigure(policy);
  EXPECT_EQ(breaker->Acquire(kStart, &permit), BreakerVerdict::kOpen) << "failures in the meantime count";
}

}  // namespace
}  // namespace gateway::dataplane
