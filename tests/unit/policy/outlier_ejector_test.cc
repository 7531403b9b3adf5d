#include "dataplane/policy/outlier_ejector.h"

#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gateway::dataplane {
namespace {

using namespace std::chrono_literals;
using ::testing::IsEmpty;
using ::testing::SizeIs;

using Result = OutlierEjector::Result;
using Cause = OutlierEjector::Cause;
constexpr TimePoint kNow{1000h};

class OutlierEjectorTest : public ::testing::Test {
 protected:
  void Begin(const OutlierEjector::Options& options, size_t endpoints) {
    ejector_ = std::make_unique<OutlierEjector>(options);
    for (size_t i = 0; i < endpoints; ++i) {
      members_.push_back({"10.0.0." + std::to_string(i) + ":80", std::make_shared<EndpointState>(group_)});
    }
    ejector_->SetMembers(members_);
    ejector_->Tick(now_);
  }
  void Report(size_t endpoint, Result result, int times = 1) {
    for (int i = 0; i < times; ++i) ejector_->Report(members_[endpoint].state.get(), result, now_);
  }
  bool Out(size_t endpoint) const { return members_[endpoint].state->excluded(Exclusion::kEjected); }
  void Pass(std::chrono::milliseconds time) {
    now_ += time;
    ejector_->Tick(now_);
  }

