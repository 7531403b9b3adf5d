#include "dataplane/server/watchdog.h"

#include <memory>
#include <string>
#include <vector>

#include "dataplane/server/worker.h"
#include "dataplane/state/runtime_state.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "prometheus/text_serializer.h"
#include "tests/fixtures/wait_for.h"

namespace gateway::dataplane {
namespace {

using namespace std::chrono_literals;
using fixtures::Event;
using fixtures::WaitFor;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

std::string TextOf(const Watchdog& watchdog) { return prometheus::TextSerializer().Serialize(watchdog.Families()); }

// A watchdog of two workers, checked every 250 ms of its own clock.
class WatchdogTest : public ::testing::Test {
 protected:
  // Runs one check after `later`; the listed workers have turned since the last one.
  std::vector<Watchdog::Change> Check(const std::vector<size_t>& turned, std::chrono::milliseconds later = 250ms) {
    now_ += later;
    for (const size_t each : turned) turns_[each] = now_;
    return watchdog_.Check(now_, turns_);
  }

  Watchdog watchdog_{2, 1s, 250ms};
  TimePoint now_ = TimePoint(1h);
  std::vector<TimePoint> turns_ = {now_, now_};
};

TEST_F(WatchdogTest, KnowsWhenNoWorkerTurns) {
  for (int i = 0; i < 6; ++i) Check({0});
  EXPECT_FALSE(watchdog_.AllStalled());  // the other one is running
  for (int i = 0; i < 6; ++i) Check({});
  EXPECT_TRUE(watchdog_.AllStalled());
  Check({1});
  EXPECT_FALSE(watchdog_.AllStalled());
}

TEST_F(WatchdogTest, TellsAWorkerThatStandsStillOnceAndWhenItIsBack) {
  EXPECT_THAT(Check({0, 1}), IsEmpty());
  for (int i = 0; i < 3; ++i) EXPECT_THAT(Check({1}), IsEmpty()) << i;
  auto changes = Check({1});
  ASSERT_THAT(changes, SizeIs(1));
  EXPECT_EQ(changes[0].worker, 0u);
  EXPECT_TRUE(changes[0].stalled);
  EXPECT_EQ(changes[0].standing, 1s);
  EXPECT_THAT(TextOf(watchdog_), HasSubstr("gateway_worker_stalled{worker=\"0\"} 1\n"));
  EXPECT_THAT(TextOf(watchdog_), HasSubstr("gateway_worker_stalled{worker=\"1\"} 0\n"));
  for (int i = 0; i < 8; ++i) EXPECT_THAT(Check({1}), IsEmpty()) << i;
  changes = Check({0, 1});
  ASSERT_THAT(changes, SizeIs(1));
  EXPECT_EQ(changes[0].worker, 0u);
  EXPECT_FALSE(changes[0].stalled);
  EXPECT_EQ(changes[0].standing, 3s);
  EXPECT_THAT(TextOf(watchdog_), HasSubstr("gateway_worker_stalled{worker=\"0\"} 0\n"));
  EXPECT_THAT(TextOf(watchdog_), HasSubstr("gateway_worker_stalls_total 1\n"));
}

TEST_F(WatchdogTest, APauseOfTheWholeProcessIsNoStall) {
  EXPECT_THAT(Check({0, 1}), IsEmpty());
  EXPECT_THAT(Check({}, 10min), IsEmpty());  // the watchdog itself was not running
  EXPECT_THAT(Check({0, 1}), IsEmpty());
  // A watchdog that is always late still finds a stalled worker, only later.
  int checks = 0;
  while (Check({1}, 5s).empty()) ASSERT_LT(++checks, 10);
  EXPECT_EQ(checks, 1);
}

TEST_F(WatchdogTest, EachWorkerIsWatchedByItself) {
  EXPECT_THAT(Check({0, 1}), IsEmpty());
  Check({0});
  Check({0});
  Check({0});
  EXPECT_THAT(Check({0}), SizeIs(1));
  Check({});
  Check({});
  Check({});
  EXPECT_THAT(Check({}), SizeIs(1));
  EXPECT_THAT(TextOf(watchdog_), HasSubstr("gateway_worker_stalls_total 2\n"));
}

// A worker's loop turns while idle, and stalls while something blocks on it.
TEST(Watchdog, SeesARealWorkerThatIsBlocked) {
  ServerOptions options;
  options.watchdog_timeout = 200ms;
  BufferBudget budget(1 << 20);
  ConnectionCounts counts;
  Worker::Shared shared{&options, &budget, &counts, nullptr, {}};
  MetricsRegistry metrics(1);
  RuntimeState runtime(&metrics);
  Worker worker(0, shared, {}, metrics.shard(0), nullptr, runtime.Bind(nullptr, EndpointTable(), false));
  worker.Start();

  Watchdog watchdog(1, options.watchdog_timeout, 10ms);
  std::vector<Watchdog::Change> changes;
  const auto look = [&] {
    const auto found = watchdog.Check(std::chrono::steady_clock::now(), {worker.loop().last_turn()});
    changes.insert(changes.end(), found.begin(), found.end());
    return changes.size();
  };
  const TimePoint first = worker.loop().last_turn();
  ASSERT_TRUE(WaitFor([&] { return worker.loop().last_turn() > first; }));  // without events

  Event blocked, release;
  worker.loop().Post([&] {
    blocked.Set();
    EXPECT_TRUE(release.Wait());
  });
  ASSERT_TRUE(blocked.Wait());
  // an overloaded machine may have stalled it before
  ASSERT_TRUE(WaitFor([&] { return look() > 0 && changes.back().stalled; }));
  const size_t before = changes.size();
  release.Set();
  ASSERT_TRUE(WaitFor([&] { return look() > before; }));
  EXPECT_FALSE(changes.back().stalled);
  EXPECT_GE(changes.back().standing, options.watchdog_timeout);
}

}  // namespace
}  // namespace gateway::dataplane