  std::shared_ptr<EndpointGroup> group_ = std::make_shared<EndpointGroup>();
  std::vector<OutlierEjector::Member> members_;
  std::unique_ptr<OutlierEjector> ejector_;
  TimePoint now_ = kNow;
};

TEST_F(OutlierEjectorTest, FailuresInARowEject) {
  Begin({.consecutive_failures = 5, .base_time = 30s}, 2);
  Report(0, Result::kFailure, 4);
  Report(0, Result::kSuccess);
  Report(0, Result::kGatewayFailure, 2);
  Report(0, Result::kFailure, 2);
  EXPECT_FALSE(Out(0)) << "a success restarts the count";
  Report(0, Result::kFailure);
  EXPECT_TRUE(Out(0));
  EXPECT_FALSE(Out(1));
  const auto rows = ejector_->Ejected();
  ASSERT_THAT(rows, SizeIs(1));
  EXPECT_EQ(rows[0].endpoint, "10.0.0.0:80");
  EXPECT_EQ(rows[0].cause, Cause::kFailures);
  EXPECT_EQ(rows[0].count, 5u);
  EXPECT_EQ(rows[0].until, kNow + 30s);
  EXPECT_EQ(ejector_->ejections(), 1u);
}

TEST_F(OutlierEjectorTest, GatewayFailuresAreCountedByThemselves) {
  Begin({.consecutive_failures = 0, .consecutive_gateway_failures = 3}, 2);
  Report(0, Result::kFailure, 100);
  Report(0, Result::kGatewayFailure, 2);
  Report(0, Result::kFailure);
  Report(0, Result::kGatewayFailure, 2);
  EXPECT_FALSE(Out(0)) << "a 500 arrived over a working connection";
  Report(0, Result::kGatewayFailure);
  EXPECT_TRUE(Out(0));
  EXPECT_EQ(ejector_->Ejected()[0].cause, Cause::kGatewayFailures);
}

TEST_F(OutlierEjectorTest, TheTimeDoublesWithEachTimeAndIsForgiven) {
  Begin({.consecutive_failures = 1, .interval = 1h, .base_time = 30s, .max_time = 200s}, 2);
  for (const auto expected : {30s, 60s, 120s, 200s, 200s}) {
    Report(0, Result::kFailure);
    ASSERT_TRUE(Out(0));
    Pass(expected - 1ms);
    EXPECT_TRUE(Out(0)) << expected.count();
    Pass(1ms);
    EXPECT_FALSE(Out(0)) << expected.count();
  }
  for (int i = 0; i < 4; ++i) Pass(1h);
  Report(0, Result::kFailure);
  EXPECT_EQ(ejector_->Ejected()[0].until, now_ + 60s) << "four quiet intervals take back four of five";
}

TEST_F(OutlierEjectorTest, TheLongestTimeHoldsHoweverOftenItWasOut) {
  // The longest values that policy allows: unbounded doubling would overflow within twenty ejections.
  Begin({.consecutive_failures = 1, .interval = 100000h, .base_time = 1s, .max_time = 24h}, 2);
  for (int i = 0; i < 100; ++i) {
    Report(0, Result::kFailure);
    ASSERT_TRUE(Out(0)) << i;
    Pass(24h);
    ASSERT_FALSE(Out(0)) << i;
  }
  Report(0, Result::kFailure);
  EXPECT_EQ(ejector_->Ejected()[0].until, now_ + 24h);
}

TEST_F(OutlierEjectorTest, TickSaysWhenItIsNeededNext) {
  Begin({.consecutive_failures = 1, .interval = 1h, .base_time = 30s}, 2);
  EXPECT_EQ(ejector_->Tick(now_), kNow + 1h);
  Report(0, Result::kFailure);
  EXPECT_EQ(ejector_->Tick(now_), kNow + 30s);
}

TEST_F(OutlierEjectorTest, OneThatReturnsBeginsWithoutFailuresAndWithASlowStart) {
  Begin({.consecutive_failures = 3}, 2);
  Report(0, Result::kFailure, 3);
  Pass(30s);
  EXPECT_FALSE(Out(0));
  EXPECT_EQ(members_[0].state->serving_since(), std::chrono::nanoseconds(now_.time_since_epoch()).count());
  Report(0, Result::kFailure, 2);
  EXPECT_FALSE(Out(0));
}

TEST_F(OutlierEjectorTest, AtMostSoManyAreOutAtOnceButOneAlwaysMayBe) {
  Begin({.consecutive_failures = 1, .max_percent = 30}, 10);
  for (size_t i = 0; i < 10; ++i) Report(i, Result::kFailure);
  EXPECT_THAT(ejector_->Ejected(), SizeIs(3));
  members_.clear();
  Begin({.consecutive_failures = 1, .max_percent = 1}, 2);
  Report(0, Result::kFailure);
  Report(1, Result::kFailure);
  EXPECT_TRUE(Out(0));
  EXPECT_FALSE(Out(1));
}

TEST_F(OutlierEjectorTest, TheOnlyOneStays) {
  Begin({.consecutive_failures = 1}, 1);
  Report(0, Result::kGatewayFailure, 10);
  EXPECT_FALSE(Out(0));
}

TEST_F(OutlierEjectorTest, WhoIsWorseThanItsPeersIsOut) {
  Begin({.consecutive_failures = 0, .stdev_factor = 1.9, .interval = 10s}, 10);
  for (size_t i = 0; i < 10; ++i) {
    Report(i, Result::kSuccess, i == 4 ? 160 : 198);
    Report(i, Result::kFailure, i == 4 ? 40 : 2);
  }
  Pass(9999ms);
  EXPECT_FALSE(Out(4));
  Pass(1ms);
  const auto rows = ejector_->Ejected();
  ASSERT_THAT(rows, SizeIs(1));
  EXPECT_TRUE(Out(4));
  EXPECT_EQ(rows[0].cause, Cause::kSuccessRate);
  EXPECT_EQ(rows[0].count, 80u);
}

TEST_F(OutlierEjectorTest, SuccessRatesNeedVolumeAndPeers) {
  Begin({.consecutive_failures = 0, .stdev_factor = 1.9, .hosts_min = 5, .volume_min = 100}, 5);
  for (size_t i = 0; i < 5; ++i) Report(i, i == 0 ? Result::kFailure : Result::kSuccess, i == 1 ? 99 : 100);
  Pass(10s);
  EXPECT_THAT(ejector_->Ejected(), IsEmpty()) << "four had enough requests";
  for (size_t i = 0; i < 5; ++i) Report(i, Result::kFailure, 100);
  Pass(10s);
  EXPECT_THAT(ejector_->Ejected(), IsEmpty()) << "all fail alike: the service fails, not an endpoint";
  for (size_t i = 0; i < 5; ++i) Report(i, i == 0 ? Result::kFailure : Result::kSuccess, 100);
  Pass(10s);
  EXPECT_THAT(ejector_->Ejected(), SizeIs(1)) << "the previous interval does not count";
}

TEST_F(OutlierEjectorTest, NewMembersAndSettingsKeepWhatIsKnown) {
  Begin({.consecutive_failures = 1}, 4);
  Report(0, Result::kFailure);
  auto fewer = members_;
  fewer.pop_back();
  ejector_->SetMembers(fewer);
  ejector_->Reconfigure({.consecutive_failures = 2, .base_time = 1s});
  EXPECT_THAT(ejector_->Ejected(), SizeIs(1));
  Report(1, Result::kFailure);
  EXPECT_FALSE(Out(1));
  Report(3, Result::kFailure, 2);
  EXPECT_FALSE(Out(3)) << "no longer a member";
  fewer.erase(fewer.begin());
  ejector_->SetMembers(fewer);
  EXPECT_THAT(ejector_->Ejected(), IsEmpty());
}

TEST_F(OutlierEjectorTest, ReleasedWhenNobodyAsksForItAnyMore) {
  Begin({.consecutive_failures = 1}, 4);
  Report(0, Result::kFailure);
  ejector_->ReleaseAll(now_);
  EXPECT_FALSE(Out(0));
}

TEST_F(OutlierEjectorTest, ThreadsReportAtOnce) {
  Begin({.consecutive_failures = 100, .stdev_factor = 1.9, .max_percent = 50}, 4);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) {
        for (size_t e = 0; e < 4; ++e) {
          ejector_->Report(members_[e].state.get(), e < 3 ? Result::kGatewayFailure : Result::kSuccess, kNow);
        }
        if (i % 100 == 0) ejector_->Tick(kNow);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(ejector_->Ejected(), SizeIs(2));
  EXPECT_FALSE(Out(3));
  EXPECT_EQ(members_[3].state->interval_requests, 8000u);
}

}  // namespace
}  // namespace gateway::dataplane
